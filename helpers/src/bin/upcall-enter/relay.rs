//! Moves the core from the kernel's pipe to the helper's, and keeps the first of what the helper says.
//!
//! Nothing is copied: splice(2) moves pages from pipe to pipe. The kernel's pipe stays open, read or not, until the
//! helper has ended: that is what keeps a crashed process, and the namespaces that live by it, where they are.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::board::Row;
use crate::keeper::TICK;

/// The most that one call moves; a pipe holds 64 KiB unless somebody made it larger.
const CHUNK: usize = 1 << 20;

/// One helper's traffic.
#[derive(Debug)]
pub(crate) struct Relay {
    source: Option<OwnedFd>,
    feed: Option<OwnedFd>,
    output: Option<OwnedFd>,
    said: Vec<u8>,
    said_max: usize,
    fed: u64,
    /// Nanoseconds without progress after which it is over.
    patience: u64,
    /// Bytes that have to go in every second beyond the patience; 0: any number.
    slowest: u64,
    /// Whether `patience` is for all of it, whatever moves.
    pub(crate) in_all: bool,
    state: State,
}

/// What feeding waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The kernel has to write.
    Source,
    /// The helper has to read.
    Feed,
    /// All was fed, or the helper wants no more.
    Over,
}

/// Nothing moved for too long.
#[derive(Debug)]
pub(crate) struct TimedOut;

impl Relay {
    /// `output_max` bytes of what the helper writes are kept; `progress` milliseconds without any are too long.
    pub(crate) fn new(
        source: OwnedFd,
        feed: OwnedFd,
        output: OwnedFd,
        output_max: u32,
        progress: u32,
    ) -> Self {
        // A helper that writes while we read must not make us wait; the tenant holds the other end only.
        let _ = fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        Self {
            source: Some(source),
            feed: Some(feed),
            output: Some(output),
            said: Vec::new(),
            said_max: usize::try_from(output_max).unwrap_or(0),
            fed: 0,
            patience: u64::from(progress).saturating_mul(1_000_000),
            slowest: 0,
            in_all: false,
            state: State::Source,
        }
    }

    /// Ends it also when fewer than so many bytes go in a second, on the whole.
    pub(crate) fn demand(&mut self, slowest: u64) {
        self.slowest = slowest;
    }

    /// Whether feeding takes longer than so many bytes may.
    fn crawls(&self, since_start: u64) -> bool {
        // What is in the pipe is not taken yet.
        let taken = self.fed.saturating_sub(CHUNK as u64);
        let allowed = taken.checked_div(self.slowest);
        let allowed = allowed.map(|seconds| seconds.saturating_mul(1_000_000_000));
        self.state == State::Feed
            && allowed.is_some_and(|allowed| since_start > self.patience.saturating_add(allowed))
    }

    /// Relays until the helper has ended.
    ///
    /// # Errors
    /// Nothing moved for too long.
    pub(crate) fn run(&mut self, helper: &OwnedFd, row: Row) -> Result<(), TimedOut> {
        let start = row.beat();
        let mut last = start;
        loop {
            let ready = self.wait(helper);
            let now = row.beat();
            if ready.feed && self.feed() {
                last = now;
            }
            if ready.output && self.listen() {
                last = now;
            }
            if ready.ended {
                // First of all the crashed process may go.
                self.source = None;
                self.listen();
                return Ok(());
            }
            let over = if self.in_all { start } else { last };
            if now.saturating_sub(over) > self.patience || self.crawls(now.saturating_sub(start)) {
                return Err(TimedOut);
            }
        }
    }

    /// How much was fed, and what the helper said; closes everything, which releases the crashed process.
    pub(crate) fn finish(self) -> (u64, Vec<u8>) {
        (self.fed, self.said)
    }

    fn wait(&self, helper: &OwnedFd) -> Ready {
        let mut fds = vec![PollFd::new(helper.as_fd(), PollFlags::POLLIN)];
        match self.state {
            State::Source => fds.extend(
                self.source
                    .as_ref()
                    .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
            ),
            State::Feed => fds.extend(
                self.feed
                    .as_ref()
                    .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)),
            ),
            State::Over => {}
        }
        let feeding = fds.len() > 1;
        if let Some(output) = &self.output {
            fds.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
        }
        if poll(&mut fds, PollTimeout::from(TICK)).is_err() {
            return Ready::default(); // EINTR: look again
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
        Ready {
            ended: ready.next().unwrap_or(false),
            feed: feeding && ready.next().unwrap_or(false),
            output: ready.next().unwrap_or(false),
        }
    }

    /// Moves what can be moved without waiting; says whether anything was.
    fn feed(&mut self) -> bool {
        let (Some(source), Some(feed)) = (&self.source, &self.feed) else {
            return false;
        };
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        match splice(source, None, feed, None, CHUNK, flags) {
            Ok(0) => {
                // The whole core is through. The helper sees the end of its input; the kernel's pipe stays open.
                self.feed = None;
                self.state = State::Over;
                true
            }
            Ok(moved) => {
                self.fed = self.fed.saturating_add(u64::try_from(moved).unwrap_or(0));
                self.state = State::Source;
                true
            }
            // Either the source is empty or the feed is full: what was not waited for last is.
            Err(Errno::EAGAIN) => {
                self.state = match self.state {
                    State::Source => State::Feed,
                    State::Feed | State::Over => State::Source,
                };
                false
            }
            Err(Errno::EINTR) => false,
            // The helper closed its input: it wants no more, and what is left goes nowhere.
            Err(_) => {
                self.feed = None;
                self.state = State::Over;
                false
            }
        }
    }

    /// Reads what the helper wrote, as much as is there; says whether there was anything.
    fn listen(&mut self) -> bool {
        let mut heard = false;
        // Bounded: a helper that writes faster than we read must not keep us from the rest.
        for _ in 0..16 {
            let Some(output) = &self.output else { break };
            let mut buffer = [0; 4096];
            match nix::unistd::read(output, &mut buffer) {
                Ok(0) => self.output = None,
                Ok(length) => {
                    heard = true;
                    let room = self.said_max.saturating_sub(self.said.len());
                    self.said.extend(buffer.iter().take(length.min(room)));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => self.output = None,
            }
        }
        heard
    }
}

/// What poll(2) found.
#[derive(Debug, Default)]
struct Ready {
    ended: bool,
    feed: bool,
    output: bool,
}
