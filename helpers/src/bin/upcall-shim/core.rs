//! The core hook: `|…/core [--hooks=DIR] %P %I …` of kernel.core_pattern.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use upcall_helpers::clock::monotonic;
use upcall_helpers::sys;
use upcall_helpers::wire::{CORE_PIDFD_WORD, Hook, Request, RequestFd, Verdict, Why};

use crate::{FAILURE, SUCCESS, hook, link, spool};

/// Serves one core dump.
pub(crate) fn run(mut words: Vec<Vec<u8>>) -> u8 {
    let started = monotonic();
    let hook = hook::file(&mut words, "core");
    let (Ok(stdin), Ok(claim)) = (sys::inherited(0), one_token()) else {
        return FAILURE; // not started by the kernel, or it is out of memory
    };
    // Room for a small core in one go: the kernel writes it while we ask. It may say no.
    let _ = fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(1 << 20));
    let pidfd = kernels_pidfd(&words);
    let mut fds = vec![RequestFd::Stdin, RequestFd::Claim];
    let mut given = vec![stdin.as_fd(), claim.as_fd()];
    if let Some(pidfd) = &pidfd {
        fds.push(RequestFd::Pidfd);
        given.push(pidfd.as_fd());
    }
    let request = Request {
        hook: Hook::Core,
        argv: words,
        fds,
        started,
        id: Some(hook::new_id()),
        key: None,
    };
    let why = match link::ask(&hook, &request, &given).map(|answer| answer.verdict) {
        // Refused: closing the pipe ends the dump.
        Ok(Verdict::Deny { .. }) => return FAILURE,
        Ok(Verdict::Done) => return SUCCESS,
        // The others are verdicts on keys and modules.
        Ok(_) => Why::HandedBack,
        Err(Errno::EAGAIN | Errno::EINPROGRESS) => Why::Late,
        Err(_) => Why::Absent,
    };
    // Whoever has the token reads; if it is gone, a worker does.
    if !claimed(&claim) {
        return SUCCESS;
    }
    spool::keep(&hook, &request, why, &stdin, pidfd.as_ref())
}

/// An eventfd with one token, that one of its holders can take (eventfd(2)).
fn one_token() -> Result<EventFd, Errno> {
    EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

/// Takes the token, if nobody has.
fn claimed(claim: &EventFd) -> bool {
    claim.read() == Ok(1)
}

/// The pidfd that the kernel made, where it did: it says its number in the place of `%F`, and leaves the word empty
/// where it does not know `%F` (fs/coredump.c, 6.16 and backports).
fn kernels_pidfd(words: &[Vec<u8>]) -> Option<OwnedFd> {
    match words.get(CORE_PIDFD_WORD).map(Vec::as_slice) {
        Some(b"3") => sys::inherited(3).ok(),
        _ => None,
    }
}
