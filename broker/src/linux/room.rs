//! Whether this process was refused what it takes to look at somebody: descriptors, the kernel's memory. For want of them a
//! container is not found, and to the rules somebody without a container is not one whose container could not be looked for.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::eventfd::EventFd;

/// As many as it takes to keep a core.
const TO_KEEP: i32 = 8;

/// How often this process was refused something.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// By which error the last time.
static LAST: AtomicI32 = AtomicI32::new(0);

/// An error of a system call.
pub trait Failed {
    /// Its number.
    fn number(&self) -> Option<i32>;
}

impl Failed for Errno {
    fn number(&self) -> Option<i32> {
        Some(*self as i32)
    }
}

impl Failed for std::io::Error {
    fn number(&self) -> Option<i32> {
        self.raw_os_error()
    }
}

/// Whether an error says that there is nothing left, and nothing about what was asked for.
pub fn is_want<E: Failed>(error: &E) -> bool {
    let number = error.number().unwrap_or(0);
    [libc::EMFILE, libc::ENFILE, libc::ENOMEM].contains(&number)
}

/// Passes an error on, and counts it where it says that there is nothing left. What is opened on the way to a decision is
/// opened through this: further up an error may be as good as "not there".
pub fn noted<E: Failed>(error: E) -> E {
    if is_want(&error) {
        LAST.store(error.number().unwrap_or(0), Ordering::Relaxed);
        REFUSED.fetch_add(1, Ordering::Release);
    }
    error
}

/// From when on it counts that something was refused.
#[derive(Debug)]
pub struct Room(u64);

impl Room {
    /// From now on.
    pub fn watch() -> Self {
        Self(REFUSED.load(Ordering::Acquire))
    }

    /// That nothing was refused since, to anybody in this process, and that there are descriptors for what comes next.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`: what was refused.
    pub fn was_there(&self) -> Result<(), Errno> {
        if REFUSED.load(Ordering::Acquire) != self.0 {
            return Err(Errno::from_raw(LAST.load(Ordering::Relaxed)));
        }
        let first = EventFd::new().map(OwnedFd::from)?;
        let Some(open) = open_ones()? else {
            return take(&first, TO_KEEP - 1);
        };
        // The lowest from so many on: refused where the limit is not above it (fcntl(2)).
        let last = fcntl(&first, FcntlArg::F_DUPFD_CLOEXEC(open + TO_KEEP - 2));
        let last = last.map_err(|errno| {
            if errno == Errno::EINVAL {
                Errno::EMFILE
            } else {
                errno
            }
        })?;
        nix::unistd::close(last)
    }
}

/// How many descriptors are open; not before 6.2, where the directory's size is 0 (fs/proc/fd.c, `proc_fd_getattr`).
fn open_ones() -> Result<Option<i32>, Errno> {
    let open = nix::sys::stat::stat("/proc/self/fd")?.st_size;
    Ok(i32::try_from(open).ok().filter(|open| *open > 0))
}

/// Takes so many more for a moment.
fn take(first: &OwnedFd, more: i32) -> Result<(), Errno> {
    let errno =
        |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EMFILE));
    let held = (0..more).map(|_| first.try_clone().map_err(errno));
    held.collect::<Result<Vec<_>, _>>().map(drop)
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;
    use crate::linux::procdir::ProcDir;

    /// Leaves this process so many that it may still open: each test is one of its own.
    fn leave(free: u64) {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let open = u64::try_from(open).unwrap() - 1; // the directory's own
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, open + free, most).unwrap();
    }

    #[test]
    fn there_is_room_for_as_many_as_are_wanted_and_not_for_one_less() {
        leave(8);
        let room = Room::watch();
        room.was_there().unwrap();
        let first = EventFd::new().map(OwnedFd::from).unwrap();
        take(&first, 7).unwrap();
        drop(first);
        leave(7);
        assert_eq!(room.was_there().unwrap_err(), Errno::EMFILE);
    }

    #[test]
    fn what_was_refused_once_was_refused_whatever_there_is_by_now() {
        let (before, room) = (Room::watch(), Room::watch());
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 0, most).unwrap();
        ProcDir::open(1).unwrap_err();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        assert_eq!(room.was_there().unwrap_err(), Errno::EMFILE);
        assert_eq!(before.was_there().unwrap_err(), Errno::EMFILE);
        // Another look is another matter; and what is not there was not refused.
        let room = Room::watch();
        assert_eq!(ProcDir::open(0).unwrap_err(), Errno::ENOENT);
        room.was_there().unwrap();
    }
}
