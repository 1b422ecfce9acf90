//! Tells the daemon, and the open record, what became of a launch.

use std::fs::File;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};

use upcall_helpers::clock::monotonic;
use upcall_helpers::seqpacket;
use upcall_helpers::wire::{Event, Report};

/// Reports for one launch.
#[derive(Debug)]
pub(crate) struct Reporter<'a> {
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) record: Option<File>,
    pub(crate) id: Vec<u8>,
    pub(crate) slot: u8,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(
        socket: BorrowedFd<'a>,
        record: Option<OwnedFd>,
        id: Vec<u8>,
        slot: u8,
    ) -> Self {
        Self {
            socket,
            record: record.map(File::from),
            id,
            slot,
        }
    }

    /// Reports one event. The record comes first: it is what is read where the daemon is no longer there to be told,
    /// and neither of the two failing may keep the other from being tried.
    pub(crate) fn tell(&mut self, event: Event) {
        let report = Report {
            id: self.id.clone(),
            slot: self.slot,
            time: monotonic(),
            event,
        };
        let Ok(bytes) = report.encode() else { return };
        if let Some(record) = &mut self.record {
            drop(record.write_all(&bytes));
        }
        let _ = seqpacket::send(self.socket, &bytes, &[]);
    }
}
