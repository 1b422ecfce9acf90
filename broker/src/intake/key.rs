//! A key that the shim asks about.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use upcall_helpers::seqpacket::Received;
use upcall_helpers::wire::{ID_LENGTH, KEY_WORDS, KeyRequest, Request, Verdict};

use super::shim::IntakeError;
use crate::linux::parse;
use crate::linux::pidref::PidRef;
use crate::linux::seqpacket::Connection;

/// A key that wants instantiating.
#[derive(Debug)]
pub struct KeyCall {
    /// Its serial number.
    pub serial: u32,
    /// What the shim read of it.
    pub key: KeyRequest,
    /// The upcall's id, as the shim has drawn it.
    pub id: Option<[u8; ID_LENGTH]>,
    /// When the shim started: nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
    /// The shim's process: while it lives, the requester waits. `None`: it had ended when its request was read.
    pub process: Option<PidRef>,
    /// Where the verdict goes, and what became of it comes from.
    pub shim: Shim,
}

/// The shim, which waits for its verdict and then says what became of it.
#[derive(Debug)]
pub struct Shim(Connection);

impl Shim {
    /// Tells the verdict, with descriptors beside it.
    ///
    /// # Errors
    /// As sendmsg(2): `EPIPE` for a shim that has gone.
    pub fn tell(&self, verdict: &Verdict, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let record = verdict.encode().map_err(|_| Errno::E2BIG)?;
        self.0.send(&record, fds)
    }

    /// What it says next; an empty record is its end.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub async fn says(&self) -> std::io::Result<Received> {
        self.0.receive().await
    }
}

/// Takes the kernel's words out of a request.
pub(super) fn call(
    request: Request,
    process: Option<PidRef>,
    connection: Connection,
) -> Result<KeyCall, IntakeError> {
    let serial = request.argv.get(1).filter(|_| {
        let create = request.argv.first().is_some_and(|word| word == b"create");
        create && request.argv.len() == KEY_WORDS.len()
    });
    let serial = serial.and_then(|word| parse::number(word));
    Ok(KeyCall {
        serial: serial.ok_or(IntakeError::Incomplete("the kernel's words"))?,
        key: request.key.ok_or(IntakeError::Incomplete("a key"))?,
        id: request.id,
        started: request.started,
        process,
        shim: Shim(connection),
    })
}
