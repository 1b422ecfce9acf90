//! The one system call that only the keeper makes.

#![expect(unsafe_code, reason = "a system call; every other module is without")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// Attaches a program that says which devices may be used to a cgroup (bpf(2), `BPF_PROG_ATTACH`, 4.15), beside those
/// of the cgroups above it: each of them can refuse.
///
/// # Errors
/// As bpf(2).
pub(crate) fn bound_devices(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    const BPF_PROG_ATTACH: u32 = 8;
    const BPF_CGROUP_DEVICE: i32 = 6;
    const BPF_F_ALLOW_MULTI: i32 = 2;
    let (cgroup, program) = (cgroup.as_raw_fd(), program.as_raw_fd());
    let attach = [cgroup, program, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI];
    let (command, size) = (BPF_PROG_ATTACH, size_of_val(&attach));
    // SAFETY: bpf reads the given number of bytes of four numbers, which live here.
    Errno::result(unsafe { libc::syscall(libc::SYS_bpf, command, attach.as_ptr(), size) }).map(drop)
}
