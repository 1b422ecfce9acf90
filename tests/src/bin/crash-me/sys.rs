//! What only unsafe code can do: crash, and end one thread.

#![expect(
    unsafe_code,
    reason = "this program's system calls; its other modules are without"
)]

/// Writes where nothing is. A signal sent to oneself would not do: the kernel ignores those of a container's PID 1.
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
