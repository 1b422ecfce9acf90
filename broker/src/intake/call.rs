//! A core dump that somebody asks about: the shim, with the kernel's pipe, or the kernel itself, by its socket.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use upcall_helpers::wire::{ID_LENGTH, Verdict};

use crate::identify::core::CoreWords;
use crate::linux::coresock::{self, Answer, Opening, TalkError};
use crate::linux::seqpacket::Connection;

/// The kernel takes an answer at once; where it does not, the process was killed.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// A core dump that is asked about.
#[derive(Debug)]
pub struct CoreCall {
    /// The kernel's words, or what they would have been.
    pub words: CoreWords,
    /// The kernel's end.
    pub kernel: KernelPipe,
    /// The kernel's pidfd.
    pub pidfd: Option<OwnedFd>,
    /// The upcall's id, as the shim has drawn it.
    pub id: Option<[u8; ID_LENGTH]>,
    /// When it began for us, the shim's start or the accept: nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
    /// The same in clock ticks since boot.
    pub started_ticks: u64,
    /// Where the verdict goes.
    pub caller: Caller,
}

/// Where the kernel writes the core to, a pipe or a connection of its socket, and the right to read it. While any
/// descriptor of it is open the kernel waits (core(5), core_pipe_limit), so this is dropped as soon as somebody else has
/// the claim.
#[derive(Debug)]
pub struct KernelPipe {
    /// The end to read.
    pub pipe: OwnedFd,
    /// An eventfd: who takes its token reads.
    pub claim: OwnedFd,
}

impl KernelPipe {
    /// Whether somebody holds the claim already: the shim, to whom we were too late.
    pub fn is_claimed(&self) -> bool {
        let mut claim = [PollFd::new(self.claim.as_fd(), PollFlags::POLLIN)];
        poll(&mut claim, PollTimeout::ZERO) == Ok(0)
    }
}

/// Who waits for the verdict.
#[derive(Debug)]
pub enum Caller {
    /// The shim: what is not taken from it, it keeps.
    Shim(Connection),
    /// The kernel: what is refused is never dumped, and nobody keeps what is not taken.
    Kernel(Opening),
}

impl Caller {
    /// The record's word for it.
    pub fn hook(&self) -> &'static str {
        match self {
            Self::Shim(_) => "pipe",
            Self::Kernel(_) => "socket",
        }
    }

    /// Has the kernel begin, which the shim's pipe does by itself: somebody is about to read, or to look at the process.
    ///
    /// # Errors
    /// See [`TalkError`]: there is nothing to read then.
    pub async fn begin(&self, kernel: &KernelPipe, answer: Answer) -> Result<(), TalkError> {
        let Self::Kernel(opening) = self else {
            return Ok(());
        };
        if let Opening::Question { takes } = opening {
            coresock::answer(&kernel.pipe, *takes, answer, TAKEN_WITHIN).await?;
        }
        Ok(coresock::make_blocking(&kernel.pipe)?)
    }

    /// Somebody has the claim: the shim may go. One that has gone has done without.
    pub fn claimed(&self) {
        self.tell(&Verdict::Done);
    }

    /// Refuses, before [`Caller::begin`] or after it: takes the claim and reads nothing. The kernel's write fails with the
    /// last reader; where it was not begun, it does not even start. `false`: the shim has the claim, and keeps the core.
    pub fn refuse(&self, kernel: &KernelPipe) -> bool {
        let mut token = [0; 8];
        let taken = nix::unistd::read(&kernel.claim, &mut token).is_ok();
        if let Self::Kernel(Opening::Question { .. }) = self {
            coresock::reject(&kernel.pipe);
        }
        self.tell(&Verdict::Deny { errno: 0, ttl: 0 });
        taken
    }

    /// Whether there is a shim, which keeps what is handed back to it.
    pub fn is_shim(&self) -> bool {
        matches!(self, Self::Shim(_))
    }

    /// Leaves the core to the shim.
    pub fn hand_back(&self) {
        self.tell(&Verdict::Fallback);
    }

    fn tell(&self, verdict: &Verdict) {
        if let (Self::Shim(connection), Ok(record)) = (self, verdict.encode()) {
            let _ = connection.send(&record, &[]);
        }
    }
}
