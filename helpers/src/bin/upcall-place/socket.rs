//! Opening a socket that might be somebody else's: in a container everybody may put something at a path.
//!
//! What is at the path is believed only if none but root (or our own user, which is the container's init's) could have
//! put it there, and if one of those listens, in our own pid namespace.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket,
};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Uid, fchdir};

/// A listener whose queue is full has this long, in milliseconds; the core waits meanwhile.
const PATIENCE: i64 = 500;

/// What the kernel shows instead of an id that our user namespace does not have (`overflowuid`, user_namespaces(7)).
const NOBODY: u32 = 65_534;

/// Who may have made the socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trusted {
    own: Uid,
}

impl Trusted {
    /// Root, and whoever we are.
    pub(crate) fn ours() -> Self {
        Self {
            own: Uid::effective(),
        }
    }

    fn has(self, uid: u32) -> bool {
        uid == 0 || (uid == self.own.as_raw() && uid != NOBODY)
    }
}

/// A connection, and the pid of who listens, in our own pid namespace.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) socket: OwnedFd,
    pub(crate) listener: i32,
}

/// Connects to the `SOCK_SEQPACKET` socket at an absolute path.
///
/// # Errors
/// `ENOENT`, `ECONNREFUSED`: nobody is there. `ELOOP`: a symbolic link in the path. `ENOTSOCK`, `EPROTOTYPE`: something
/// else. `EPERM`: others could have put it there, or listen. `EXDEV`: who listens is in another pid namespace. `EAGAIN`:
/// its queue is full.
pub(crate) fn open(path: &[u8], trusted: Trusted) -> Result<Connected, Errno> {
    let path = Path::new(OsStr::from_bytes(path));
    let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute())
    else {
        return Err(Errno::EINVAL);
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let directory = openat2(AT_FDCWD, parent, how)?;
    // Nobody else may exchange what is in it, between our looking and connecting either.
    let stat = fstat(&directory)?;
    if !trusted.has(stat.st_uid) || stat.st_mode & 0o022 != 0 {
        return Err(Errno::EPERM);
    }
    let stat = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    match kind(&stat) {
        SFlag::S_IFSOCK => {}
        SFlag::S_IFLNK => return Err(Errno::ELOOP),
        _ => return Err(Errno::ENOTSOCK),
    }
    if !trusted.has(stat.st_uid) {
        return Err(Errno::EPERM);
    }
    fchdir(&directory)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    setsockopt(&socket, SendTimeout, &TimeVal::milliseconds(PATIENCE))?;
    connect(socket.as_raw_fd(), &UnixAddr::new(name)?)?;
    let listener = listener(&socket, trusted)?;
    Ok(Connected { socket, listener })
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Who called listen(2), as our own namespaces number it (unix(7), `SO_PEERCRED`); 0 is a process that they do not have.
fn listener(socket: &OwnedFd, trusted: Trusted) -> Result<i32, Errno> {
    let peer = getsockopt(&socket.as_fd(), PeerCredentials)?;
    if !trusted.has(peer.uid()) {
        return Err(Errno::EPERM);
    }
    if peer.pid() == 0 {
        return Err(Errno::EXDEV);
    }
    Ok(peer.pid())
}

#[cfg(test)]
mod tests;
