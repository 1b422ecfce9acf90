//! upcall-shim: what the kernel starts.
//!
//! One program for every hook: the path that is executed says which; where it says none, the kernel starts us for all.
//! For `core` it passes the kernel's pipe, pidfd and words to the daemon and stays until somebody holds the claim to the
//! pipe. It decides nothing, parses nothing a tenant wrote, and where the daemon is not there or too late it keeps the
//! core in the spool. For `request-key` it is the process that may answer: it asks, does what the daemon says with its
//! children, and ends in time whatever they do. For `modprobe`, and for the other programs that the kernel starts, it
//! asks and becomes the host's own, or refuses.

#![no_main]

mod becoming;
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
mod umh;

use std::ffi::OsStr;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl::set_dumpable;
use nix::sys::stat::Mode;
use upcall_helpers::wire::{CORE_WORDS, KEY_WORDS};

/// Exit statuses. Who wants a module or a key looks at none of them; a bridge does its spanning tree itself after a failure.
const SUCCESS: u8 = 0;
const FAILURE: u8 = 1;

/// The whole program; `words` as execve(2) was given them, the name first. Returns its exit status.
fn run(mut words: impl Iterator<Item = Vec<u8>>) -> u8 {
    // A crash of ours must not come back to us, nor anybody read our memory.
    if set_dumpable(false).is_err() || occupy_standard_numbers().is_err() {
        return FAILURE;
    }
    let wanted = words.next().unwrap_or_default();
    let words: Vec<Vec<u8>> = words.collect();
    let executed = sys::executed();
    if let Some(role) = Role::of(executed) {
        return role.serve(words);
    }
    // The kernel starts one program for all: what it wanted is a link of ours, or something else.
    let ours = Role::of(&wanted).filter(|role| role.fits(&words) && becoming::is_own(&wanted));
    match ours {
        Some(role) => role.serve(words),
        None => umh::serve_any(&wanted, words),
    }
}

/// What we are started as.
enum Role {
    Core,
    Key,
    Module,
    /// One of the kernel's other programs, by what it goes by.
    InPlaceOf(&'static str),
}

impl Role {
    /// By the name of a link to us.
    fn of(path: &[u8]) -> Option<Self> {
        let name = Path::new(OsStr::from_bytes(path)).file_name()?.as_bytes();
        match name {
            b"core" => Some(Self::Core),
            b"request-key" => Some(Self::Key),
            b"modprobe" => Some(Self::Module),
            name => umh::link(name).map(Self::InPlaceOf),
        }
    }

    fn serve(&self, words: Vec<Vec<u8>>) -> u8 {
        match self {
            Self::Core => core::run(words),
            Self::Key => key::serve(words, None),
            Self::Module => module::serve(words, None),
            Self::InPlaceOf(goes_by) => umh::serve_link(goes_by, words),
        }
    }

    /// Whether the kernel gives such words to this hook. Whoever may name a program for the kernel to start can name ours.
    fn fits(&self, words: &[Vec<u8>]) -> bool {
        match self {
            Self::Core => words.len() == CORE_WORDS.len(),
            Self::Key => words.len() == KEY_WORDS.len(),
            Self::Module => module::are_the_kernels(words),
            Self::InPlaceOf(_) => true,
        }
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
