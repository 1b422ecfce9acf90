//! Where the shim starts, and under which name: C's `main`, without what Rust's runtime does before it.
//!
//! The shim is started once for every crash, and the crashed process waits. The runtime's start (a poll of 0 to 2, the
//! stack's bounds out of /proc/self/maps, an alternate signal stack) and what it links cost a tenth of our whole life.
//! What of it the shim needs is done here and in [`mod@super::run`].

#![expect(
    unsafe_code,
    reason = "a symbol that the C library calls, and one of its pointers"
)]

use std::ffi::{CStr, c_char, c_int};

/// Called by the C library, once, with nothing running beside it.
/// `no_mangle` wants a name that is defined once and is what its callers take it for: in a program without Rust's runtime
/// nothing else is called `main`, and this has the signature that C's start-up calls.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // std has them only where a C library gives them to initialisers, as glibc does and musl does not.
    let words = (0..usize::try_from(argc).unwrap_or(0)).map(|index| {
        // SAFETY: add stays within the array: it has argc pointers and a null (C11 5.1.2.2.1), and this is one of them.
        let word = unsafe { argv.add(index) };
        // SAFETY: read wants an aligned, initialised pointer: an entry of the array, as execve(2) has left it.
        let word = unsafe { word.read() };
        // SAFETY: from_ptr wants a terminated text that stays as it is while it is read: execve(2) has put it above the
        // stack, where nothing of ours writes.
        unsafe { CStr::from_ptr(word) }.to_bytes().to_vec()
    });
    super::run(words).into()
}

/// The path that was executed (getauxval(3), `AT_EXECFN`), which is not what `argv[0]` says where the kernel starts one
/// program for all; empty where the kernel does not say.
pub(crate) fn executed() -> &'static [u8] {
    // SAFETY: takes a number.
    let path = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const c_char;
    if path.is_null() {
        return b"";
    }
    // SAFETY: from_ptr wants a terminated text that stays as it is: execve(2) has put it above the stack, where nothing
    // of ours writes, and there it is for as long as the process is.
    unsafe { CStr::from_ptr(path) }.to_bytes()
}
