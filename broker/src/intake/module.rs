//! A module that the shim asks about.

use upcall_helpers::wire::{ID_LENGTH, Request};

use super::shim::IntakeError;
use crate::linux::pidref::PidRef;
use crate::linux::seqpacket::Connection;

/// A module that the kernel wants.
#[derive(Debug)]
pub struct ModuleCall {
    /// What it is asked for by: `fs-ext4`, `net-pf-10-proto-132`; a tenant's text in part.
    pub alias: Vec<u8>,
    /// The upcall's id, as the shim has drawn it.
    pub id: Option<[u8; ID_LENGTH]>,
    /// When the shim started: nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
    /// The shim's process, and when it started in clock ticks since boot: while it lives, the requester waits. `None`:
    /// it had ended when its request was read.
    pub process: Option<(PidRef, u64)>,
    /// Where the verdict goes.
    pub shim: Connection,
}

/// Takes the kernel's words out of a request.
pub(super) fn call(
    request: Request,
    process: Option<(PidRef, u64)>,
    shim: Connection,
) -> Result<ModuleCall, IntakeError> {
    let [quiet, end, alias] = <[Vec<u8>; 3]>::try_from(request.argv)
        .map_err(|_| IntakeError::Incomplete("the kernel's words"))?;
    if quiet != b"-q" || end != b"--" {
        return Err(IntakeError::Incomplete("the kernel's words"));
    }
    Ok(ModuleCall {
        alias,
        id: request.id,
        started: request.started,
        process,
        shim,
    })
}
