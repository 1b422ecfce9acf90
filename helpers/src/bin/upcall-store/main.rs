//! upcall-store: keeps a core on the host, and feeds those who take it as well from what it has kept.
//!
//! Started by the launcher, which has taken the claim, with these descriptors: 0 the kernel's pipe, 3 the directory
//! for cores, 1 and 2 the tenant's and everybody's tokens for room (eventfds) if there are any, 4 the socket to the daemon, 5 the open record (append), from 6 on a pipe to write for each taker. Its
//! words are in `words.rs`.
//!
//! The kernel's pipe is emptied as fast as the disk takes it, whatever the takers do; each is fed from memory while it
//! keeps up and else from the file. Their keepers hold the kernel's pipe too, so the crashed process stays while a
//! helper runs.

mod copy;
mod feed;
mod keep;
mod room;
mod words;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use upcall_helpers::clock::monotonic;
use upcall_helpers::patience::PATIENCE;
use upcall_helpers::wire::{Event, Report};
use upcall_helpers::{seqpacket, sys};

use crate::keep::{Job, Kept};
use crate::words::Words;

/// The pipes of takers.
const FEEDS: std::ops::RangeInclusive<i32> = 6..=15;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2), // started by hand
    }
}

fn start(arguments: &[OsString]) -> Result<(), Errno> {
    let words = Words::parse(arguments).ok_or(Errno::EINVAL)?;
    set_dumpable(false)?;
    let mut teller = Teller {
        socket: sys::inherited(4)?,
        record: File::from(sys::inherited(5)?),
        id: words.id.into_bytes(),
        slot: words.slot,
    };
    let job = Job {
        pipe: sys::inherited(0)?,
        directory: sys::inherited(3)?,
        feeds: FEEDS
            .map_while(|number| sys::inherited(number).ok())
            .collect(),
        name: words.name,
        format: words.format,
        max_size: words.max_size,
        keep_free: words.keep_free,
        reader: words.reader,
        tokens: if words.tokens {
            Some((sys::inherited(1)?, sys::inherited(2)?))
        } else {
            None
        },
        patience: PATIENCE,
    };
    keep::run(job, &mut |kept| teller.tell(kept));
    Ok(())
}

/// Tells the daemon, and the open record first: it is what is read where the daemon is gone.
struct Teller {
    socket: OwnedFd,
    record: File,
    id: Vec<u8>,
    slot: u8,
}

impl Teller {
    fn tell(&mut self, kept: &Kept) {
        let event = Event::Stored {
            size: kept.size,
            stored: kept.stored,
            truncated: kept.truncated,
            errno: kept.error.map_or(0, |errno| errno as u32),
        };
        let report = Report {
            id: self.id.clone(),
            slot: self.slot,
            time: monotonic(),
            event,
        };
        let Ok(bytes) = report.encode() else { return };
        drop(self.record.write_all(&bytes));
        let _ = seqpacket::send(self.socket.as_fd(), &bytes, &[]);
    }
}
