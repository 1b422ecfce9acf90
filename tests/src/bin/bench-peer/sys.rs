//! All of it: it is made of system calls.

#![expect(
    unsafe_code,
    reason = "a few lines of system calls, as a C program would have them"
)]

use std::ffi::{CStr, c_char, c_int};

/// The program, called by the C runtime with as many words as it says.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    let word = |index: usize| -> &CStr {
        if index >= count {
            return c"";
        }
        // SAFETY: the C runtime gives `count` words, and the index is below it.
        let place = unsafe { words.add(index) };
        // SAFETY: as above, a word is there.
        let word = unsafe { *place };
        // SAFETY: each word is a terminated string that lives as long as the process.
        unsafe { CStr::from_ptr(word) }
    };
    let name = word(0)
        .to_bytes()
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    match name {
        b"noop" => 0,
        b"drain" => drain(),
        b"bare" => bare(word(1), word(2)),
        b"crash" => crash(word(1), word(2)),
        _ => 2,
    }
}

fn drain() -> c_int {
    let mut buffer = vec![0_u8; 65536];
    loop {
        // SAFETY: read writes at most the given number of bytes; the buffer has them.
        let length = unsafe { libc::read(0, buffer.as_mut_ptr().cast(), buffer.len()) };
        if length <= 0 {
            return 0;
        }
    }
}

/// The kernel's pidfd is descriptor 3.
fn bare(pid: &CStr, helper: &CStr) -> c_int {
    let path = [b"/proc/", pid.to_bytes(), b"/root\0"].concat();
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: open reads a terminated path, which lives here.
    let root = unsafe { libc::open(path.as_ptr().cast(), flags) };
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: setns takes two numbers.
    let joined = unsafe { libc::setns(3, namespaces) };
    // SAFETY: fchdir takes a number.
    let changed = unsafe { libc::fchdir(root) };
    // SAFETY: chroot reads a terminated path.
    let rooted = unsafe { libc::chroot(c".".as_ptr()) };
    // SAFETY: setresgid takes numbers.
    unsafe { libc::setresgid(0, 0, 0) };
    // SAFETY: setresuid takes numbers.
    unsafe { libc::setresuid(0, 0, 0) };
    if joined + changed + rooted != 0 {
        return 1;
    }
    // SAFETY: this process has one thread, and its child executes at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let words = [helper.as_ptr(), std::ptr::null()];
        let none = [std::ptr::null()];
        // SAFETY: execve reads a path and two lists of terminated strings that end in null; all live here.
        unsafe { libc::execve(helper.as_ptr(), words.as_ptr(), none.as_ptr()) };
        return 127;
    }
    let mut status = 0;
    // SAFETY: waitpid writes one number, which lives here.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    0
}

fn crash(times: &CStr, mebibytes: &CStr) -> c_int {
    let number = |text: &CStr| text.to_str().ok().and_then(|text| text.parse().ok());
    let times: u32 = number(times).unwrap_or(0);
    // A quarter of every page cannot be compressed.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut memory = vec![1_u64; number(mebibytes).map_or(0, |size: u32| size as usize) << 17];
    for word in memory
        .chunks_mut(512)
        .flat_map(|page| page.iter_mut().take(128))
    {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        *word = seed;
    }
    std::hint::black_box(&memory);
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: setrlimit reads one rlimit, which lives here.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const unlimited) };
    for _ in 0..times {
        let start = now();
        // SAFETY: this process has one thread, and its child crashes at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: raise takes a number.
            unsafe { libc::raise(libc::SIGSEGV) };
            return 1;
        }
        let mut status = 0;
        // SAFETY: waitpid writes one number, which lives here.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        let took = now() - start;
        say(took);
    }
    0
}

fn now() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime writes one timespec, which lives here.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn say(number: i64) {
    let line = format!("{number}\n");
    // SAFETY: write reads the given number of bytes; the line has them.
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
}
