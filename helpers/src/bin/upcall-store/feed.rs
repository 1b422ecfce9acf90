//! The takers' side: each is fed at its own pace, from memory while it keeps up and from the file when it does not,
//! and none is waited for while the kernel still writes.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::copy::{Copy, Part};

/// A taker for whom others wait has so long to take something.
const STALL: Duration = Duration::from_secs(5);

/// What a pipe to a taker holds, where the kernel allows it: fewer rounds.
const PIPE: i32 = 1 << 20;

/// What takers can be given: the file up to a byte of the core, and from there on what is in memory.
pub(crate) struct Core<'a> {
    pub(crate) copy: Option<&'a mut Copy>,
    pub(crate) base: u64,
    pub(crate) memory: &'a [u8],
}

impl Core<'_> {
    fn end(&self) -> u64 {
        let length = u64::try_from(self.memory.len()).unwrap_or(u64::MAX);
        self.base.saturating_add(length)
    }
}

/// The write end of the pipe that a taker's keeper reads.
#[derive(Debug)]
pub(crate) struct Feed {
    pipe: Option<OwnedFd>,
    /// Bytes given so far.
    given: u64,
    /// For what it is given out of the file.
    part: Part,
}

impl Feed {
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE));
        Self {
            pipe: Some(pipe),
            given: 0,
            part: Part::default(),
        }
    }

    /// Whether there is something that was not given yet.
    fn wants(&self, end: u64) -> bool {
        self.pipe.is_some() && self.given < end
    }

    /// Whether everything was given, and more is wanted.
    fn has_all(&self, end: u64) -> bool {
        self.pipe.is_some() && self.given >= end
    }

    /// Gives what can be given without waiting.
    fn give(&mut self, core: &mut Core<'_>) {
        while self.wants(core.end()) {
            let Some(pipe) = &self.pipe else { return };
            let result = match (self.given.checked_sub(core.base), &mut core.copy) {
                (None, Some(copy)) => copy.give(pipe, self.given, &mut self.part),
                (None, None) => Ok(0),
                (Some(from), _) => {
                    let from = usize::try_from(from).unwrap_or(usize::MAX);
                    nix::unistd::write(pipe, core.memory.get(from..).unwrap_or_default())
                }
            };
            match result {
                Ok(moved @ 1..) => self.given += u64::try_from(moved).unwrap_or(0),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                // The taker has gone, or what it lacks cannot be read any more.
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
    }

    /// Gives no more to a taker that has gone.
    fn close_if_gone(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
        if poll(&mut fds, PollTimeout::ZERO) == Ok(1) {
            self.pipe = None;
        }
    }
}

/// Everybody who takes one core.
#[derive(Debug)]
pub(crate) struct Feeds(Vec<Feed>);

impl Feeds {
    pub(crate) fn new(pipes: Vec<OwnedFd>) -> Self {
        Self(pipes.into_iter().map(Feed::new).collect())
    }

    /// Gives everybody what can be given without waiting.
    pub(crate) fn give(&mut self, core: &mut Core<'_>) {
        for feed in &mut self.0 {
            feed.give(core);
        }
    }

    /// What to wait for, for those who lack something.
    pub(crate) fn poll(&self, core: &Core<'_>) -> impl Iterator<Item = PollFd<'_>> {
        let end = core.end();
        let wanting = self.0.iter().filter(move |feed| feed.wants(end));
        wanting.filter_map(|feed| {
            let pipe = feed.pipe.as_ref()?;
            Some(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT))
        })
    }

    /// Gives everybody all that there is, waiting for the slowest. With `more` to come and nowhere to keep it all go at
    /// one pace: then who takes nothing for [`STALL`] while others wait gets no more.
    pub(crate) fn give_all(&mut self, core: &mut Core<'_>, more: bool) {
        let (mut before, mut last) = (0, Instant::now());
        loop {
            self.give(core);
            let end = core.end();
            let given = self.0.iter().map(|feed| feed.given).sum::<u64>();
            if given != before {
                (before, last) = (given, Instant::now());
            } else if more && last.elapsed() > STALL && self.0.iter().any(|feed| feed.has_all(end))
            {
                for feed in self.0.iter_mut().filter(|feed| feed.wants(end)) {
                    feed.pipe = None;
                }
            }
            let mut fds: Vec<_> = self.poll(core).collect();
            if fds.is_empty() {
                return;
            }
            let _ = poll(&mut fds, PollTimeout::from(500_u16));
        }
    }

    /// Waits for the next part; `None` at the end, and where nobody is left to be given it.
    pub(crate) fn next(&mut self, source: &OwnedFd, memory: &mut [u8]) -> Option<usize> {
        while self.0.iter().any(|feed| feed.pipe.is_some()) {
            // A pipe without a reader says so unasked; waiting for the source alone would not see the takers go.
            let mut fds = vec![PollFd::new(source.as_fd(), PollFlags::POLLIN)];
            let pipes = self.0.iter().filter_map(|feed| feed.pipe.as_ref());
            fds.extend(pipes.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::empty())));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
            let ready = fds.first().and_then(PollFd::any) == Some(true);
            self.0.iter_mut().for_each(Feed::close_if_gone);
            if ready {
                match nix::unistd::read(source, memory) {
                    Ok(0) => return None,
                    Ok(length) => return Some(length),
                    Err(Errno::EINTR) => {}
                    Err(_) => return None,
                }
            }
        }
        None
    }
}
