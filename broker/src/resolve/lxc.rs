//! LXC's containers, and those of Incus, which has LXC below it. Nothing on disk names their init; their monitor does.
//!
//! A monitor is a root process of the host's: it made the init, is its parent, and listens at the abstract socket
//! `@LXCPATH/NAME/command` (lxc, commands.c) until the init has ended. Anybody in the host's network namespace may listen
//! there too, so an answer counts only with what the kernel says about who wrote it: the sender's number
//! (SCM_CREDENTIALS, unix(7)) must be the parent's of the process that it names, and that parent must be root's, in the
//! host's user, pid and mount namespaces, as long as the init has it ([`super::leader::Leader::open`]). A number used
//! again would have another parent; a monitor's other children, its hooks, are in the host's mount namespace, where no
//! init is. Which names there are only root can say: he alone makes entries in LXCPATH.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, connect, recvmsg, sendmsg, setsockopt, socket, sockopt::PassCred,
};
use upcall_config::facts::Runtime;

use super::claim::{Claim, Init, Known, Supervisor};
use crate::linux::room::noted;
use crate::linux::secure::Directory;

/// How long all monitors together may take for their answers about one process; they have nothing else to do.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// `LXC_CMD_GET_INIT_PID`: the init as the monitor sees it.
const GET_INIT_PID: u32 = 4;

/// Command or result, length of what follows, and a pointer's place that holds the number (lxc, commands.h).
const MESSAGE: usize = 16;

/// The longest name of a container.
const NAME_MAX: usize = 128;

/// One directory in which LXC's containers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LxcPath {
    /// LXC, or Incus with LXC below.
    pub(super) runtime: Runtime,
    /// Where.
    pub(super) path: PathBuf,
}

impl LxcPath {
    /// What monitors say about the containers that a cgroup `lxc.payload.NAME` may be of: LXC adds `-1` where a cgroup
    /// of that name was there already.
    ///
    /// Waiting uses `patience` up: whoever listens in many monitors' places does not make a crash wait many times.
    pub(super) fn claims(&self, name: &[u8], patience: &Cell<Duration>) -> Vec<Claim> {
        let without = name.iter().rposition(|byte| *byte == b'-').and_then(|at| {
            let number = name.get(at + 1..)?;
            let digits = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
            name.get(..at).filter(|_| digits)
        });
        let names = [Some(name), without].into_iter().flatten();
        names
            .filter_map(|name| self.claim(name, patience))
            .collect()
    }

    /// All containers that run.
    pub(super) fn all(&self) -> Vec<Claim> {
        let Ok(directory) = Directory::open(&self.path) else {
            return Vec::new();
        };
        let names = directory.names(super::oci::SCAN_MAX);
        names
            .iter()
            .filter_map(|name| self.claim(name.as_bytes(), &Cell::new(PATIENCE)))
            .filter(|claim| claim.init != Init::Untold)
            .collect()
    }

    fn claim(&self, name: &[u8], patience: &Cell<Duration>) -> Option<Claim> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(byte);
        let sane = (1..=NAME_MAX).contains(&name.len()) && name.iter().all(plain);
        if !sane || name.first() == Some(&b'.') {
            return None;
        }
        let directory = Directory::open(&self.path).ok()?;
        if !directory.has(OsStr::from_bytes(name)) {
            return None;
        }
        // Everybody in its network may keep a monitor busy; that must not take a container's processes out of it.
        let init = match init(&self.path, name, patience).map_err(noted) {
            Ok((pid, monitor)) => Init::Child {
                pid,
                of: Supervisor::Process(monitor),
            },
            Err(_) => Init::Untold,
        };
        Some(Claim {
            runtime: self.runtime,
            id: name.to_vec(),
            init,
            owner: 0,
            evidence: "monitor",
            known: Known::default(),
        })
    }
}

/// Asks whoever listens for the init, and the kernel who it was that answered.
fn init(lxcpath: &Path, name: &[u8], patience: &Cell<Duration>) -> Result<(u32, u32), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    setsockopt(&socket, PassCred, &true)?;
    let address = [lxcpath.as_os_str().as_bytes(), b"/", name, b"/command"].concat();
    connect(socket.as_raw_fd(), &UnixAddr::new_abstract(&address)?)?;
    let mut question = [0; MESSAGE];
    question[..4].copy_from_slice(&GET_INIT_PID.to_ne_bytes());
    let own = UnixCredentials::new();
    let credentials = [ControlMessage::ScmCredentials(&own)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let part = [IoSlice::new(&question)];
    sendmsg::<()>(socket.as_raw_fd(), &part, &credentials, flags, None)?;
    wait(&socket, patience)?;
    let mut answer = [0; MESSAGE];
    let mut part = [IoSliceMut::new(&mut answer)];
    // No room beside them, so no descriptors that somebody might send.
    let mut space = nix::cmsg_space!(UnixCredentials);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut part, Some(&mut space), flags)?;
    let length = received.bytes;
    let mut monitor = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmCredentials(who) = message
            && who.uid() == 0
        {
            monitor = Some(who.pid());
        }
    }
    let number = |at: usize| {
        let bytes = answer.get(at..at + 4)?;
        Some(i32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let process = |pid: i32| u32::try_from(pid).ok().filter(|pid| *pid > 0);
    match (length, number(0), number(8), monitor) {
        (MESSAGE, Some(0), Some(pid), Some(monitor)) => {
            let pids = process(pid).zip(process(monitor));
            pids.ok_or(Errno::ESRCH)
        }
        _ => Err(Errno::EBADMSG),
    }
}

fn wait(socket: &OwnedFd, patience: &Cell<Duration>) -> Result<(), Errno> {
    let start = Instant::now();
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let left = PollTimeout::try_from(patience.get()).unwrap_or(PollTimeout::ZERO);
    let ready = poll(&mut fds, left);
    patience.set(patience.get().saturating_sub(start.elapsed()));
    match ready? {
        0 => Err(Errno::ETIMEDOUT),
        _ => Ok(()),
    }
}
