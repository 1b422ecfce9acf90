//! The helper's side: fed from the file, never waited for while the kernel still writes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::libc::loff_t;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The most that one call moves.
const CHUNK: usize = 1 << 20;

/// The write end of the pipe that a helper's keeper reads.
#[derive(Debug)]
pub(crate) struct Feed {
    pipe: Option<OwnedFd>,
    /// Bytes given so far.
    given: u64,
}

impl Feed {
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe: Some(pipe),
            given: 0,
        }
    }

    /// Whether the file has something that was not given yet.
    pub(crate) fn wants(&self, stored: u64) -> bool {
        self.pipe.is_some() && self.given < stored
    }

    /// What to wait for before giving more.
    pub(crate) fn poll(&self) -> Option<PollFd<'_>> {
        self.pipe
            .as_ref()
            .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT))
    }

    /// Gives what can be given without waiting.
    pub(crate) fn some_of(&mut self, file: &File, stored: u64) {
        while self.wants(stored) {
            let Some(pipe) = &self.pipe else { return };
            let left = usize::try_from(stored - self.given)
                .unwrap_or(CHUNK)
                .min(CHUNK);
            let mut offset = loff_t::try_from(self.given).unwrap_or(loff_t::MAX);
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            match splice(file, Some(&mut offset), pipe, None, left, flags) {
                Ok(moved @ 1..) => self.given += u64::try_from(moved).unwrap_or(0),
                Ok(0) | Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(_) => self.pipe = None, // the helper has gone
            }
        }
    }

    /// Gives the rest of the file, waiting.
    ///
    /// # Errors
    /// `EPIPE` where the helper has gone.
    pub(crate) fn rest_of(&mut self, file: &File, stored: u64) -> Result<(), Errno> {
        while self.wants(stored) {
            self.wait();
            self.some_of(file, stored);
        }
        if self.pipe.is_some() {
            Ok(())
        } else {
            Err(Errno::EPIPE)
        }
    }

    /// Gives everything that still comes through the kernel's pipe, waiting.
    ///
    /// # Errors
    /// As splice(2); `EPIPE` where the helper has gone.
    pub(crate) fn all_from(&mut self, source: &OwnedFd) -> Result<(), Errno> {
        loop {
            let pipe = self.pipe.as_ref().ok_or(Errno::EPIPE)?;
            // A pipe without a reader says so unasked; waiting for the source alone would not see the helper go.
            let mut fds = [
                PollFd::new(source.as_fd(), PollFlags::POLLIN),
                PollFd::new(pipe.as_fd(), PollFlags::empty()),
            ];
            poll(&mut fds, PollTimeout::NONE)?;
            match splice(source, None, pipe, None, CHUNK, SpliceFFlags::empty()) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait(&self) {
        let mut fds: Vec<_> = self.poll().into_iter().collect();
        let _ = poll(&mut fds, PollTimeout::NONE);
    }
}
