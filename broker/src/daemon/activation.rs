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
        "{found} was given to us, and we listen at {upcall} for records (ListenSequentialPacket=) and at {kernel} \
         (ListenStream=); see upcalld.socket"
    )]
    Other {
        /// What it is.
        found: String,
        /// Where the shim finds us.
        upcall: PathBuf,
        /// Where the kernel finds us.
        kernel: PathBuf,
    },
}

/// The listening sockets that were given to us, which may be none.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// For the shim.
    pub(super) upcall: Option<OwnedFd>,
    /// For the kernel.
    pub(super) kernel: Option<OwnedFd>,
}

/// The listening sockets that were given to us; they have to be those at `upcall` and `kernel`.
///
/// # Errors
/// See [`ActivationError`]. To be called once, before anything is opened or started.
pub(super) fn given(upcall: &Path, kernel: &Path) -> Result<Given, ActivationError> {
    let numbers = sd_notify::listen_fds().map_err(ActivationError::Environment)?;
    let mut given = Given::default();
    for number in numbers {
        let descriptor = |errno| ActivationError::Descriptor { number, errno };
        let socket = upcall_helpers::sys::inherited(number).map_err(descriptor)?;
        let kind = getsockopt(&socket, Kind).map_err(descriptor)?;
        let listens = getsockopt(&socket, AcceptConn).map_err(descriptor)?;
        let address: UnixAddr = getsockname(socket.as_raw_fd()).map_err(descriptor)?;
        let is = |wanted, path| kind == wanted && listens && address.path() == Some(path);
        if is(SockType::SeqPacket, upcall) {
            given.upcall = Some(socket);
        } else if is(SockType::Stream, kernel) {
            given.kernel = Some(socket);
        } else {
            let place = address.path();
            let place = place.map_or_else(|| "-".into(), |path| path.display().to_string());
            return Err(ActivationError::Other {
                found: format!("a socket of type {kind:?} at {place}"),
                upcall: upcall.to_owned(),
                kernel: kernel.to_owned(),
            });
        }
    }
    Ok(given)
}
