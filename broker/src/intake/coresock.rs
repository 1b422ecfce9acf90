//! Connections of the kernel's coredump socket, and whether it is the kernel that makes them.
//!
//! Anybody who gets to the socket can connect, which is root alone, by the directory's mode; the kernel does not look at
//! modes. Who connected has to be a process that dumps core at this very moment, by the kernel's own word about a pidfd of
//! the kernel's making.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::time::{Instant, sleep};

use super::call::{Caller, CoreCall, KernelPipe};
use crate::broker::monotonic;
use crate::identify::dumping::{self, Dumping};
use crate::linux::coresock::{self, TalkError};
use crate::linux::namespace::NsSet;
use crate::linux::pidref::PidRef;
use crate::linux::room::{self, Room};

/// The kernel asks, or writes, with its connection; whoever says nothing for this long is not the kernel.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks where there was nothing left to look with: the kernel waits.
const PAUSE: Duration = Duration::from_millis(20);

/// A core limit of exactly this says that the process handles cores itself, so that its own must not be handled: to a
/// pipe the kernel then dumps nothing, and by its socket it asks all the same (fs/coredump.c).
const HANDLERS_LIMIT: u64 = 1;

/// Why a connection is no upcall.
#[derive(Debug, thiserror::Error)]
pub enum RefusedConnection {
    /// It cannot be known who connected.
    #[error("the peer cannot be known: {0}")]
    Peer(Errno),
    /// It is gone: killed while its core was about to be asked for.
    #[error("process {pid} was killed before the kernel could be answered")]
    Killed {
        /// Its pid.
        pid: u32,
        /// When it was accepted: nanoseconds of `CLOCK_MONOTONIC`.
        started: u64,
    },
    /// Who connected does not dump core.
    #[error(
        "refused: process {pid}, uid {uid}: not the kernel, which connects for what dumps core"
    )]
    Forged {
        /// Its pid.
        pid: u32,
        /// Its uid.
        uid: u32,
    },
    /// A handler's own crash.
    #[error("process {0} has a core limit of 1, so it handles cores and its own is not handled")]
    Handlers(u32),
    /// What it said.
    #[error("process {pid}: {error}")]
    Talk {
        /// Its pid.
        pid: u32,
        /// What was wrong.
        error: TalkError,
    },
    /// Out of descriptors.
    #[error("eventfd: {0}")]
    Claim(Errno),
}

/// Takes one connection. `host` are our namespaces.
///
/// # Errors
/// See [`RefusedConnection`]; the kernel was told then, and the process ends without a core.
pub async fn take(connection: OwnedFd, host: &NsSet) -> Result<CoreCall, RefusedConnection> {
    let started = monotonic();
    let end = Instant::now() + PATIENCE;
    let peer = loop {
        match coresock::peer(&connection) {
            Err(errno) if room::is_want(&errno) && Instant::now() < end => sleep(PAUSE).await,
            peer => break peer.map_err(RefusedConnection::Peer)?,
        }
    };
    let (pid, uid) = (peer.pid, peer.uid);
    if !peer.dump.dumped {
        return Err(RefusedConnection::Forged { pid, uid });
    }
    let killed = RefusedConnection::Killed { pid, started };
    let Ok(process) = PidRef::from_pidfd(peer.pidfd) else {
        return Err(killed);
    };
    let opening = match coresock::opening(&connection, PATIENCE).await {
        Ok(opening) => opening,
        Err(TalkError::Closed) => return Err(killed),
        Err(error) => return Err(RefusedConnection::Talk { pid, error }),
    };
    let caller = Caller::Kernel(opening);
    // What is missing for want of descriptors alone is looked at again; who decides says no if it still is.
    let Dumping { words, limit } = loop {
        let room = Room::watch();
        let dumping = dumping::read(&process, peer.dump, host);
        if room.was_there().is_ok() || Instant::now() >= end {
            break dumping;
        }
        sleep(PAUSE).await;
    };
    // One token, which only a worker of ours takes.
    let claim = EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    let kernel = KernelPipe {
        pipe: connection,
        claim: claim.map_err(RefusedConnection::Claim)?.into(),
    };
    if limit == Some(HANDLERS_LIMIT) {
        caller.refuse(&kernel);
        return Err(RefusedConnection::Handlers(pid));
    }
    Ok(CoreCall {
        words,
        kernel,
        pidfd: Some(process.into_pidfd()),
        id: None,
        started,
        // Nothing rests on it: the kernel's pidfd is evidence enough.
        started_ticks: u64::MAX,
        caller,
    })
}
