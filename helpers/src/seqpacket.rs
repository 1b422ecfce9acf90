//! One record and its descriptors over an `AF_UNIX` `SOCK_SEQPACKET` socket (unix(7)).
//!
//! Here end the bytes: what is in a record, [`crate::wire`] says.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

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

/// The descriptors that control messages name, in the kernel's layout (cmsg(3)); what is not written is zeroes.
fn numbers(control: &[u8]) -> Vec<RawFd> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let mut numbers = Vec::new();
    let mut rest = control;
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let word = |at: usize| {
            let bytes = header.get(at..at + 4).unwrap_or_default();
            i32::from_ne_bytes(bytes.try_into().unwrap_or_default())
        };
        let length = header.get(..size_of::<usize>()).unwrap_or_default();
        let length = usize::from_ne_bytes(length.try_into().unwrap_or_default());
        let Some(data) = rest.get(HEADER..length) else {
            break;
        };
        let level_and_type = (word(size_of::<usize>()), word(size_of::<usize>() + 4));
        if level_and_type == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            let (all, _) = data.as_chunks::<4>();
            numbers.extend(all.iter().map(|bytes| RawFd::from_ne_bytes(*bytes)));
        }
        rest = rest
            .get(length.next_multiple_of(size_of::<usize>())..)
            .unwrap_or_default();
    }
    numbers
}

/// Receives one record and its descriptors. A record over [`RECORD_MAX`] is refused whole, and its descriptors are
/// closed.
///
/// # Errors
/// As recvmsg(2); `EMSGSIZE` for a record or descriptors that did not fit.
pub fn receive(socket: BorrowedFd<'_>) -> Result<Received, Errno> {
    let length = length(socket, MsgFlags::MSG_PEEK)?;
    let mut record = vec![0; length];
    // Of its whole length, so that it can be read where nix does not.
    let mut control = nix::cmsg_space!([RawFd; SCM_MAX_FD]);
    control.resize(control.capacity(), 0);
    let mut parts = [IoSliceMut::new(&mut record)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let (length, flags) = (message.bytes, message.flags);
    if flags.contains(MsgFlags::MSG_CTRUNC) {
        // There was no room for all of them, and those before are here and nobody's: nix names none of them.
        drop(sys::own_received(numbers(&control)));
        return Err(Errno::EMSGSIZE);
    }
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            fds.extend(sys::own_received(raw));
        }
    }
    if flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    record.truncate(length);
    Ok(Received { record, fds })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn open() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    /// Each test is a process of its own, whose limit this is.
    #[test]
    fn descriptors_that_came_before_there_was_room_for_no_more_are_closed() {
        const NOFILE: u32 = 7;
        let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
        let (soft, hard) = sys::rlimit(NOFILE).unwrap();
        let before = open();
        for free in 0..6 {
            let first = ours.try_clone().unwrap().as_raw_fd(); // closed again: the lowest that is free
            send(theirs.as_fd(), b"four", &[theirs.as_fd(); 4]).unwrap();
            let limit = u64::try_from(first + free).unwrap();
            sys::set_rlimit(NOFILE, limit, hard).unwrap();
            let received = receive(ours.as_fd());
            sys::set_rlimit(NOFILE, soft, hard).unwrap();
            match received {
                Ok(received) => assert!(free >= 4 && received.fds.len() == 4, "{free}"),
                Err(errno) => assert!(free < 4 && errno == Errno::EMSGSIZE, "{free}: {errno}"),
            }
            assert_eq!(open(), before, "{free}");
        }
    }
}
