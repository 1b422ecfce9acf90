//! What /proc says about a process that dumps, read at once and kept as it was read: when somebody looks at it, the process
//! is long gone.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};
use upcall_helpers::sys;
use upcall_helpers::wire::{NAMESPACES, PROC_FILE_MAX, Request, Seen, Spooled, Why};

/// Everything that is written beside a core.
pub(crate) fn spooled(request: &Request, why: Why, pidfd: Option<&OwnedFd>) -> Option<Spooled> {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let micros = time.map_or(0, |since| since.as_micros());
    Some(Spooled {
        id: request.id?,
        argv: request.argv.clone(),
        started: request.started,
        time: u64::try_from(micros).unwrap_or(0),
        why,
        boot: boot(),
        process: seen(request, pidfd).unwrap_or_default(),
    })
}

fn boot() -> Vec<u8> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = open("/proc/sys/kernel/random/boot_id", flags, Mode::empty());
    let boot = file.and_then(|file| read(&file, 64)).unwrap_or_default();
    boot.trim_ascii_end().to_vec()
}

/// The kernel holds the process while its dump has a reader, but SIGKILL ends it: so its pidfd has the last word.
fn seen(request: &Request, pidfd: Option<&OwnedFd>) -> Result<Seen, Errno> {
    let pid = request.argv.first().map(Vec::as_slice).unwrap_or_default();
    let pid: u32 = str::from_utf8(pid)
        .ok()
        .and_then(|pid| pid.parse().ok())
        .ok_or(Errno::EINVAL)?;
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
    let directory = open(format!("/proc/{pid}").as_str(), flags, Mode::empty())?;
    let file = |name: &str| {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = openat(&directory, name, flags, Mode::empty());
        file.and_then(|file| read(&file, PROC_FILE_MAX))
            .unwrap_or_default()
    };
    let mut seen = Seen {
        proven: false,
        stat: file("stat"),
        status: file("status"),
        cgroup: file("cgroup"),
        exe: readlinkat(&directory, "exe")
            .map(OsStringExt::into_vec)
            .unwrap_or_default(),
        namespaces: [0; 8],
    };
    for (inode, (name, _)) in seen.namespaces.iter_mut().zip(NAMESPACES) {
        let path = format!("ns/{name}");
        let flags = nix::fcntl::AtFlags::empty();
        *inode = fstatat(&directory, path.as_str(), flags).map_or(0, |stat| stat.st_ino);
    }
    let alive = |pidfd: &OwnedFd| sys::pidfd_send_signal(pidfd.as_fd(), 0).is_ok();
    seen.proven = pidfd.is_some_and(alive);
    Ok(seen)
}

/// A whole file, or nothing of a longer one.
fn read(file: &OwnedFd, max: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; max];
    let mut length = 0;
    while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match nix::unistd::read(file, rest)? {
            0 => {
                bytes.truncate(length);
                return Ok(bytes);
            }
            more => length += more,
        }
    }
    Err(Errno::EFBIG)
}
