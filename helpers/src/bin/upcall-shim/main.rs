//! upcall-shim: what the kernel starts.
//!
//! One program for every hook: the name it is started by says which. For `core` it passes the kernel's pipe, pidfd
//! and words to the daemon and stays until somebody holds the claim to the pipe. It decides nothing, parses nothing a
//! tenant wrote, and where the daemon is not there or too late it keeps the core in the spool.

mod core;
mod hookfile;
mod link;
mod spool;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::prctl::set_dumpable;

fn main() -> ExitCode {
    // Rust's start-up has opened /dev/null in place of closed 0 to 2 (the kernel starts us with 1 and 2 closed), so
    // nothing we open takes their numbers. A crash of ours must not come back to us, nor anybody read our memory.
    let undumpable = set_dumpable(false);
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let words: Vec<Vec<u8>> = arguments.map(|word| word.as_bytes().to_vec()).collect();
    let hook = Path::new(&name).file_name().map(OsStrExt::as_bytes);
    match (undumpable, hook) {
        (Ok(()), Some(b"core")) => core::run(words),
        // Started by hand, or by a hook that this version does not serve.
        _ => ExitCode::from(2),
    }
}
