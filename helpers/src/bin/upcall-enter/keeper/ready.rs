//! A helper of our own says when it can take the core: until then nobody has claimed it, and it is not too late for
//! what `on_failure` says.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use upcall_helpers::clock::monotonic;
use upcall_helpers::wire::{Stage, WaitStatus};

use super::{Helper, Keeper, TICK};
use crate::failure::{Failure, require};

/// From the exec until the helper says that it can take the core: the shim waits for twice as long. Nanoseconds.
const DEADLINE: u64 = 1_000_000_000;

impl Keeper<'_> {
    /// Waits for the first byte of a helper that says so; one that ends before exits with its error's number.
    pub(super) fn ready(&self, output: &OwnedFd, helper: &Helper) -> Result<(), Failure> {
        if !self.enter.ready {
            return Ok(());
        }
        let deadline = monotonic().saturating_add(DEADLINE);
        let mut listening = true;
        loop {
            let left = deadline.saturating_sub(self.row.beat()) / 1_000_000;
            let wait = u16::try_from(left).unwrap_or(TICK).min(TICK);
            let mut fds = vec![PollFd::new(helper.pidfd.as_fd(), PollFlags::POLLIN)];
            if listening {
                fds.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::from(wait)) {
                // Looked at before it is too late, as whether it has been executed is.
                Ok(0) => require(left > 0, Stage::Place, Errno::ETIMEDOUT)?,
                Ok(_) => {}
                Err(_) => continue, // EINTR: look again
            }
            let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
            let (ended, heard) = (ready.next() == Some(true), ready.next() == Some(true));
            if heard {
                match nix::unistd::read(output, &mut [0]) {
                    Ok(1) => return Ok(()),
                    _ => listening = false, // closed; its end follows
                }
            } else if ended {
                return Err(self.why_not(helper));
            }
        }
    }

    fn why_not(&self, helper: &Helper) -> Failure {
        let errno = match self.reap(helper) {
            Some(WaitStatus::Exited(code)) if code != 0 => Errno::from_raw(code.into()),
            _ => Errno::ECONNABORTED,
        };
        let stage = Stage::Place;
        Failure { stage, errno }
    }
}
