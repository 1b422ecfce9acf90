//! Hands the core over: its facts and the pipe that it comes from, and then waits until the receiver has it.
//!
//! The pipe is one of the keeper's own, which nobody else reads; the kernel's is never in anybody's hands but the
//! keeper's. We keep its end open ourselves, so we know what was left when the receiver closed.

mod systemd;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use upcall_helpers::seqpacket;
use upcall_helpers::sys::inherited;

use crate::socket::{self, Connected, Trusted};
use crate::{ready, say, sys};

/// How often a pipe that has its end and is not empty is looked at, in milliseconds.
const LOOK: u16 = 10;

/// The longest answer that is read.
const ANSWER_MAX: usize = 256;

/// The least that is kept of a core.
const PAGE: u64 = 4096;

/// Of the time that a receiver may take, so much is left to tell that it was over.
const MARGIN: Duration = Duration::from_millis(500);

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// systemd-coredump's own between its processes (systemd-coredump(8)): a datagram for each field, an empty one with
    /// the core's descriptor, and the end. When it is done it closes.
    Systemd,
    /// docs/deliver-protocol.md.
    Upcalld,
}

/// One delivery.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    pub(crate) protocol: Protocol,
    /// How long the receiver may take nothing.
    pub(crate) timeout: Duration,
    /// `NAME=VALUE`.
    pub(crate) fields: &'a [&'a [u8]],
}

impl Delivery<'_> {
    /// Does it, with standard input.
    ///
    /// # Errors
    /// Before the core is claimed: as [`socket::open`]; `ENODATA` where a fact is missing that the protocol wants;
    /// `EDEADLK`, who listens is who crashed. After that: `ECONNRESET`, the receiver went without having taken anything or without an answer; `EREMOTEIO`, it does
    /// not want the core; the others as sendmsg(2).
    pub(crate) fn run(&self, path: &[u8]) -> Result<(), Errno> {
        let core = inherited(0)?;
        let messages = self.messages()?;
        let Connected { socket, listener } = socket::open(path, Trusted::ours())?;
        let crashed = value(self.fields, "pid").and_then(|pid| str::from_utf8(pid).ok());
        if crashed.and_then(|pid| pid.parse().ok()) == Some(listener) {
            return Err(Errno::EDEADLK); // it would accept this when it is no more
        }
        ready()?;
        if !begins(&core) {
            return Ok(()); // somebody else has it, or there is nothing to have
        }
        self.send(&socket, &core, &messages)?;
        match self.protocol {
            Protocol::Systemd => self.wait_for_close(&socket, &core),
            Protocol::Upcalld => wait_for_answer(&socket),
        }
    }

    /// The datagrams, without the one that has nothing but a descriptor.
    fn messages(&self) -> Result<Vec<Vec<u8>>, Errno> {
        match self.protocol {
            Protocol::Upcalld => {
                let mut record = b"version=1\0kind=core\0".to_vec();
                for field in self.fields {
                    record.extend_from_slice(field);
                    record.push(0);
                }
                Ok(vec![record])
            }
            Protocol::Systemd => systemd::messages(self.fields, &hostname()),
        }
    }

    fn send(&self, socket: &OwnedFd, core: &OwnedFd, messages: &[Vec<u8>]) -> Result<(), Errno> {
        let (socket, core) = (socket.as_fd(), core.as_fd());
        match self.protocol {
            Protocol::Upcalld => {
                for message in messages {
                    seqpacket::send(socket, message, &[core])?;
                }
            }
            Protocol::Systemd => {
                for message in messages {
                    seqpacket::send(socket, message, &[])?;
                }
                seqpacket::send(socket, &[], &[core])?;
                // A later systemd waits for further descriptors; the end is that there are none.
                shutdown(std::os::fd::AsRawFd::as_raw_fd(&socket), Shutdown::Write)?;
            }
        }
        Ok(())
    }

    /// Until all was read and the receiver has closed, or needs longer than it may with what it has read.
    fn wait_for_close(&self, socket: &OwnedFd, core: &OwnedFd) -> Result<(), Errno> {
        let mut taken = None;
        loop {
            if taken.is_none() && is_drained(core)? {
                taken = Some(Instant::now());
                // Whatever is said counts as progress: its own time begins now.
                say("all taken");
            }
            let waits = match taken {
                Some(since) => self
                    .timeout
                    .saturating_sub(MARGIN)
                    .saturating_sub(since.elapsed()),
                None => Duration::MAX,
            };
            if waits.is_zero() {
                say(", still at work with it");
                return Ok(());
            }
            if !closed_within(socket, core, taken.is_some(), waits) {
                continue;
            }
            return match taken {
                Some(_) => Ok(()),
                None if wanted_none(self.fields) => {
                    say("noted without the core: its core limit");
                    Ok(())
                }
                None if is_untouched(core) => Err(Errno::ECONNRESET),
                None => {
                    say("closed before the core's end");
                    Ok(())
                }
            };
        }
    }
}

/// Waits for the receiver to close or for the core's end to be there, not longer than `waits` by much.
fn closed_within(socket: &OwnedFd, core: &OwnedFd, taken: bool, waits: Duration) -> bool {
    let mut fds = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let ended = has_ended(core);
    if !ended {
        // Nothing is asked for; that the keeper has closed its end is always told.
        fds.push(PollFd::new(core.as_fd(), PollFlags::empty()));
    }
    let waits = if ended && !taken {
        Duration::from_millis(LOOK.into())
    } else {
        waits.min(Duration::from_secs(1))
    };
    let waits = PollTimeout::try_from(waits).unwrap_or(PollTimeout::ZERO);
    poll(&mut fds, waits).is_ok() && fds.first().and_then(PollFd::any) == Some(true)
}

/// Waits for the word of a receiver of our own protocol; the keeper ends us if it takes too long.
fn wait_for_answer(socket: &OwnedFd) -> Result<(), Errno> {
    let mut answer = [0; ANSWER_MAX];
    let length = loop {
        match recv(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            &mut answer,
            MsgFlags::empty(),
        ) {
            Err(Errno::EINTR) => {}
            result => break result?,
        }
    };
    match answer.get(..length) {
        None | Some([]) => Err(Errno::ECONNRESET),
        Some(b"ok") => Ok(()),
        Some(other) => {
            say(&String::from_utf8_lossy(other));
            Err(Errno::EREMOTEIO)
        }
    }
}

/// Waits for the first byte; not when the keeper closes without one.
fn begins(core: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(core.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            _ => return sys::readable(core.as_fd()).is_ok_and(|length| length > 0),
        }
    }
}

fn has_ended(core: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(core.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds.iter().any(|fd| fd.any().unwrap_or(true))
}

fn is_drained(core: &OwnedFd) -> Result<bool, Errno> {
    Ok(has_ended(core) && sys::readable(core.as_fd())? == 0)
}

/// Whether nothing was read: a core begins as every ELF file does, and what was read is gone.
fn is_untouched(core: &OwnedFd) -> bool {
    let mut magic = [0; 4];
    let available = sys::readable(core.as_fd()).unwrap_or(0) >= magic.len();
    available && nix::unistd::read(core, &mut magic) == Ok(4) && magic == *b"\x7fELF"
}

fn hostname() -> Vec<u8> {
    use std::os::unix::ffi::OsStringExt;
    let name = nix::unistd::gethostname().map(OsStringExt::into_vec);
    name.unwrap_or_default()
}

/// Whether the process wanted no core: below a page its receiver keeps none, as the kernel (fs/coredump.c).
fn wanted_none(fields: &[&[u8]]) -> bool {
    let limit = value(fields, "limit").and_then(|limit| str::from_utf8(limit).ok());
    limit
        .and_then(|limit| limit.parse::<u64>().ok())
        .is_some_and(|limit| limit < PAGE)
}

/// The value of one of our fields.
fn value<'a>(fields: &[&'a [u8]], name: &str) -> Option<&'a [u8]> {
    fields.iter().find_map(|field| {
        let rest = field.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })
}

#[cfg(test)]
mod tests;
