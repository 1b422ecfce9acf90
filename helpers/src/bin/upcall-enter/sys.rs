//! System calls that only the keeper and the joiner make.

#![expect(unsafe_code, reason = "system calls; every other module is without")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// A new descriptor as a system call returned it.
fn new_fd(result: i64) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: from_raw_fd wants an open descriptor without another owner; the callers pass what a call just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A small file system in memory, mounted nowhere (fsopen(2), fsmount(2), 5.2).
///
/// # Errors
/// As those.
pub(crate) fn detached_tmpfs() -> Result<OwnedFd, Errno> {
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSMOUNT_CLOEXEC: u32 = 1;
    const FSCONFIG_SET_STRING: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const ATTRIBUTES: u64 =
        libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    // SAFETY: fsopen reads a terminated name.
    let made = unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) };
    let made = new_fd(made)?;
    let (fd, size, bytes) = (made.as_raw_fd(), c"size".as_ptr(), c"128k".as_ptr());
    // SAFETY: fsconfig reads two terminated texts.
    let set = unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_SET_STRING, size, bytes, 0) };
    Errno::result(set)?;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes null for both texts.
    let create =
        unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0) };
    Errno::result(create)?;
    // SAFETY: fsmount takes three numbers.
    new_fd(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, ATTRIBUTES) })
}

/// A mount of one file below a directory, mounted nowhere (open_tree(2), 5.2).
///
/// # Errors
/// As open_tree(2).
pub(crate) fn clone_tree(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let (directory, name) = (directory.as_raw_fd(), name.as_ptr());
    // SAFETY: open_tree reads a terminated path.
    new_fd(unsafe { libc::syscall(libc::SYS_open_tree, directory, name, flags) })
}

/// Makes a mount read-only (mount_setattr(2), 5.12).
///
/// # Errors
/// As mount_setattr(2).
pub(crate) fn make_read_only(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let (fd, empty, flags) = (mount.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
    let (attr, size) = (&raw const attributes, size_of_val(&attributes));
    // SAFETY: mount_setattr reads an empty, terminated path and the given number of bytes; both live here.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, attr, size) };
    Errno::result(result).map(drop)
}

/// Puts a mount at a path, through links at its end too (move_mount(2), 5.2).
///
/// # Errors
/// As move_mount(2).
pub(crate) fn move_mount(mount: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
    const MOVE_MOUNT_T_SYMLINKS: u32 = 0x10;
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
    let (from, empty, to) = (mount.as_raw_fd(), c"".as_ptr(), path.as_ptr());
    // SAFETY: move_mount reads two terminated paths.
    let result =
        unsafe { libc::syscall(libc::SYS_move_mount, from, empty, libc::AT_FDCWD, to, flags) };
    Errno::result(result).map(drop)
}
