//! socket(2) of any family, fsopen(2) of any name; the program's only unsafe.

#![expect(unsafe_code, reason = "system calls; every other module is without")]

use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

/// A socket of this family, closed at once.
pub(crate) fn socket(family: i32) -> Result<(), Errno> {
    // SAFETY: socket takes three numbers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: it was just made, and is nobody else's.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// A context of this file system, closed at once.
pub(crate) fn fsopen(name: &CStr) -> Result<(), Errno> {
    // SAFETY: fsopen reads one terminated text.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), libc::FSOPEN_CLOEXEC) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: it was just made, and is nobody else's.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}
