//! upcall-probe: a helper that says what it can see of itself.
//!
//! It reads its standard input to the end and prints one line of JSON ([`upcall_e2e::report::Report`]). Static, so
//! that it runs in any root; it asks the kernel and not /proc, so that it says the same where there is no /proc.
//! Words of its own: `--core=FILE` keeps its input there, `--to=FILE` writes the line there too, `--look=PATH` says
//! whether a path is there.

#![no_main]

mod sys;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{Mode, fstat, umask};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use nix::unistd;
use upcall_e2e::report::{Capabilities, Hash, Report};

/// Kinds of namespaces, and the kernel's numbers of `PIDFD_GET_*_NAMESPACE` (linux/pidfd.h, 6.11).
const NAMESPACES: [(&str, u8); 8] = [
    ("cgroup", 1),
    ("ipc", 2),
    ("mnt", 3),
    ("net", 4),
    ("pid", 5),
    ("time", 7),
    ("user", 9),
    ("uts", 10),
];

/// Descriptors below this are looked at.
const DESCRIPTORS: u32 = 4096;

/// The whole program; `main` is in [`sys`].
fn run() -> i32 {
    let report = look();
    let Ok(mut line) = serde_json::to_vec(&report) else {
        return 3;
    };
    line.push(b'\n');
    if let Some(path) = word(&report.argv, "--to=")
        && std::fs::write(path, &line).is_err()
    {
        return 4;
    }
    match std::io::stdout().write_all(&line) {
        Ok(()) => 0,
        Err(_) => 5,
    }
}

fn look() -> Report {
    // Before anything is opened.
    let descriptors = descriptors();
    let argv: Vec<String> = std::env::args_os().map(lossy).collect();
    let mut env: Vec<String> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}", lossy(name), lossy(value)))
        .collect();
    env.sort();
    let (stdin_bytes, stdin_hash) = drain(word(&argv, "--core="));
    let (uid, gid) = ids();
    let seen = argv
        .iter()
        .filter_map(|word| word.strip_prefix("--look="))
        .map(|path| (path.to_owned(), std::fs::symlink_metadata(path).is_ok()))
        .collect();
    let root = std::fs::metadata("/").map_or([0; 2], |meta| [meta.dev(), meta.ino()]);
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let oom = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
    Report {
        env,
        stdin_bytes,
        stdin_hash: stdin_hash.to_string(),
        uid,
        gid,
        groups: groups(),
        capabilities: capabilities(),
        securebits: sys::prctl(libc::PR_GET_SECUREBITS, 0, 0),
        no_new_privs: sys::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0),
        seccomp: sys::prctl(libc::PR_GET_SECCOMP, 0, 0),
        dumpable: sys::prctl(libc::PR_GET_DUMPABLE, 0, 0),
        parent_death_signal: sys::parent_death_signal(),
        timer_slack: sys::prctl(libc::PR_GET_TIMERSLACK, 0, 0),
        namespaces: namespaces(),
        descriptors,
        cwd: std::env::current_dir()
            .map_or_else(|error| error.to_string(), |path| path.display().to_string()),
        root,
        has_proc: !cgroup.is_empty(),
        cgroup: cgroup.lines().map(str::to_owned).collect(),
        limits: limits(),
        blocked: format!("{:x}", sys::blocked_signals()),
        ignored: format!("{:x}", sys::ignored_signals()),
        umask: mask(),
        pid: unistd::getpid().as_raw(),
        parent: unistd::getppid().as_raw(),
        group: unistd::getpgrp().as_raw(),
        session: unistd::getsid(None).map_or(-1, unistd::Pid::as_raw),
        nice: sys::niceness(),
        scheduler: sys::scheduler(),
        oom_score_adj: oom.and_then(|text| text.trim().parse().ok()),
        terminal: std::fs::File::open("/dev/tty")
            .map_or_else(|error| name(&error), |_| "a terminal".to_owned()),
        refused: sys::refused(),
        argv,
        seen,
    }
}

/// The value of an option.
fn word<'a>(argv: &'a [String], option: &str) -> Option<&'a str> {
    argv.iter().find_map(|word| word.strip_prefix(option))
}

/// Standard input to its end, kept in a file where there is to be one.
fn drain(to: Option<&str>) -> (u64, Hash) {
    let mut file = to.and_then(|path| std::fs::File::create(path).ok());
    let (mut bytes, mut hash) = (0, Hash::default());
    let mut buffer = vec![0; 64 * 1024];
    let mut stdin = std::io::stdin().lock();
    while let Ok(length @ 1..) = stdin.read(&mut buffer) {
        let Some(part) = buffer.get(..length) else {
            break;
        };
        hash.add(part);
        if let Some(file) = &mut file {
            drop(file.write_all(part));
        }
        bytes += u64::try_from(length).unwrap_or(0);
    }
    (bytes, hash)
}

fn ids() -> ([u32; 4], [u32; 4]) {
    let [fs_uid, fs_gid] = sys::file_system_ids();
    let uid = unistd::getresuid().map_or([u32::MAX; 4], |ids| {
        [
            ids.real.as_raw(),
            ids.effective.as_raw(),
            ids.saved.as_raw(),
            fs_uid,
        ]
    });
    let gid = unistd::getresgid().map_or([u32::MAX; 4], |ids| {
        [
            ids.real.as_raw(),
            ids.effective.as_raw(),
            ids.saved.as_raw(),
            fs_gid,
        ]
    });
    (uid, gid)
}

fn groups() -> Vec<u32> {
    let mut groups: Vec<u32> = unistd::getgroups()
        .unwrap_or_default()
        .into_iter()
        .map(unistd::Gid::as_raw)
        .collect();
    groups.sort_unstable();
    groups
}

fn capabilities() -> Capabilities {
    let [effective, permitted, inheritable] =
        upcall_helpers::sys::capabilities().unwrap_or_default();
    let one_by_one = |option: i32, argument: &dyn Fn(u64) -> (u64, u64)| {
        (0..64_u64).fold(0_u64, |mask, capability| {
            let (first, second) = argument(capability);
            let held = sys::prctl(option, first, second) == 1;
            mask | u64::from(held) << capability
        })
    };
    let is_set = u64::from(libc::PR_CAP_AMBIENT_IS_SET.cast_unsigned());
    let hex = |mask: u64| format!("{mask:x}");
    Capabilities {
        effective: hex(effective),
        permitted: hex(permitted),
        inheritable: hex(inheritable),
        bounding: hex(one_by_one(libc::PR_CAPBSET_READ, &|capability| {
            (capability, 0)
        })),
        ambient: hex(one_by_one(libc::PR_CAP_AMBIENT, &|capability| {
            (is_set, capability)
        })),
    }
}

fn namespaces() -> BTreeMap<String, u64> {
    let own = u32::try_from(unistd::getpid().as_raw()).unwrap_or(0);
    let pidfd: Option<OwnedFd> = upcall_helpers::sys::pidfd_open(own).ok();
    let inode = |name: &str, kind: u8| -> Option<u64> {
        let by_pidfd = pidfd
            .as_ref()
            .and_then(|pidfd| sys::namespace(pidfd, kind).ok())
            .and_then(|fd| fstat(&fd).ok())
            .map(|stat| stat.st_ino);
        // A kernel without these requests; a /proc may be anybody's invention.
        by_pidfd.or_else(|| {
            let path = format!("/proc/self/ns/{name}");
            let real = statfs(path.as_str()).ok()?.filesystem_type() == NSFS_MAGIC;
            real.then(|| std::fs::metadata(path).ok().map(|meta| meta.ino()))?
        })
    };
    NAMESPACES
        .into_iter()
        .filter_map(|(name, kind)| Some((name.to_owned(), inode(name, kind)?)))
        .collect()
}

fn descriptors() -> BTreeMap<u32, String> {
    (0..DESCRIPTORS)
        .filter_map(|number| Some((number, sys::descriptor(number.cast_signed())?)))
        .collect()
}

fn limits() -> Vec<[String; 2]> {
    let text = |value: u64| {
        if value == u64::MAX {
            "-".to_owned()
        } else {
            value.to_string()
        }
    };
    (0..16)
        .filter_map(|number| upcall_helpers::sys::rlimit(number).ok())
        .map(|(soft, hard)| [text(soft), text(hard)])
        .collect()
}

fn mask() -> String {
    let mask = umask(Mode::empty());
    umask(mask);
    format!("{:03o}", mask.bits())
}

fn lossy(text: impl AsRef<std::ffi::OsStr>) -> String {
    text.as_ref().to_string_lossy().into_owned()
}

fn name(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |number| format!("{:?}", nix::errno::Errno::from_raw(number)),
    )
}
