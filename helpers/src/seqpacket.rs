//! One record and its descriptors over an `AF_UNIX` `SOCK_SEQPACKET` socket (unix(7)).
//!
//! Here end the bytes: what is in a record, [`crate::wire`] says.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recv, recvmsg, sendmsg};

use crate::sys;
use crate::wire::RECORD_MAX;

/// The kernel takes no more descriptors beside one message (`SCM_MAX_FD`), so with room for them all none can be
/// installed in our table without our seeing it.
const SCM_MAX_FD: usize = 253;

/// Sends one record and its descriptors, all or nothing.
///
/// # Errors
/// As sendmsg(2); `EAGAIN` where the socket does not block or its send timeout is over.
pub fn send(socket: BorrowedFd<'_>, record: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() {
        &[]
    } else {
        rights.as_slice()
    };
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(record)],
        control,
        flags,
        None,
    )?;
    if sent == record.len() {
        Ok(())
    } else {
        Err(Errno::EMSGSIZE)
    }
}

/// What came in one message.
#[derive(Debug)]
pub struct Received {
    /// The record; empty at the end of the connection.
    pub record: Vec<u8>,
    /// Its descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// The record that comes next, without its descriptors, which stays where it is; empty at the end of the connection. `wait`:
/// until there is one.
///
/// # Errors
/// As recv(2); `EAGAIN` where there is none and it is not waited for.
pub fn peek(socket: BorrowedFd<'_>, wait: bool) -> Result<Vec<u8>, Errno> {
    let flags = if wait {
        MsgFlags::MSG_PEEK
    } else {
        MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT
    };
    let length = length(socket, flags)?;
    let mut record = vec![0; length];
    let length = recv(socket.as_raw_fd(), &mut record, flags)?;
    record.truncate(length);
    Ok(record)
}

/// How long the next record is. Asked first: a buffer for the longest there may be would have to be zeroed each time.
fn length(socket: BorrowedFd<'_>, peek: MsgFlags) -> Result<usize, Errno> {
    let length = recv(socket.as_raw_fd(), &mut [], peek | MsgFlags::MSG_TRUNC)?;
    Ok(length.min(RECORD_MAX))
}

/// Receives one record and its descriptors. A record over [`RECORD_MAX`] is refused whole, and its descriptors are
/// closed.
///
/// # Errors
/// As recvmsg(2); `EMSGSIZE` for a record or descriptors that did not fit.
pub fn receive(socket: BorrowedFd<'_>) -> Result<Received, Errno> {
    let length = length(socket, MsgFlags::MSG_PEEK)?;
    let mut record = vec![0; length];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; SCM_MAX_FD]);
    let mut parts = [IoSliceMut::new(&mut record)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            fds.extend(sys::own_received(raw));
        }
    }
    let (length, flags) = (message.bytes, message.flags);
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    record.truncate(length);
    Ok(Received { record, fds })
}
