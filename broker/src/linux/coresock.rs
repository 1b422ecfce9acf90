//! The kernel's coredump socket (linux/coredump.h, fs/coredump.c): the kernel connects in the name of the process that
//! dumps, asks (6.17, `@@` in core_pattern), and then writes the core, or nothing.
//!
//! `@` (6.16) is the same without the question: the core comes at once.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, send};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::seqpacket;
use super::sys::{self, CoreInfo};

/// The first question ever, and the least of an answer (`COREDUMP_ACK_SIZE_VER0`).
const SIZE: usize = 16;

/// The longest question that is read; a later kernel's may be longer than today's.
const QUESTION_MAX: usize = 256;

/// `COREDUMP_KERNEL`, `_USERSPACE`, `_REJECT`, `_WAIT`.
const KERNEL: u64 = 1;
const USERSPACE: u64 = 1 << 1;
const REJECT: u64 = 1 << 2;
const WAIT: u64 = 1 << 3;

/// `COREDUMP_MARK_REQACK`: the answer was taken.
const TAKEN: u32 = 0;

/// The first bytes of a core.
const ELF: [u8; 4] = *b"\x7fELF";

/// A listening socket for the kernel.
#[derive(Debug)]
pub struct Listener(AsyncFd<OwnedFd>);

/// Who connected.
#[derive(Debug)]
pub struct Peer {
    /// Its pid when it connected, in our pid namespace.
    pub pid: u32,
    /// Its effective uid then, in our user namespace.
    pub uid: u32,
    /// What the kernel says about its dump.
    pub dump: CoreInfo,
    /// The process, which may have been reaped.
    pub pidfd: OwnedFd,
}

/// What comes first over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The kernel asks, and waits for the answer without a limit of time.
    Question {
        /// What it takes for an answer.
        takes: u64,
    },
    /// The core itself.
    Core,
}

/// What the kernel is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Write the core, and then hold the process until the last descriptor of the connection is closed.
    Write,
    /// Write nothing and hold the process, which counts as dumped, until the connection is closed.
    Hold,
    /// Write nothing, and let the process end: nothing of its memory is read.
    Reject,
}

/// Why a connection is not the kernel's, or the kernel did not take an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TalkError {
    /// As recv(2), send(2).
    #[error("socket: {}", .0.desc())]
    Socket(#[from] Errno),
    /// Nothing came in time.
    #[error("it said nothing for {} ms", .0.as_millis())]
    Silent(Duration),
    /// It was closed: the process was killed.
    #[error("it was closed; the process was killed")]
    Closed,
    /// What came is no question of the kernel's.
    #[error("what it said is no request of the kernel's")]
    Strange,
    /// The kernel does not know what was answered.
    #[error("the kernel does not take the answer (mark {0})")]
    Refused(u32),
}

impl Listener {
    /// Listens at `path`, in place of what a former daemon left there. The directory is the caller's and root's alone:
    /// the kernel does not look at modes, everybody else has to.
    ///
    /// # Errors
    /// As socket(2), bind(2), listen(2).
    pub fn bind(path: &Path) -> std::io::Result<Self> {
        seqpacket::listening(path, SockType::Stream).map(Self)
    }

    /// Takes over a listening socket that we were started with.
    ///
    /// # Errors
    /// As fcntl(2), epoll_ctl(2).
    pub fn inherited(socket: OwnedFd) -> std::io::Result<Self> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        sys::watch(socket).map(Self)
    }

    /// The next connection; it does not block.
    ///
    /// # Errors
    /// As accept(2); `EMFILE` and its kind should be waited out.
    pub async fn accept(&self) -> std::io::Result<OwnedFd> {
        seqpacket::accepted(&self.0).await
    }
}

/// Who connected. For a connection of the kernel's that is the process that dumps, which may be gone already.
///
/// # Errors
/// As getsockopt(2), `PIDFD_GET_INFO`: a kernel that has this socket knows both.
pub fn peer(connection: &OwnedFd) -> Result<Peer, Errno> {
    let credentials = getsockopt(connection, PeerCredentials)?;
    let pidfd = getsockopt(connection, PeerPidfd)?;
    Ok(Peer {
        pid: u32::try_from(credentials.pid()).map_err(|_| Errno::ESRCH)?,
        uid: credentials.uid(),
        dump: sys::pidfd_core_info(pidfd.as_fd())?,
        pidfd,
    })
}

/// Waits for what comes first. A question is taken, a core is left where it is.
///
/// # Errors
/// See [`TalkError`].
pub async fn opening(connection: &OwnedFd, deadline: Duration) -> Result<Opening, TalkError> {
    let mut head = [0; 4];
    receive(connection, &mut head, MsgFlags::MSG_PEEK, deadline).await?;
    if head == ELF {
        return Ok(Opening::Core);
    }
    let size = usize::try_from(u32::from_ne_bytes(head)).unwrap_or(0);
    let mut question = [0; QUESTION_MAX];
    let question = question.get_mut(..size).ok_or(TalkError::Strange)?;
    if size < SIZE {
        return Err(TalkError::Strange);
    }
    receive(connection, question, MsgFlags::empty(), deadline).await?;
    let takes = asked(question).ok_or(TalkError::Strange)?;
    Ok(Opening::Question { takes })
}

/// What the kernel takes for an answer, by its question (`struct coredump_req`: size, size_ack, mask); `None` for what
/// is no question, or of a kernel that knows no answer of ours.
pub fn asked(question: &[u8]) -> Option<u64> {
    let (least, takes) = (number(question, 4)?, long(question, 8)?);
    let knows_us = usize::try_from(least).is_ok_and(|least| least >= SIZE);
    let core = takes & KERNEL != 0 && takes & REJECT != 0;
    (knows_us && core).then_some(takes)
}

/// Answers the kernel's question, once, and waits until the answer was taken.
///
/// # Errors
/// See [`TalkError`]; `Closed` for a process that was killed meanwhile.
pub async fn answer(
    connection: &OwnedFd,
    takes: u64,
    answer: Answer,
    deadline: Duration,
) -> Result<(), TalkError> {
    send_answer(connection, takes, answer)?;
    let mut mark = [0; 4];
    receive(connection, &mut mark, MsgFlags::empty(), deadline).await?;
    match u32::from_ne_bytes(mark) {
        TAKEN => Ok(()),
        other => Err(TalkError::Refused(other)),
    }
}

/// Answers [`Answer::Reject`], and does not wait: whether it is taken or the connection closed is the same.
pub fn reject(connection: &OwnedFd) {
    let _ = send_answer(connection, REJECT, Answer::Reject);
}

/// Has reads of the connection wait, as those of a pipe from the kernel do: for whoever reads the core.
///
/// # Errors
/// As fcntl(2).
pub fn make_blocking(connection: &OwnedFd) -> Result<(), Errno> {
    fcntl(connection, FcntlArg::F_SETFL(OFlag::empty())).map(drop)
}

/// What says so to a kernel that takes these answers (`struct coredump_ack`: size, spare, mask).
pub fn said(takes: u64, answer: Answer) -> [u8; SIZE] {
    let mask = match answer {
        Answer::Write => KERNEL | WAIT & takes,
        Answer::Hold => USERSPACE | WAIT & takes,
        Answer::Reject => REJECT,
    };
    let mut ack = [0; SIZE];
    ack[..4].copy_from_slice(&16_u32.to_ne_bytes());
    ack[8..].copy_from_slice(&mask.to_ne_bytes());
    ack
}

/// The queue is empty, so there is always room.
fn send_answer(connection: &OwnedFd, takes: u64, answer: Answer) -> Result<(), Errno> {
    let ack = said(takes, answer);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let sent = send(connection.as_raw_fd(), &ack, flags)?;
    if sent == SIZE {
        Ok(())
    } else {
        Err(Errno::EMSGSIZE)
    }
}

/// Receives exactly so much, which the kernel sends at once.
async fn receive(
    connection: &OwnedFd,
    buffer: &mut [u8],
    flags: MsgFlags,
    deadline: Duration,
) -> Result<(), TalkError> {
    let flags = flags | MsgFlags::MSG_DONTWAIT;
    let mut receive = |fd: BorrowedFd<'_>| recv(fd.as_raw_fd(), buffer, flags);
    // Tried at once: most often it is there.
    let received = match receive(connection.as_fd()) {
        Err(Errno::EAGAIN) => {
            let again = connection.try_clone().map_err(|_| Errno::EMFILE)?;
            let watched = sys::watch(again).map_err(|_| Errno::ENOMEM)?;
            let receive = |fd: &OwnedFd| Ok(receive(fd.as_fd())?);
            let received = watched.async_io(Interest::READABLE, receive);
            let received = tokio::time::timeout(deadline, received).await;
            received
                .map_err(|_| TalkError::Silent(deadline))?
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?
        }
        received => received?,
    };
    match received {
        0 => Err(TalkError::Closed),
        all if all == buffer.len() => Ok(()),
        _ => Err(TalkError::Strange),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_ne_bytes(bytes))
}
