//! The socket that systemd listens at for us (sd_listen_fds(3)). It outlives us: what comes while we are started again
//! waits in its backlog.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{AcceptConn, SockType as Kind};
use nix::sys::socket::{SockType, UnixAddr, getsockname, getsockopt};

/// Why a socket that we were given is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActivationError {
    /// LISTEN_PID, LISTEN_FDS.
    #[error("LISTEN_FDS: {0}")]
    Environment(std::io::Error),
    /// A system call about one.
    #[error("descriptor {number} of LISTEN_FDS: {errno:?}")]
    Descriptor {
        /// Its number.
        number: i32,
        /// Why not.
        errno: Errno,
    },
    /// One of them is another one.
    #[error(
        "{found} was given to us, and we listen at {wanted} for records (ListenSequentialPacket=); see upcalld.socket"
    )]
    Other {
        /// What it is.
        found: String,
        /// What it has to be.
        wanted: PathBuf,
    },
    /// More than one.
    #[error("{0} sockets were given to us, and we need one")]
    Many(usize),
}

/// The listening socket that was given to us, if there is one; it has to be the one at `path`.
///
/// # Errors
/// See [`ActivationError`]. To be called once, before anything is opened or started.
pub(super) fn given(path: &Path) -> Result<Option<OwnedFd>, ActivationError> {
    let numbers = sd_notify::listen_fds().map_err(ActivationError::Environment)?;
    let mut sockets = Vec::new();
    for number in numbers {
        let socket = upcall_helpers::sys::inherited(number);
        sockets.push(socket.map_err(|errno| ActivationError::Descriptor { number, errno })?);
    }
    if sockets.len() > 1 {
        return Err(ActivationError::Many(sockets.len()));
    }
    let Some(socket) = sockets.pop() else {
        return Ok(None);
    };
    let descriptor = |errno| ActivationError::Descriptor {
        number: socket.as_raw_fd(),
        errno,
    };
    let kind = getsockopt(&socket, Kind).map_err(descriptor)?;
    let listens = getsockopt(&socket, AcceptConn).map_err(descriptor)?;
    let address: UnixAddr = getsockname(socket.as_raw_fd()).map_err(descriptor)?;
    if kind == SockType::SeqPacket && listens && address.path() == Some(path) {
        return Ok(Some(socket));
    }
    let place = address
        .path()
        .map_or_else(|| "-".into(), |path| path.display().to_string());
    Err(ActivationError::Other {
        found: format!("a socket of type {kind:?} at {place}"),
        wanted: path.to_owned(),
    })
}
