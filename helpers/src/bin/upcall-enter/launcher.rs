//! The loop: takes launches, forks, reaps, and ends what no longer moves.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_dumpable;
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus as NixStatus, waitid};
use upcall_helpers::seqpacket;
use upcall_helpers::sys::{self, Fork, SHARED_COUNTERS};
use upcall_helpers::wire::{Event, FdRole, Launch, RLIMITS, Rlimit, Stage, Task, WaitStatus};

use crate::cgroup;
use crate::failure::{At, Failure};
use crate::reporter::{Reporter, monotonic};
use crate::{keeper, plain, seccomp};

/// A keeper beats at least every second; one silent for this long is held by something it cannot leave, as is a
/// process in uninterruptible sleep, and only ending the helper may free it. Nanoseconds.
const SILENCE: u64 = 5_000_000_000;

/// How often beats are looked at while a keeper runs, in milliseconds. Idle, nothing wakes the launcher.
const LOOK: u16 = 1000;

/// Descriptors below this are for the programs that are started.
pub(crate) const NUMBERS: i32 = 16;

/// What every child may use of the launcher's.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// The socket to the daemon.
    pub(crate) socket: BorrowedFd<'a>,
    /// The host's /proc, opened before any container was entered.
    pub(crate) proc: OwnedFd,
    /// Our own limits by their number.
    pub(crate) limits: Vec<Rlimit>,
    /// The filter for helpers.
    pub(crate) seccomp: Vec<seccomp::Instruction>,
}

/// A child of the launcher's that is not reaped yet.
struct Child {
    pidfd: OwnedFd,
    id: Vec<u8>,
    slot: u8,
    /// Keepers only: their beat, and where their helper's cgroup is.
    watched: Option<(usize, OwnedFd)>,
    killed: bool,
}

/// Serves until the daemon closes the socket and all work has ended.
///
/// # Errors
/// What could not be set up.
pub(crate) fn run() -> Result<(), Failure> {
    set_dumpable(false).at(Stage::Undumpable)?;
    sys::reset_signals().at(Stage::Scheduling)?;
    let socket = socket().at(Stage::Plan)?;
    let beats = sys::shared_counters().at(Stage::Plan)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let proc = open("/proc", flags, Mode::empty()).at(Stage::Plan)?;
    let seccomp = seccomp::filter().at(Stage::Seccomp)?;
    let limits: Result<Vec<Rlimit>, Errno> = (0..RLIMITS)
        .map(|number| {
            let (soft, hard) = sys::rlimit(u32::try_from(number).unwrap_or(0))?;
            Ok(Rlimit { soft, hard })
        })
        .collect();
    let limits = limits.at(Stage::Limits)?;
    let context = Context {
        socket: socket.as_fd(),
        proc,
        limits,
        seccomp,
    };
    let mut children = Vec::new();
    let mut connected = true;
    while connected || !children.is_empty() {
        let ready = wait(&context, &children, connected)?;
        if ready {
            connected = take(&context, &mut children, beats);
        }
        reap(&context, &mut children);
        end_silent(&context, &mut children, beats);
    }
    Ok(())
}

/// The socket to the daemon, moved from standard input to a number that no program of ours is given.
fn socket() -> Result<OwnedFd, Errno> {
    let given = sys::inherited(0)?;
    let moved = sys::inherited(fcntl(&given, FcntlArg::F_DUPFD_CLOEXEC(NUMBERS))?)?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::dup_to(null.as_fd(), 0)?;
    // Number 0 stays open for good: it is what every child replaces first.
    let _: i32 = given.into_raw_fd();
    Ok(moved)
}

/// Sleeps until there is something to do; says whether the socket has something.
fn wait(context: &Context<'_>, children: &[Child], connected: bool) -> Result<bool, Failure> {
    let mut fds: Vec<_> = children
        .iter()
        .map(|child| PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN))
        .collect();
    if connected {
        fds.push(PollFd::new(context.socket, PollFlags::POLLIN));
    }
    let watching = children.iter().any(|child| child.watched.is_some());
    let timeout = if watching {
        PollTimeout::from(LOOK)
    } else {
        PollTimeout::NONE
    };
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => {
            return Err(Failure {
                stage: Stage::Plan,
                errno,
            });
        }
    }
    let socket = fds.last().filter(|_| connected);
    Ok(socket.and_then(PollFd::any).unwrap_or(false))
}

/// Takes one launch; says whether the daemon is still there.
fn take(
    context: &Context<'_>,
    children: &mut Vec<Child>,
    beats: &'static [AtomicU64; SHARED_COUNTERS],
) -> bool {
    let received = match seqpacket::receive(context.socket) {
        Ok(received) if received.record.is_empty() => return false,
        Ok(received) => received,
        Err(Errno::EINTR | Errno::EAGAIN | Errno::EMSGSIZE) => return true,
        Err(_) => return false,
    };
    // A launch that cannot be read names no record to report to; the daemon misses its report and says so.
    if let Ok(launch) = Launch::decode(&received.record, received.fds.len()) {
        start(context, children, beats, launch, received.fds);
    }
    true
}

/// Forks the child for one launch.
fn start(
    context: &Context<'_>,
    children: &mut Vec<Child>,
    beats: &'static [AtomicU64; SHARED_COUNTERS],
    launch: Launch,
    fds: Vec<OwnedFd>,
) {
    let (id, slot) = (launch.id.clone(), launch.slot);
    let fail = |record: Option<OwnedFd>, errno: Errno| {
        let mut reporter = Reporter::new(context.socket, record, id.clone(), slot);
        reporter.tell(Event::Failed {
            stage: Stage::Fork,
            errno: errno as u32,
        });
        reporter.tell(Event::Gone {
            status: WaitStatus::Exited(0),
        });
    };
    let watched = match &launch.task {
        Task::Exec(_) => None,
        Task::Enter(_) => {
            let used = |slot: &usize| {
                children
                    .iter()
                    .any(|c: &Child| c.watched.as_ref().is_some_and(|w| w.0 == *slot))
            };
            let Some(beat) = (0..SHARED_COUNTERS).find(|slot| !used(slot)) else {
                return fail(None, Errno::EAGAIN);
            };
            let parent = launch
                .fds
                .iter()
                .zip(&fds)
                .find(|(role, _)| **role == FdRole::Cgroup);
            match parent.map(|(_, fd)| fd.try_clone()) {
                Some(Ok(fd)) => Some((beat, fd)),
                _ => return fail(None, Errno::EBADF),
            }
        }
    };
    let beat = watched.as_ref().and_then(|(slot, _)| beats.get(*slot));
    if let Some(beat) = beat {
        beat.store(monotonic(), Ordering::Relaxed);
    }
    match sys::fork(0, None) {
        Ok(Fork::Child) => {
            // Other launches' descriptors are none of this child's: they are closed with its exec or its exit, and
            // a keeper closes them at once.
            let others: Vec<OwnedFd> = std::mem::take(children)
                .into_iter()
                .flat_map(|child| [Some(child.pidfd), child.watched.map(|watched| watched.1)])
                .flatten()
                .collect();
            drop(others);
            match (&launch.task, beat) {
                (Task::Enter(enter), Some(beat)) => {
                    keeper::keep(context, &launch, enter, fds, beat)
                }
                (Task::Exec(exec), _) => plain::exec(context, &launch, exec, fds),
                (Task::Enter(_), None) => sys::exit(127),
            }
        }
        Ok(Fork::Parent { pidfd, .. }) => {
            children.push(Child {
                pidfd,
                id: launch.id,
                slot,
                watched,
                killed: false,
            });
        }
        Err(errno) => fail(None, errno),
    }
}

/// Reaps what has ended and reports it.
fn reap(context: &Context<'_>, children: &mut Vec<Child>) {
    children.retain(|child| {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        let status = match waitid(Id::PIDFd(child.pidfd.as_fd()), flags) {
            Ok(NixStatus::StillAlive) | Err(Errno::EINTR) => return true,
            Ok(status) => wait_status(status),
            Err(_) => WaitStatus::Exited(127),
        };
        let mut reporter = Reporter::new(context.socket, None, child.id.clone(), child.slot);
        reporter.tell(Event::Gone { status });
        false
    });
}

/// Ends keepers that were silent for too long, and with them what they were waiting for.
fn end_silent(
    context: &Context<'_>,
    children: &mut [Child],
    beats: &'static [AtomicU64; SHARED_COUNTERS],
) {
    let now = monotonic();
    for child in children {
        let Some((slot, parent)) = &child.watched else {
            continue;
        };
        let last = beats
            .get(*slot)
            .map_or(now, |beat| beat.load(Ordering::Relaxed));
        if child.killed || now.saturating_sub(last) < SILENCE {
            continue;
        }
        child.killed = true;
        cgroup::kill(parent.as_fd(), &child.id);
        let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
        let mut reporter = Reporter::new(context.socket, None, child.id.clone(), child.slot);
        reporter.tell(Event::Failed {
            stage: Stage::Deadline,
            errno: Errno::ETIMEDOUT as u32,
        });
    }
}

/// nix's wait status as the wire's.
pub(crate) fn wait_status(status: NixStatus) -> WaitStatus {
    match status {
        NixStatus::Exited(_, code) => WaitStatus::Exited(u8::try_from(code & 0xff).unwrap_or(255)),
        NixStatus::Signaled(_, signal, _) => {
            WaitStatus::Signaled(u8::try_from(signal as i32).unwrap_or(255))
        }
        NixStatus::Stopped(..)
        | NixStatus::PtraceEvent(..)
        | NixStatus::PtraceSyscall(_)
        | NixStatus::Continued(_)
        | NixStatus::StillAlive => WaitStatus::Exited(255),
    }
}
