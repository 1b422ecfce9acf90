//! What only unsafe code can do: crash, end one thread, steal, and read where there is nothing.

#![expect(
    unsafe_code,
    reason = "this program's system calls; its other modules are without"
)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, setgid, setuid};

/// Writes where nothing is, in a function that a debugger finds. A signal sent to oneself would not do: the kernel ignores those of a container's PID 1.
#[inline(never)]
pub(crate) fn crash() -> ! {
    loop {
        // SAFETY: none; this write faults, and that is what the program is for.
        unsafe { std::ptr::null_mut::<u8>().write_volatile(1) };
    }
}

/// Ends this thread and no other: where it is the first one, the process goes on with a zombie leader.
pub(crate) fn end_this_thread() -> ! {
    loop {
        // SAFETY: exit(2), not exit(3): the kernel ends the calling thread and runs nothing of ours.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Memory of so many bytes of which one page in each GiB was ever written: the kernel dumps all of it.
pub(crate) fn sparse(bytes: u64) -> Result<(), Errno> {
    let length = usize::try_from(bytes).map_err(|_| Errno::EINVAL)?;
    let memory = map(length, libc::PROT_READ | libc::PROT_WRITE)?;
    for offset in (0..length).step_by(1 << 30) {
        // SAFETY: the offset is below the length of the mapping.
        let place = unsafe { memory.add(offset) };
        // SAFETY: the mapping can be written, and nothing else knows it.
        unsafe { place.write_volatile(1) };
    }
    Ok(())
}

/// So many mappings of a page each: neighbours that differ are not merged.
pub(crate) fn mappings(number: u64) -> Result<(), Errno> {
    const PAGE: usize = 4096;
    let number = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
    let memory = map(number * PAGE, libc::PROT_READ)?;
    for page in (0..number).step_by(2) {
        // SAFETY: the page is one of the mapping's.
        let page = unsafe { memory.add(page * PAGE) };
        // SAFETY: mprotect takes a page of our own, which nothing else knows.
        Errno::result(unsafe { libc::mprotect(page.cast(), PAGE, libc::PROT_NONE) })?;
    }
    Ok(())
}

/// New private memory that is not there until it is touched.
fn map(length: usize, protection: libc::c_int) -> Result<*mut u8, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: mmap at an address of the kernel's choice replaces nothing.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    Ok(memory.cast())
}

/// A descriptor of another process (pidfd_getfd(2)).
pub(crate) fn steal(pid: i32, number: RawFd) -> Result<OwnedFd, Errno> {
    let pidfd = upcall_helpers::sys::pidfd_open(pid.unsigned_abs())?;
    // SAFETY: pidfd_getfd takes three numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: from_raw_fd wants an open descriptor without another owner; the call above just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Looks into the memory of another process (process_vm_readv(2)), at an address that nobody has: who may look is told
/// apart from who may not before that is found out.
pub(crate) fn read_memory(pid: i32) -> Result<(), Errno> {
    let mut byte = 0_u8;
    let here = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let there = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(4096),
        iov_len: 1,
    };
    // SAFETY: process_vm_readv writes one byte to `byte`, which lives here, and reads the two lists of one each.
    let read = unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) };
    match Errno::result(read) {
        Ok(_) | Err(Errno::EFAULT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Namespaces of another process that a pidfd gives (ioctl_pidfd(2), 6.11).
pub(crate) fn namespaces(pid: i32) -> Vec<&'static str> {
    const ASK: [(&str, libc::Ioctl); 3] = [
        ("mnt", libc::PIDFD_GET_MNT_NAMESPACE),
        ("net", libc::PIDFD_GET_NET_NAMESPACE),
        ("user", libc::PIDFD_GET_USER_NAMESPACE),
    ];
    let Ok(pidfd) = upcall_helpers::sys::pidfd_open(pid.unsigned_abs()) else {
        return Vec::new();
    };
    let got = |ask: libc::Ioctl| {
        // SAFETY: these ioctls take no argument and return a new descriptor or an error.
        let fd = unsafe { libc::ioctl(pidfd.as_raw_fd(), ask, 0) };
        if fd >= 0 {
            // SAFETY: from_raw_fd wants an open descriptor without another owner; the call above just made it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        fd >= 0
    };
    ASK.into_iter()
        .filter(|(_, ask)| got(*ask))
        .map(|(name, _)| name)
        .collect()
}

/// Reads standard input into memory that is a file's, whose pages come when they come.
pub(crate) fn read_into(file: &File) -> Result<(), Errno> {
    const LENGTH: usize = 4096;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    let fd = file.as_raw_fd();
    // SAFETY: mmap at an address of the kernel's choice replaces nothing.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, protection, flags, fd, 0) };
    if memory == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the mapping is ours alone and LENGTH bytes long; nothing else ever looks at it.
    Errno::result(unsafe { libc::read(0, memory, LENGTH) }).map(drop)
}

/// A child by this number in the caller's pid namespace, in the namespaces of another process, as their root. `None` is
/// the child. For a process of one thread.
pub(crate) fn fork_as(pid: i32, of: i32) -> Result<Option<i32>, Errno> {
    let leader = upcall_helpers::sys::pidfd_open(of.unsigned_abs())?;
    setns(&leader, CloneFlags::CLONE_NEWPID)?;
    // From the innermost pid namespace out; inside, any that is free.
    let numbers = [5000_i32, pid];
    // SAFETY: all zeroes are a valid value of this struct of numbers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    args.set_tid = numbers.as_ptr() as u64;
    args.set_tid_size = 2;
    // SAFETY: clone3 reads `args` and the numbers, which live here; without CLONE_VM the child has copies of them.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    let child = i32::try_from(Errno::result(child)?).map_err(|_| Errno::EOVERFLOW)?;
    if child != 0 {
        return Ok(Some(child));
    }
    setns(
        &leader,
        CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    setgid(Gid::from_raw(0))?;
    setuid(Uid::from_raw(0))?;
    Ok(None)
}
