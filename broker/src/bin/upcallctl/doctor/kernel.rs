//! What the kernel has, and how it is set.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;
use upcall_config::capability;

use super::finding::Finding;
use super::host::{Host, Text};
use super::sysctl_d;

/// Records that are looked at for how processes were identified.
const RECORDS: usize = 100;

/// The most of the kernel's log that is read.
const LOG_MAX: usize = 16 << 20;

/// How many dumps the kernel gives to programs at once, and whether it waits for them.
pub(super) fn pipe_limit(host: &Host<'_>) -> Finding {
    const NAME: &str = "core_pipe_limit";
    let limit = match host.sysctl.read() {
        Ok(standing) if standing.pattern.is_of(&host.context.hooks) => standing.pipe_limit,
        Ok(_) => return Finding::ok(NAME, "it counts while the hook is ours"),
        Err(error) => return Finding::unknown(NAME, error.to_string()),
    };
    let concurrent = u64::from(host.settings().limits.concurrent);
    let what = format!("kernel.core_pipe_limit is {limit}");
    let install = host.context.typed("install core");
    if limit == 0 {
        return Finding::error(NAME, what)
            .why("the kernel does not wait for who reads a core: the process may be gone before it is identified, a container's namespaces before its helper is there")
            .cure(format!("sysctl kernel.core_pipe_limit=1024, or {install}"));
    }
    if limit < concurrent {
        return Finding::warning(NAME, format!("{what}, limits.concurrent is {concurrent}"))
            .why("dumps beyond it are skipped by the kernel, with a line in dmesg alone")
            .cure(format!("sysctl kernel.core_pipe_limit=1024, or {install}"));
    }
    Finding::ok(NAME, what)
}

/// Whether the kernel says by pidfd who crashed (`%F`). Nothing but a crash shows it.
pub(super) fn pidfd(host: &Host<'_>) -> Finding {
    const NAME: &str = "%F";
    let records = host.context.records();
    let entries = match records.entries() {
        Ok(entries) => entries,
        Err(error) => return Finding::unknown(NAME, error.to_string()),
    };
    let mut newest = entries.iter().rev().take(RECORDS);
    let found = newest.find_map(|entry| records.read(entry)?.evidence.process);
    match found.as_deref() {
        Some("kernel_pidfd") => Finding::ok(NAME, "the kernel gives a pidfd of who crashed"),
        Some(_) => Finding::warning(NAME, "this kernel's core_pattern knows no %F")
            .why("who crashed is known by number and everything comparable; a number is used again when its process is gone, so doubtful crashes are handled on the host only")
            .cure("a kernel with it: 6.16, or a stable kernel that has it, as Debian 12's and 13's"),
        None => Finding::unknown(NAME, "no crash was recorded yet that would show whether the kernel gives a pidfd"),
    }
}

/// Whether the kernel starts its helpers without this capability.
pub(super) fn lacks(host: &Host<'_>, capability: &str) -> bool {
    bset_lacks(host).is_ok_and(|missing| missing.iter().any(|name| name == capability))
}

/// Capabilities that the kernel starts its helpers without.
fn bset_lacks(host: &Host<'_>) -> Result<Vec<String>, String> {
    const PATH: &str = "proc/sys/kernel/usermodehelper/bset";
    let text = match host.read(PATH) {
        Text::Is(text) => text,
        Text::None => return Err(format!("/{PATH} is not there")),
        Text::Closed(why) => return Err(why),
    };
    let mut halves = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(low)), Some(Ok(high))) = (halves.next(), halves.next()) else {
        return Err(format!("/{PATH} is {text:?}"));
    };
    let last = host.read("proc/sys/kernel/cap_last_cap").ok();
    let last = last.and_then(|last| last.trim().parse().ok());
    let all = all_up_to(last.unwrap_or(capability::COUNT - 1));
    Ok(capability::names(all & !(high << 32 | low)))
}

/// With what the kernel starts its helpers.
pub(super) fn bset(host: &Host<'_>) -> Finding {
    const NAME: &str = "bset";
    let missing = match bset_lacks(host) {
        Ok(missing) if missing.is_empty() => {
            return Finding::ok(NAME, "the kernel's helpers have all capabilities");
        }
        Ok(missing) => missing,
        Err(why) => return Finding::unknown(NAME, why),
    };
    let line = sysctl_d::last(host, "kernel.usermodehelper.bset");
    let by = line.map_or_else(
        || "a program that ran since the boot".to_owned(),
        |line| line.place(),
    );
    Finding::warning(NAME, format!("kernel.usermodehelper.bset lacks {}", missing.join(" ")))
        .why("every program that the kernel starts lacks them. upcall-shim only passes a core on, and helpers are started by upcalld's launcher, so crashes are not affected; modprobe and request-key may be")
        .cure(format!("it can only shrink until the next boot; what lowers it: {by}"))
}

/// A set of all capabilities up to one.
fn all_up_to(last: usize) -> u64 {
    u64::MAX >> (63_usize.saturating_sub(last)).min(63)
}

/// Whether the kernel can start helpers at all: from 7.3 on they get a copy of PID 1's root and working directory, and
/// none if PID 1 has made its own private (fs/fs_struct.c).
pub(super) fn pid1(host: &Host<'_>) -> Finding {
    const NAME: &str = "pid1-fs";
    let log = match kernel_log(host) {
        Ok(log) => log,
        Err(error) => {
            let why = upcalld::hooks::errno_name(&error);
            return Finding::unknown(NAME, format!("/dev/kmsg: {why}"));
        }
    };
    if log.contains("Pid 1 stopped sharing filesystem state") {
        return Finding::error(NAME, "PID 1 stopped sharing its file system state with the kernel")
            .why("from then on every program that the kernel wants to start fails: no crash, no key, no module arrives")
            .cure("boot again; what did it ran as PID 1 and called unshare(2) or setns(2): report it to your init's makers");
    }
    Finding::ok(NAME, "the kernel can start helpers")
}

/// What the kernel's log holds now; reading stops where one would have to wait.
fn kernel_log(host: &Host<'_>) -> std::io::Result<String> {
    let mut options = File::options();
    let mut file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(host.path("dev/kmsg"))?;
    let mut log = Vec::new();
    let mut record = [0; 8192];
    while log.len() < LOG_MAX {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(count) => log.extend_from_slice(record.get(..count).unwrap_or_default()),
            // What was to be read was overwritten meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// Whether processes that change their ids can be traced.
pub(super) fn suid_dumpable(host: &Host<'_>) -> Finding {
    const NAME: &str = "suid_dumpable";
    match host.read("proc/sys/fs/suid_dumpable") {
        Text::Is(text) if text.trim() == "1" => Finding::error(NAME, "fs.suid_dumpable is 1")
            .why("a process on its way into a container could be traced from inside; so nobody is sent there, and every `run` in a container fails")
            .cure("sysctl fs.suid_dumpable=0, or 2; and find who sets it: grep -rs suid_dumpable /etc /usr/lib/sysctl.d"),
        Text::Is(text) => Finding::ok(NAME, format!("fs.suid_dumpable is {}", text.trim())),
        Text::None => Finding::unknown(NAME, "fs.suid_dumpable is not there"),
        Text::Closed(why) => Finding::unknown(NAME, why),
    }
}

/// Which hierarchies of cgroups there are.
pub(super) fn cgroups(host: &Host<'_>) -> Finding {
    const NAME: &str = "cgroups";
    let lines = match host.read("proc/self/cgroup") {
        Text::Is(text) => text,
        Text::None => return Finding::unknown(NAME, "/proc/self/cgroup is not there"),
        Text::Closed(why) => return Finding::unknown(NAME, why),
    };
    let unified = lines.lines().any(|line| line.starts_with("0::"));
    let v1 = lines
        .lines()
        .filter(|line| !line.starts_with("0::"))
        .count();
    match (unified, v1) {
        (true, 0) => Finding::ok(NAME, "cgroup2 alone"),
        (true, _) => Finding::warning(NAME, format!("cgroup2 beside {v1} hierarchies of cgroup v1"))
            .why("helpers are put into a container's v1 cgroups one after the other before they are inside, and a container frozen by v1 cannot be helped")
            .cure("boot with systemd.unified_cgroup_hierarchy=1 when nothing on this host needs cgroup v1"),
        (false, _) => Finding::error(NAME, "this kernel has no cgroup2")
            .why("helpers are born in a cgroup2 cgroup of their own and ended by it; upcalld does not start without")
            .cure("a kernel with CONFIG_CGROUPS, booted without cgroup_no_v1=named or cgroup_disable"),
    }
}

/// Which security modules label containers' processes.
pub(super) fn labels(host: &Host<'_>) -> Finding {
    const NAME: &str = "lsm";
    let active = match host.read("sys/kernel/security/lsm") {
        Text::Is(text) => text,
        Text::None => String::new(),
        Text::Closed(why) => return Finding::unknown(NAME, why),
    };
    let found = active
        .trim()
        .split(',')
        .find(|name| ["apparmor", "selinux"].contains(name));
    match found {
        Some(name) => Finding::ok(NAME, format!("{name}: helpers get their container's label")),
        None => Finding::unknown(
            NAME,
            "neither AppArmor nor SELinux is active, so it could not be tried whether helpers get the container's label",
        ),
    }
}
