//! System calls that neither nix nor the crate's `sys` has, each as one safe function.

#![expect(
    unsafe_code,
    reason = "this program's own system calls; every other module is without"
)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// How many bytes a pipe has (ioctl(2), `FIONREAD`).
///
/// # Errors
/// As ioctl(2).
pub(crate) fn readable(pipe: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut length: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which lives here.
    let result = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut length) };
    Errno::result(result)?;
    Ok(usize::try_from(length).unwrap_or(0))
}

/// Makes a file that grows beyond RLIMIT_FSIZE an error (`EFBIG`) instead of our end (setrlimit(2)).
pub(crate) fn survive_file_size_limit() {
    // SAFETY: signal with SIG_IGN installs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
