//! The takers' side: each is fed at its own pace, from the file as far as that goes, and none is waited for while the
//! kernel still writes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::libc::loff_t;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The most that one call moves.
const CHUNK: usize = 1 << 20;

/// What does not go through a file goes through memory of this size.
const MEMORY: usize = 64 << 10;

/// A taker for whom others wait has so long to take something.
const STALL: Duration = Duration::from_secs(5);

/// The write end of the pipe that a taker's keeper reads.
#[derive(Debug)]
pub(crate) struct Feed {
    pipe: Option<OwnedFd>,
    /// Bytes given so far.
    given: u64,
}

impl Feed {
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        Self {
            pipe: Some(pipe),
            given: 0,
        }
    }

    /// Whether there is something that was not given yet.
    pub(crate) fn wants(&self, end: u64) -> bool {
        self.pipe.is_some() && self.given < end
    }

    /// Whether everything was given, and more is wanted.
    fn has_all(&self, end: u64) -> bool {
        self.pipe.is_some() && self.given >= end
    }

    /// Gives no more to a taker that has gone.
    fn close_if_gone(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
        if poll(&mut fds, PollTimeout::ZERO) == Ok(1) {
            self.pipe = None;
        }
    }

    /// What to wait for before giving more.
    pub(crate) fn poll(&self) -> Option<PollFd<'_>> {
        self.pipe
            .as_ref()
            .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT))
    }

    /// Gives what can be given of the file without waiting.
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
                Err(_) => self.pipe = None, // the taker has gone
            }
        }
    }

    /// Gives what can be given of the last part, which ends at `end`, without waiting.
    fn some_of_memory(&mut self, part: &[u8], end: u64) {
        while self.wants(end) {
            let Some(pipe) = &self.pipe else { return };
            let left = usize::try_from(end - self.given).unwrap_or(0);
            let left = part
                .len()
                .checked_sub(left)
                .and_then(|from| part.get(from..));
            match nix::unistd::write(pipe, left.unwrap_or_default()) {
                Ok(moved @ 1..) => self.given += u64::try_from(moved).unwrap_or(0),
                Ok(0) | Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(_) => self.pipe = None,
            }
        }
    }
}

/// Gives everybody the rest of the file, waiting for the slowest.
pub(crate) fn rest_of(feeds: &mut [Feed], file: &File, stored: u64) {
    while wait(feeds, stored, PollTimeout::NONE) {
        for feed in feeds.iter_mut() {
            feed.some_of(file, stored);
        }
    }
}

/// Gives everybody what still comes through the kernel's pipe, from its byte `end` on, until its end or until nobody
/// is left. With nowhere to keep it all go at one pace: who takes nothing for [`STALL`] while others wait gets no more.
pub(crate) fn pass_on(feeds: &mut [Feed], source: &OwnedFd, mut end: u64) {
    let mut memory = vec![0; MEMORY];
    while let Some(length) = next(feeds, source, &mut memory) {
        let part = memory.get(..length).unwrap_or_default();
        end = end.saturating_add(u64::try_from(length).unwrap_or(0));
        for feed in feeds.iter_mut() {
            feed.some_of_memory(part, end);
        }
        let mut last = Instant::now();
        let given = |feeds: &[Feed]| feeds.iter().map(|feed| feed.given).sum::<u64>();
        let mut before = given(feeds);
        while wait(feeds, end, PollTimeout::from(500_u16)) {
            for feed in feeds.iter_mut() {
                feed.some_of_memory(part, end);
            }
            let now = given(feeds);
            if now != before {
                (before, last) = (now, Instant::now());
            } else if last.elapsed() > STALL && feeds.iter().any(|feed| feed.has_all(end)) {
                for feed in feeds.iter_mut().filter(|feed| feed.wants(end)) {
                    feed.pipe = None;
                }
            }
        }
    }
}

/// Waits for the next part; `None` at the end, and where nobody is left to be given it.
fn next(feeds: &mut [Feed], source: &OwnedFd, memory: &mut [u8]) -> Option<usize> {
    loop {
        // A pipe without a reader says so unasked; waiting for the source alone would not see the takers go.
        let mut fds = vec![PollFd::new(source.as_fd(), PollFlags::POLLIN)];
        let pipes = feeds.iter().filter_map(|feed| feed.pipe.as_ref());
        fds.extend(pipes.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::empty())));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
        let ready = fds.first().and_then(PollFd::any) == Some(true);
        feeds.iter_mut().for_each(Feed::close_if_gone);
        if feeds.iter().all(|feed| feed.pipe.is_none()) {
            return None;
        }
        if ready {
            match nix::unistd::read(source, memory) {
                Ok(0) => return None,
                Ok(length) => return Some(length),
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Waits until one of those who lack something can take it; says whether there is any.
fn wait(feeds: &[Feed], end: u64, timeout: PollTimeout) -> bool {
    let wanting = feeds.iter().filter(|feed| feed.wants(end));
    let mut fds: Vec<_> = wanting.filter_map(Feed::poll).collect();
    if fds.is_empty() {
        return false;
    }
    let _ = poll(&mut fds, timeout);
    true
}
