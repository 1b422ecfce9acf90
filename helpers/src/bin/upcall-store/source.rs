//! Where the core comes from: the kernel's pipe, or its connection to the daemon's socket.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::SockType as Kind;
use nix::sys::socket::{MsgFlags, getsockopt, recv};

/// What does not go from pipe to file without being touched goes through memory of this size.
const MEMORY: usize = 256 << 10;

/// The kernel's end.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) end: &'a OwnedFd,
    /// For a socket: splice(2) moves pages between a file and a pipe only.
    memory: Option<Vec<u8>>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(end: &'a OwnedFd) -> Self {
        let is_socket = getsockopt(end, Kind).is_ok();
        Self {
            end,
            memory: is_socket.then(|| vec![0; MEMORY]),
        }
    }

    /// Moves what is there, and no more than `most`, to the file; 0 is the end.
    ///
    /// # Errors
    /// As splice(2), recv(2), write(2); `EAGAIN` where nothing is there.
    pub(crate) fn move_to(&mut self, mut file: &File, most: usize) -> Result<usize, Errno> {
        let Some(memory) = &mut self.memory else {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            return splice(self.end, None, file, None, most, flags);
        };
        let most = most.min(memory.len());
        let part = memory.get_mut(..most).unwrap_or_default();
        let length = recv(self.end.as_raw_fd(), part, MsgFlags::MSG_DONTWAIT)?;
        let part = part.get(..length).unwrap_or_default();
        let written = file.write_all(part);
        let errno =
            |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        written.map(|()| length).map_err(errno)
    }

    /// Whether the writer is gone and nothing is left to read.
    pub(crate) fn at_end(&self) -> bool {
        if self.memory.is_some() {
            // The kernel's connection stays open after its last byte.
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            return recv(self.end.as_raw_fd(), &mut [0], flags) == Ok(0);
        }
        let mut fds = [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)];
        let found = poll(&mut fds, PollTimeout::ZERO).is_ok();
        let events = fds.first().and_then(PollFd::revents);
        let events = events.unwrap_or(PollFlags::empty());
        found && events.contains(PollFlags::POLLHUP) && !events.contains(PollFlags::POLLIN)
    }
}
