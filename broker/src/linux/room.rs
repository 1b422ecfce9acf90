//! Whether this process has descriptors left: for want of them a container is not found, and a core not kept.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::eventfd::EventFd;

/// As many as it takes to look at a process and at the init of its container, and some more.
const TO_LOOK: i32 = 40;

/// As many as it takes to keep a core.
const TO_KEEP: i32 = 8;

/// That there are as many descriptors free as are needed further on. Where no container was found, that is as many as
/// whoever looks for one needs: to the rules somebody without a container is not one whose container could not be looked
/// for.
///
/// # Errors
/// `EMFILE`, `ENFILE`: there are not.
pub fn is_there(found: bool) -> Result<(), Errno> {
    let wanted = if found { TO_KEEP } else { TO_LOOK };
    let first = EventFd::new().map(OwnedFd::from)?;
    let Some(open) = open_ones()? else {
        return take(&first, wanted - 1);
    };
    // The lowest from so many on: refused where the limit is not above it (fcntl(2)).
    let last = fcntl(&first, FcntlArg::F_DUPFD_CLOEXEC(open + wanted - 2));
    let last = last.map_err(|errno| {
        if errno == Errno::EINVAL {
            Errno::EMFILE
        } else {
            errno
        }
    })?;
    nix::unistd::close(last)
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

    /// Leaves this process so many that it may still open: each test is one of its own.
    fn leave(free: u64) {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let open = u64::try_from(open).unwrap() - 1; // the directory's own
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, open + free, most).unwrap();
    }

    #[test]
    fn there_is_room_for_as_many_as_are_wanted_and_not_for_one_less() {
        leave(40);
        is_there(false).unwrap();
        let first = EventFd::new().map(OwnedFd::from).unwrap();
        take(&first, 39).unwrap();
        drop(first);
        leave(39);
        assert_eq!(is_there(false).unwrap_err(), Errno::EMFILE);
        is_there(true).unwrap();
    }
}
