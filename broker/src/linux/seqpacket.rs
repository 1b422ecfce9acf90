//! Sockets of records, for the daemon's event loop: a listener, and connections that are read and written with
//! deadlines. One record is one message; its descriptors come with it ([`upcall_helpers::seqpacket`]).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen,
    socket, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use upcall_helpers::seqpacket::{self as records, Received};

use super::pidref::PidRef;
use super::sys;

/// Waiting requests beyond this find the backlog full; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A listening socket.
#[derive(Debug)]
pub struct Listener(AsyncFd<OwnedFd>);

/// One connection.
#[derive(Debug)]
pub struct Connection(AsyncFd<OwnedFd>);

/// Who is on the other side, as of its connect(2).
#[derive(Debug)]
pub struct Peer {
    /// Its user id, in our user namespace.
    pub uid: u32,
    /// The process, held.
    pub process: PidRef,
}

/// A socket that listens at `path`, in place of what a former daemon left there.
pub(super) fn listening(path: &Path, kind: SockType) -> std::io::Result<AsyncFd<OwnedFd>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, kind, flags, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
    sys::watch(socket)
}

/// The next connection of a listening socket; it does not block.
pub(super) async fn accepted(listening: &AsyncFd<OwnedFd>) -> std::io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let accept = |socket: &OwnedFd| Ok(accept4(socket.as_raw_fd(), flags)?);
    let raw = listening.async_io(Interest::READABLE, accept).await?;
    Ok(upcall_helpers::sys::inherited(raw)?)
}

impl Listener {
    /// Listens at `path`, in place of what a former daemon left there. The directory is the caller's and root's alone.
    ///
    /// # Errors
    /// As socket(2), bind(2), listen(2).
    pub fn bind(path: &Path) -> std::io::Result<Self> {
        listening(path, SockType::SeqPacket).map(Self)
    }

    /// Takes over a listening socket that we were started with.
    ///
    /// # Errors
    /// As fcntl(2), epoll_ctl(2).
    pub fn inherited(socket: OwnedFd) -> std::io::Result<Self> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        sys::watch(socket).map(Self)
    }

    /// The next connection.
    ///
    /// # Errors
    /// As accept(2); `EMFILE` and its kind should be waited out.
    pub async fn accept(&self) -> std::io::Result<Connection> {
        Connection::new(accepted(&self.0).await?)
    }
}

impl Connection {
    /// Takes a connected socket.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn new(socket: OwnedFd) -> std::io::Result<Self> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        sys::watch(socket).map(Self)
    }

    /// Who connected.
    ///
    /// # Errors
    /// `ESRCH` where it is gone already, on kernels before 6.16; later ones do not say so here.
    pub fn peer(&self) -> Result<Peer, Errno> {
        let socket = self.0.get_ref();
        let peer = getsockopt(socket, PeerCredentials)?;
        // 0: of a pid namespace that is not below ours.
        let pid = u32::try_from(peer.pid()).unwrap_or(0);
        let process = match getsockopt(socket, PeerPidfd) {
            // Both are of one `struct pid` (net/core/sock.c), so it need not be asked for its number.
            Ok(pidfd) if pid != 0 => PidRef::told(pidfd, pid),
            // Before 6.5: whoever has the number of the process that connected, which was `uid`'s.
            Err(Errno::ENOPROTOOPT) => PidRef::open(pid)?,
            // The second: before 6.15 the word for one that has been waited for (kernel/fork.c, `pidfd_prepare`).
            Ok(_) | Err(Errno::EINVAL) => return Err(Errno::ESRCH),
            Err(errno) => return Err(errno),
        };
        Ok(Peer {
            uid: peer.uid(),
            process,
        })
    }

    /// Whether root connected, in our user namespace; told also of one that is gone.
    pub fn is_roots(&self) -> bool {
        getsockopt(self.0.get_ref(), PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
    }

    /// The next record; an empty one is the end of the connection.
    ///
    /// # Errors
    /// As recvmsg(2).
    pub async fn receive(&self) -> std::io::Result<Received> {
        let receive = |socket: &OwnedFd| -> std::io::Result<Received> {
            Ok(records::receive(socket.as_fd())?)
        };
        // Tried at once: who connects has most often sent too, and then the event loop has nothing to tell us.
        match receive(self.0.get_ref()) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.0.async_io(Interest::READABLE, receive).await
            }
            received => received,
        }
    }

    /// The next record, if it comes in time.
    ///
    /// # Errors
    /// As recvmsg(2); `TimedOut`.
    pub async fn receive_within(&self, deadline: Duration) -> std::io::Result<Received> {
        tokio::time::timeout(deadline, self.receive()).await?
    }

    /// Sends a record and descriptors, waiting for room at most so long.
    ///
    /// # Errors
    /// As sendmsg(2); `TimedOut`; `EPIPE` for a peer that is gone.
    pub async fn send_within(
        &self,
        record: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> std::io::Result<()> {
        let send = |socket: &OwnedFd| Ok(records::send(socket.as_fd(), record, fds)?);
        let sent = self.0.async_io(Interest::WRITABLE, send);
        tokio::time::timeout(deadline, sent).await?
    }

    /// Sends a record and descriptors now. A peer whose queue is full is not waited for.
    ///
    /// # Errors
    /// As sendmsg(2); `EAGAIN` for a full queue, `EPIPE` for a peer that is gone.
    pub fn send(&self, record: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        records::send(self.0.get_ref().as_fd(), record, fds)
    }
}

/// Two connected sockets of records, close-on-exec.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}
