//! `cores debug`: gdb on a core, with the files of the container.
//!
//! Core and files are the tenant's. So gdb runs as a user of nobody's, in a network of its own, without capabilities,
//! and loads nothing that they name: no scripts, no .gdbinit. What is run is printed.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, chown, fchown, linkat, mkdtemp};
use upcall_config::text::{printable, unescape};
use upcalld::store::record::Record;

use super::args::DebugArgs;
use super::{dump, root};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::complain;

/// Users that exist for as long as they are needed (systemd calls them dynamic), and how many they are.
const STRANGERS: (u32, u32) = (61_184, 4_336);

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
    let numbers = std::process::id() % STRANGERS.1;
    let stranger = Uid::effective().is_root() && !asked.trust;
    let stranger = stranger.then_some(STRANGERS.0 + numbers);
    let place = Place::new(stranger)?;
    let core = place.core(context, &record, stored, stranger)?;

    let mut words: Vec<OsString> = Vec::new();
    if let Some(uid) = stranger {
        words.extend(["unshare", "--net", "--ipc", "--", "setpriv"].map(OsString::from));
        words.extend([format!("--reuid={uid}"), format!("--regid={uid}")].map(OsString::from));
        let without = ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
        words.extend(without.map(OsString::from));
        words.extend(["--no-new-privs", "--"].map(OsString::from));
    }
    words.extend(GDB.map(OsString::from));
    // The directory that gdb is in: a link of the tenant's cannot stand in its way.
    let sysroot = match &root {
        Ok(_) => Path::new("/proc/self/cwd"),
        Err(_) => place.0.as_path(),
    };
    words.push("-iex".into());
    words.push(format!("set sysroot {}", sysroot.display()).into());
    words.extend(asked.gdb.iter().cloned());
    let program = root.is_ok().then(|| program(&record)).flatten();
    words.extend(program);
    words.push(["--core=", &core.display().to_string()].concat().into());

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
    let directory = match &root {
        Ok(root) => PathBuf::from(format!("/proc/self/fd/{}", root.directory.as_raw_fd())),
        Err(_) => place.0.clone(),
    };
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

/// A directory of its own for an unpacked core; gone when dropped.
struct Place(PathBuf);

impl Place {
    fn new(owner: Option<u32>) -> Result<Self, Failure> {
        let base =
            std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let template = base.join("upcallctl-XXXXXX");
        let failed = |errno: nix::errno::Errno| Failure::File {
            path: template.clone(),
            source: errno.into(),
        };
        let place = Self(mkdtemp(&template).map_err(failed)?);
        if let Some(id) = owner {
            let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
            chown(&place.0, Some(uid), Some(gid)).map_err(failed)?;
        }
        Ok(place)
    }

    /// Unpacks a core; it has no name before it is whole, so that Ctrl-C leaves nothing of it.
    fn core(
        &self,
        context: &Context,
        record: &Record,
        stored: super::Stored,
        owner: Option<u32>,
    ) -> Result<PathBuf, Failure> {
        let path = self.0.join("core");
        let failed = |source| Failure::File {
            path: path.clone(),
            source,
        };
        let mut options = File::options();
        let unnamed = options.write(true).read(true).mode(0o600);
        let file = unnamed
            .custom_flags(libc::O_TMPFILE)
            .open(&self.0)
            .map_err(failed)?;
        dump::unpack(context, record, stored, &file, &path)?;
        if let Some(id) = owner {
            let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
            fchown(&file, Some(uid), Some(gid)).map_err(|errno| failed(errno.into()))?;
        }
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = AtFlags::AT_SYMLINK_FOLLOW;
        linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, &path, flags)
            .map_err(|errno| failed(errno.into()))?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
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
