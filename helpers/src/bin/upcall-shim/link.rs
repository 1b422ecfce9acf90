//! One question to the daemon, with a deadline on every step.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use upcall_helpers::clock::monotonic;
use upcall_helpers::hookfile::HookFile;
use upcall_helpers::seqpacket;
use upcall_helpers::wire::{Request, Verdict};

/// What the daemon said.
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// What came beside it.
    pub(crate) fds: Vec<OwnedFd>,
    /// Where it can be told what became of it.
    pub(crate) socket: OwnedFd,
}

/// Sends the request and waits for the verdict.
///
/// # Errors
/// `ENOENT` or `ECONNREFUSED`: nobody listens. `EAGAIN`: somebody does and is too late. Anything else is as good as
/// nobody.
pub(crate) fn ask(
    hook: &HookFile,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<Answer, Errno> {
    use std::os::fd::AsRawFd;
    let record = request.encode().map_err(|_| Errno::E2BIG)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let left = || {
        // From the shim's own start: what was looked at before counts too.
        let gone = monotonic().saturating_sub(request.started);
        let left = hook.deadline.saturating_sub(Duration::from_nanos(gone));
        let left = left.as_micros();
        // Zero would mean for ever (socket(7)).
        TimeVal::microseconds(i64::try_from(left).unwrap_or(i64::MAX).max(1))
    };
    // For connect(2) too, where the listener's backlog is full (unix(7)).
    setsockopt(&socket, SendTimeout, &left())?;
    connect(socket.as_raw_fd(), &UnixAddr::new(&hook.socket)?)?;
    seqpacket::send(socket.as_fd(), &record, fds)?;
    setsockopt(&socket, ReceiveTimeout, &left())?;
    let answer = seqpacket::receive(socket.as_fd())?;
    Ok(Answer {
        verdict: Verdict::decode(&answer.record).map_err(|_| Errno::EBADMSG)?,
        fds: answer.fds,
        socket,
    })
}
