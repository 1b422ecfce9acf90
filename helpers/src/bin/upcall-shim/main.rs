//! upcall-shim: what the kernel starts.
//!
//! One program for every hook: the name it is started by says which. For `core` it passes the kernel's pipe, pidfd
//! and words to the daemon and stays until somebody holds the claim to the pipe. It decides nothing, parses nothing a
//! tenant wrote, and where the daemon is not there or too late it keeps the core in the spool. For `request-key` it is
//! the process that may answer: it asks, does what the daemon says with its children, and ends in time whatever they do.
//! For `modprobe` it asks and becomes the host's modprobe, or refuses.

#![no_main]

mod core;
mod evidence;
mod facts;
mod hook;
mod key;
mod link;
mod module;
mod run;
mod spool;
mod sys;

use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl::set_dumpable;
use nix::sys::stat::Mode;

/// Exit statuses; the kernel looks at none of them.
const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;
/// Started by hand, or by a hook that this version does not serve.
const USAGE: u8 = 2;

/// The whole program; returns its exit status.
fn run() -> u8 {
    // A crash of ours must not come back to us, nor anybody read our memory.
    if set_dumpable(false).is_err() || occupy_standard_numbers().is_err() {
        return FAILURE;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let words: Vec<Vec<u8>> = arguments.map(|word| word.as_bytes().to_vec()).collect();
    match Path::new(&name).file_name().map(OsStrExt::as_bytes) {
        Some(b"core") => core::run(words),
        Some(b"request-key") => key::serve(words),
        Some(b"modprobe") => module::serve(words),
        _ => USAGE,
    }
}

/// The kernel starts us with 1 and 2 closed: nothing we open may take their numbers.
fn occupy_standard_numbers() -> Result<(), Errno> {
    loop {
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        let number = null.into_raw_fd();
        if number > 2 {
            return nix::unistd::close(number);
        }
    }
}
