//! A process, held: its pidfd and, for reading /proc, its number.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use upcall_helpers::sys as calls;
use upcall_helpers::wire::WaitStatus;

use super::parse;
use super::room::noted;
use super::sys;

/// How long a process that has ended is waited for to be reaped, in milliseconds.
const REAPED_WITHIN: u32 = 20;

/// One process, from first touch to last. Comparing numbers compares nothing: they are used again.
#[derive(Debug)]
pub struct PidRef {
    pid: u32,
    fd: OwnedFd,
}

/// The process is not there any more; whatever was read of its number may have been another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process is gone")]
pub struct Gone;

impl PidRef {
    /// Opens the process that has this number *now*.
    ///
    /// # Errors
    /// `ESRCH` where there is none.
    pub fn open(pid: u32) -> Result<Self, Errno> {
        Ok(Self {
            pid,
            fd: calls::pidfd_open(pid).map_err(noted)?,
        })
    }

    /// Takes a pidfd that the kernel or a peer gave us, and asks it for its number.
    ///
    /// # Errors
    /// `ESRCH` where the process was reaped; `EBADF` where this is no pidfd.
    pub fn from_pidfd(fd: OwnedFd) -> Result<Self, Errno> {
        let pid = match sys::pidfd_info(fd.as_fd()) {
            Ok(info) => info.pid,
            Err(Errno::ESRCH) => return Err(Errno::ESRCH),
            // Before 6.13: /proc says it, -1 for a process that was reaped.
            Err(_) => number_of(&fd)?,
        };
        Ok(Self { pid, fd })
    }

    /// A pidfd, and the number that the kernel has told of the same process beside it; [`PidRef::verify`] says whether it
    /// still has that.
    pub fn told(fd: OwnedFd, pid: u32) -> Self {
        Self { pid, fd }
    }

    /// The same process, held once more.
    ///
    /// # Errors
    /// As dup(2).
    pub fn try_clone(&self) -> Result<Self, Errno> {
        let fd = self.fd.try_clone().map_err(|_| noted(Errno::EMFILE))?;
        Ok(Self { pid: self.pid, fd })
    }

    /// The number in our pid namespace. Good for one look into /proc, if [`PidRef::verify`] follows it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The pidfd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The pidfd alone, for whoever makes a reference of it again.
    pub fn into_pidfd(self) -> OwnedFd {
        self.fd
    }

    /// Asks whether the process still has its number, so that what was read under it was its own. A zombie has it
    /// too.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn verify(&self) -> Result<(), Gone> {
        calls::pidfd_send_signal(self.fd(), 0).map_err(|_| Gone)
    }

    /// Whether it has ended, reaped or not (pidfd_open(2): readable from then on).
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(1)
    }

    /// Waits for its end, for as long as that takes; `None` where the kernel does not say how it ended, which it does
    /// from 6.15 on, once the parent has taken its leave.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub async fn ended(&self) -> std::io::Result<Option<WaitStatus>> {
        let fd = sys::watch(self.fd.try_clone()?)?;
        drop(fd.readable().await?);
        for _ in 0..REAPED_WITHIN {
            match sys::pidfd_exit(self.fd()) {
                Err(Errno::EAGAIN) => tokio::time::sleep(Duration::from_millis(1)).await,
                ended => return Ok(ended.ok()),
            }
        }
        Ok(None)
    }
}

/// The `Pid:` line of /proc/self/fdinfo/N (proc_pid_fdinfo(5)).
fn number_of(fd: &OwnedFd) -> Result<u32, Errno> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = std::fs::read(path)
        .map_err(noted)
        .map_err(|_| Errno::EBADF)?;
    match parse::field(&text, b"Pid").and_then(parse::signed) {
        Some(-1) => Err(Errno::ESRCH),
        Some(pid) => u32::try_from(pid).map_err(|_| Errno::EBADF),
        None => Err(Errno::EBADF),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_finds_its_own_number_and_only_its_own_process() {
        let own = PidRef::open(std::process::id()).unwrap();
        let again = PidRef::from_pidfd(calls::pidfd_open(std::process::id()).unwrap()).unwrap();
        assert_eq!(again.pid(), std::process::id());
        assert!(own.verify().is_ok() && again.verify().is_ok());
        assert_eq!(number_of(&again.fd), Ok(std::process::id()));
    }
}
