//! prlimit(2), by the kernel's own numbers of the limits.

use nix::errno::Errno;

/// setrlimit(2) by the kernel's own number of the limit.
///
/// # Errors
/// As setrlimit(2); `EPERM` for a hard limit above the one we have.
pub fn set_rlimit(number: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: prlimit64 reads one rlimit64, which lives here, and writes the old one to a pointer that may be null.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, &raw const limit, none) };
    Errno::result(result).map(drop)
}

/// The limit with this number, soft and hard.
///
/// # Errors
/// `EINVAL` for a number without a limit.
pub fn rlimit(number: u32) -> Result<(u64, u64), Errno> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let none = std::ptr::null::<libc::rlimit64>();
    // SAFETY: prlimit64 writes one rlimit64, which lives here, and sets nothing from a null pointer.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, none, &raw mut limit) };
    Errno::result(result).map(|_| (limit.rlim_cur, limit.rlim_max))
}
