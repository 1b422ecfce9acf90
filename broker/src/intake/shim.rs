//! Requests of the shim: one record, its descriptors, and whether it is the kernel's own shim that sends them.

use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use upcall_helpers::wire::{DecodeError, Hook, ID_LENGTH, Request, RequestFd};

use super::call::{Caller, CoreCall, KernelPipe};
use super::helper::{self, HelperCall};
use super::key::{self, KeyCall};
use crate::identify::core::{CoreWords, WordsError};
use crate::linux::namespace::{self, Ns, NsSet};
use crate::linux::parse::Stat;
use crate::linux::procdir::ProcDir;
use crate::linux::seqpacket::{Connection, Peer};

/// A request comes with the connection; whoever says nothing for this long says nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pid of kthreadd, the parent of all that the kernel starts: the second process there ever is (init/main.c).
const KTHREADD: u32 = 2;

/// One upcall.
#[derive(Debug)]
pub enum Call {
    /// A core dump.
    Core(CoreCall),
    /// A key.
    Key(KeyCall),
    /// A module, or any other helper.
    Helper(HelperCall),
}

/// Why a connection is no upcall.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The socket.
    #[error("socket: {0}")]
    Socket(#[from] std::io::Error),
    /// It cannot be known who connected.
    #[error("the peer cannot be known: {0}")]
    Peer(Errno),
    /// Who connected is not root on the host.
    #[error("refused: uid {uid}, process {pid}: not root of the host")]
    NotRoot {
        /// Its uid.
        uid: u32,
        /// Its pid.
        pid: u32,
    },
    /// Who connected was not started by the kernel.
    #[error("refused: process {0} was not started by the kernel")]
    NotKernels(u32),
    /// What it sent is no request.
    #[error("not a request: {0}")]
    Decode(#[from] DecodeError),
    /// A request without what it needs.
    #[error("a request without {0}")]
    Incomplete(&'static str),
    /// Not our words.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// The shim's deadline was over before its request was read: there is nothing left to do but to say so.
    #[error("the shim has done without us")]
    Late(Box<Late>),
}

/// A request whose shim has ended. Who sent it cannot be known any more, only that it was root; so nothing is done for
/// it, and what it says is only told.
#[derive(Debug, PartialEq, Eq)]
pub struct Late {
    /// The kernel's words.
    pub words: CoreWords,
    /// The upcall's id, as the shim has drawn it.
    pub id: Option<[u8; ID_LENGTH]>,
    /// When the shim started: nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
    /// Whether the shim took the claim, and with it the core.
    pub kept: bool,
}

/// Takes one request from a connection.
///
/// `any_peer` takes it from any root process: for tests, and only in builds with debug assertions.
///
/// # Errors
/// See [`IntakeError`].
pub async fn take(
    connection: Connection,
    host: &NsSet,
    any_peer: bool,
) -> Result<Call, IntakeError> {
    let checked = connection
        .peer()
        .map_err(IntakeError::Peer)
        .and_then(|peer| Ok((check_peer(&peer, host, any_peer)?, peer.process)));
    let checked = match checked {
        Err(IntakeError::Peer(Errno::ESRCH | Errno::ENOENT)) if connection.is_roots() => None,
        checked => Some(checked?),
    };
    let received = connection.receive_within(PATIENCE).await?;
    let request = Request::decode(&received.record, received.fds.len())?;
    if request.hook == Hook::Key {
        let process = checked.map(|(_, process)| process);
        return key::call(request, process, connection).map(Call::Key);
    }
    if matches!(request.hook, Hook::Module | Hook::Umh) {
        let process = checked.map(|(started, process)| (process, started));
        return helper::call(request, process, connection).map(Call::Helper);
    }
    let (mut pipe, mut claim, mut pidfd) = (None, None, None);
    for (what, fd) in request.fds.iter().zip(received.fds) {
        match what {
            RequestFd::Stdin => pipe = Some(fd),
            RequestFd::Claim => claim = Some(fd),
            RequestFd::Pidfd => pidfd = Some(fd),
        }
    }
    let words = CoreWords::new(request.argv)?;
    let claim = claim.ok_or(IntakeError::Incomplete("a claim"))?;
    let Some((started_ticks, _)) = checked else {
        // Whoever sent it may have sent anything; it must not make us wait.
        let polled = fcntl(&claim, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        let kept = polled.is_err() || nix::unistd::read(&claim, &mut [0; 8]).is_err();
        let late = Late {
            words,
            id: request.id,
            started: request.started,
            kept,
        };
        return Err(IntakeError::Late(Box::new(late)));
    };
    Ok(Call::Core(CoreCall {
        words,
        kernel: KernelPipe {
            pipe: pipe.ok_or(IntakeError::Incomplete("the kernel's pipe"))?,
            claim,
        },
        pidfd,
        id: request.id,
        started: request.started,
        started_ticks,
        caller: Caller::Shim(connection),
    }))
}

/// The kernel starts its helpers as children of kthreadd, or of the kernel thread that waits for them, without a session,
/// as root of the host (kernel/umh.c). Nobody else can make a process like that: its children have it as their parent,
/// orphans go to an init, and sessions are made, not left. Returns when it started.
fn check_peer(peer: &Peer, host: &NsSet, any_peer: bool) -> Result<u64, IntakeError> {
    let pid = peer.process.pid();
    let stranger = IntakeError::NotRoot { uid: peer.uid, pid };
    if peer.uid != 0 {
        return Err(stranger);
    }
    let user = namespace::of_process(&peer.process, Ns::User).map_err(IntakeError::Peer)?;
    let stat = ProcDir::open(pid)
        .and_then(|directory| directory.stat())
        .map_err(IntakeError::Peer)?;
    peer.process
        .verify()
        .map_err(|_| IntakeError::Peer(Errno::ESRCH))?;
    if user.id() != host.id(Ns::User) {
        return Err(stranger);
    }
    let kernels = stat.session == 0 && is_kernel_thread(stat.parent);
    let accepted = kernels || any_peer && cfg!(debug_assertions);
    if !accepted {
        return Err(IntakeError::NotKernels(pid));
    }
    Ok(stat.start)
}

/// Whether this is a thread of the kernel. One that is its child's parent waits for it, so the number is its own.
fn is_kernel_thread(pid: u32) -> bool {
    pid == KTHREADD
        || ProcDir::open(pid)
            .and_then(|directory| directory.stat())
            .is_ok_and(Stat::is_kernel_thread)
}
