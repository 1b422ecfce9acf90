//! `cores debug`: gdb on a core, with the files of the container.
//!
//! Core and files are the tenant's. So gdb runs as a user of nobody's, in a network and among processes of its own,
//! without capabilities, our keys or our open files, and types nothing into the terminal that it shares with us. It loads
//! nothing that they name: no scripts, no .gdbinit. What is run is printed.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, fchown};
use upcall_config::text::{printable, unescape};
use upcalld::linux::confine::confine_children;
use upcalld::linux::stranger;
use upcalld::store::record::Record;

use super::args::DebugArgs;
use super::dump::Room;
use super::{dump, root};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::complain;

/// What becomes of root before gdb: a process of nobody's that sees no other and reaches no network.
const STRANGER: [&str; 7] = [
    "unshare",
    "--net",
    "--ipc",
    "--pid",
    "--fork",
    "--mount-proc",
    "--",
];

/// The debugger, and what keeps it from doing what a core or a file says.
const GDB: [&str; 7] = [
    "gdb",
    "-q",
    "-nx",
    "-iex",
    "set auto-load off",
    "-iex",
    "set debuginfod enabled off",
];

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &DebugArgs) -> Result<(), Failure> {
    let record = super::record(context, &asked.id)?;
    let stored = super::open(context, &record)?;
    let root = root::of(context, &record, asked.sysroot.as_deref());
    let stranger = Uid::effective().is_root() && !asked.trust;
    let none = || Failure::Odd("every user id of nobody's is taken".to_owned());
    let unused = stranger.then(|| stranger::unused().ok_or_else(none));
    let stranger = unused.transpose()?;
    let core = unpacked(context, &record, stored, stranger)?;

    let mut words: Vec<OsString> = Vec::new();
    if let Some(uid) = stranger {
        words.extend(STRANGER.map(OsString::from));
        words.push("setpriv".into());
        words.extend([format!("--reuid={uid}"), format!("--regid={uid}")].map(OsString::from));
        let without = ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
        words.extend(without.map(OsString::from));
        words.extend(["--no-new-privs", "--"].map(OsString::from));
    }
    words.extend(GDB.map(OsString::from));
    // The directory that gdb is in: a link of the tenant's cannot stand in its way. The other name is nothing's.
    let (sysroot, directory) = match &root {
        Ok(root) => {
            let directory = format!("/proc/self/fd/{}", root.directory.as_raw_fd());
            ("/proc/self/cwd", PathBuf::from(directory))
        }
        Err(_) => ("/nonexistent", PathBuf::from("/")),
    };
    words.push("-iex".into());
    words.push(format!("set sysroot {sysroot}").into());
    words.extend(asked.gdb.iter().cloned());
    let program = root.is_ok().then(|| program(&record)).flatten();
    words.extend(program);
    words.push(format!("--core=/proc/self/fd/{}", core.as_raw_fd()).into());

    match &root {
        Ok(root) => complain(&format!("files from  {}\n", printable(&root.whose))),
        Err(why) => complain(&format!(
            "files from  nowhere: {}; --sysroot DIR has them\n",
            printable(why)
        )),
    }
    complain(&match stranger {
        Some(uid) => format!(
            "gdb         as uid {uid}, which is nobody's, without network, auto-load off (--trust: as yourself)\n"
        ),
        None => {
            "gdb         as yourself, auto-load off; core and files are the tenant's\n".to_owned()
        }
    });
    complain(&format!("run         {}\n", shown(&words)));
    if stranger.is_some() {
        confine_children(core.as_fd()).map_err(|error| Failure::Odd(error.to_string()))?;
    } else {
        let kept = fcntl(&core, FcntlArg::F_SETFD(FdFlag::empty()));
        kept.map_err(|errno| Failure::Odd(errno.to_string()))?;
    }
    start(&words, &directory)
}

/// Runs gdb to its end.
#[expect(
    clippy::disallowed_methods,
    reason = "the admin asked for it, and sees what is run"
)]
fn start(words: &[OsString], directory: &Path) -> Result<(), Failure> {
    let [program, words @ ..] = words else {
        return Ok(());
    };
    let mut command = Command::new(program);
    command.args(words).current_dir(directory).env_clear();
    command.env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    for name in ["TERM", "LANG", "LC_ALL", "COLUMNS", "LINES"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let mut child = command.spawn().map_err(|source| Failure::File {
        path: PathBuf::from(program),
        source,
    })?;
    // What is typed is for gdb; the core is taken away when it has ended.
    let typed = [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ];
    let _ = typed.into_iter().collect::<SigSet>().thread_block();
    let status = child.wait().map_err(|source| Failure::File {
        path: PathBuf::from(program),
        source,
    })?;
    if status.success() {
        Ok(())
    } else if status.code() == Some(127) {
        Err(Failure::Odd(
            "gdb is not installed: apt-get install gdb".to_owned(),
        ))
    } else {
        Err(Failure::Odd(format!("gdb: {status}")))
    }
}

/// Unpacks a core into a file without a name, which ends with us and with gdb.
fn unpacked(
    context: &Context,
    record: &Record,
    stored: super::Stored,
    owner: Option<u32>,
) -> Result<File, Failure> {
    let base = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let failed = |source| Failure::File {
        path: base.clone(),
        source,
    };
    let file = dump::unnamed(&base).map_err(failed)?;
    dump::unpack(context, record, stored, &file, (&base, Room::Kept))?;
    if let Some(id) = owner {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        fchown(&file, Some(uid), Some(gid)).map_err(|errno| failed(errno.into()))?;
    }
    Ok(file)
}

/// The program that crashed, below where gdb is; its path is the tenant's word, and one word of gdb's command.
fn program(record: &Record) -> Option<OsString> {
    let exe = unescape(record.process.exe.as_deref()?)?;
    let plain = exe.starts_with(b"/") && !exe.contains(&0);
    plain.then(|| OsString::from_vec([&b"/proc/self/cwd"[..], &exe].concat()))
}

/// Words as one would type them.
fn shown(words: &[OsString]) -> String {
    let word = |word: &OsString| {
        let word = word.to_string_lossy();
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:+@".contains(c);
        if !word.is_empty() && word.chars().all(safe) {
            word.into_owned()
        } else {
            format!("'{}'", printable(&word.replace('\'', r"'\''")))
        }
    };
    let words: Vec<String> = words.iter().map(word).collect();
    words.join(" ")
}
