//! The launcher: keeps a child ready for the next launch, reaps the others, and ends what no longer moves.
//!
//! The ready child itself receives the launch from the daemon's socket: a record of a `SOCK_SEQPACKET` socket goes to
//! exactly one of those who wait for it. So a launch waits neither for this process nor for a fork.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_dumpable, set_pdeathsig, set_timerslack};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus as NixStatus, waitid};
use nix::unistd::{getppid, pipe2};
use upcall_helpers::clock::monotonic;
use upcall_helpers::seccomp::Instruction;
use upcall_helpers::seqpacket;
use upcall_helpers::sys::{self, Fork};
use upcall_helpers::wire::{Event, Launch, RLIMITS, Rlimit, Stage, Task, WaitStatus};

use crate::board::{Board, LOOK_MS, Pulse, Row, State};
use crate::cgroup;
use crate::failure::{At, Failure};
use crate::reporter::Reporter;
use crate::{keeper, plain, seccomp};

/// How long the next child waits for the last one's first steps, in milliseconds: it is not needed sooner, and on few
/// processors its fork would be in the way.
const PAUSE: u8 = 1;

/// Descriptors below this are for the programs that are started.
pub(crate) const NUMBERS: i32 = 16;

/// What a ready child exits with when the daemon has closed the socket.
const CLOSED: i32 = 3;

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
    pub(crate) seccomp: Vec<Instruction>,
}

/// A child of the launcher's that is not reaped yet.
struct Child {
    pidfd: OwnedFd,
    index: usize,
    row: Row,
    pulse: Pulse,
    killed: bool,
}

/// Puts off what we were given, whoever started us; everybody we fork inherits that, so once is enough.
pub(crate) fn put_off() -> Result<(), Failure> {
    set_dumpable(false).at(Stage::Undumpable)?;
    sys::reset_signals().at(Stage::Scheduling)?;
    sys::reset_scheduling().at(Stage::Scheduling)?;
    set_timerslack(0).at(Stage::Scheduling)?;
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}

impl<'a> Context<'a> {
    /// With this socket. `keys`: helpers may answer keys.
    pub(crate) fn new(socket: BorrowedFd<'a>, keys: bool) -> Result<Self, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc = open("/proc", flags, Mode::empty()).at(Stage::Plan)?;
        let limits: Result<Vec<Rlimit>, Errno> = (0..RLIMITS)
            .map(|number| {
                let (soft, hard) = sys::rlimit(u32::try_from(number).unwrap_or(0))?;
                Ok(Rlimit { soft, hard })
            })
            .collect();
        Ok(Self {
            socket,
            proc,
            limits: limits.at(Stage::Limits)?,
            seccomp: seccomp::filter(keys).at(Stage::Seccomp)?,
        })
    }
}

/// Serves until the daemon closes the socket and all work has ended.
///
/// # Errors
/// What could not be set up.
pub(crate) fn run() -> Result<(), Failure> {
    put_off()?;
    let socket = socket().at(Stage::Plan)?;
    let (taken, take) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).at(Stage::Pipes)?;
    let launcher = Launcher {
        context: Context::new(socket.as_fd(), false)?,
        board: Board::new().at(Stage::Plan)?,
        taken: File::from(taken),
        take: File::from(take),
        children: Vec::new(),
        connected: true,
    };
    launcher.serve();
    Ok(())
}

/// The socket to the daemon, moved from standard input to a number that no program of ours is given.
pub(crate) fn socket() -> Result<OwnedFd, Errno> {
    let given = sys::inherited(0)?;
    let moved = sys::inherited(fcntl(&given, FcntlArg::F_DUPFD_CLOEXEC(NUMBERS))?)?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::dup_to(null.as_fd(), 0)?;
    // Number 0 stays open for good: it is what every child replaces first.
    let _: i32 = given.into_raw_fd();
    Ok(moved)
}

struct Launcher<'a> {
    context: Context<'a>,
    board: Board,
    /// A byte comes here whenever a child has taken a launch.
    taken: File,
    take: File,
    children: Vec<Child>,
    connected: bool,
}

impl Launcher<'_> {
    fn serve(mut self) {
        while self.connected || !self.children.is_empty() {
            let ready = self.children.iter().any(|child| child.row.is_ready());
            let mut again = false;
            if self.connected && !ready {
                self.stand_back();
                // Out of processes or rows: whoever ends next makes room, and the daemon's records wait.
                again = self.start().is_err();
            }
            self.wait(again);
            self.reap();
            self.end_silent();
        }
    }

    /// Leaves the processors to the launch that was just taken, unless another one waits already.
    fn stand_back(&self) {
        let mut fds = [PollFd::new(self.context.socket, PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(PAUSE));
    }

    /// Forks the child for the next launch.
    fn start(&mut self) -> Result<(), Errno> {
        let used = |index| self.children.iter().any(|child| child.index == index);
        let (index, row) = self.board.free(used).ok_or(Errno::EAGAIN)?;
        let launcher = nix::unistd::getpid();
        match sys::fork(0, None)? {
            Fork::Child => {
                // The others' descriptors are none of this child's.
                self.children.clear();
                let alive = set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == launcher;
                if !alive {
                    sys::exit(CLOSED);
                }
                take(&self.context, row, &self.take)
            }
            Fork::Parent { pidfd, .. } => {
                self.children.push(Child {
                    pidfd,
                    index,
                    row,
                    pulse: Pulse::default(),
                    killed: false,
                });
                Ok(())
            }
        }
    }

    /// Sleeps until a child has taken a launch or ended. `again`: something has to be tried again soon.
    fn wait(&mut self, again: bool) {
        let mut fds: Vec<_> = self
            .children
            .iter()
            .map(|child| PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN))
            .collect();
        fds.push(PollFd::new(self.taken.as_fd(), PollFlags::POLLIN));
        // Who has taken a launch may keep a helper in a moment, and wakes nobody then.
        let at_work = self.children.iter().any(|child| !child.row.is_ready());
        let timeout = match (again, at_work) {
            (true, _) => PollTimeout::from(10_u8),
            // Idle, nothing wakes the launcher.
            (false, true) => PollTimeout::from(LOOK_MS),
            (false, false) => PollTimeout::NONE,
        };
        // EINTR and the like: everything is looked at anyway.
        let _ = poll(&mut fds, timeout);
        let mut bytes = [0; 64];
        while matches!((&self.taken).read(&mut bytes), Ok(1..)) {}
    }

    /// Reaps what has ended and reports it.
    fn reap(&mut self) {
        let (context, connected) = (&self.context, &mut self.connected);
        self.children.retain(|child| {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
            let status = match waitid(Id::PIDFd(child.pidfd.as_fd()), flags) {
                Ok(NixStatus::StillAlive) | Err(Errno::EINTR) => return true,
                Ok(status) => wait_status(status),
                Err(_) => WaitStatus::Exited(127),
            };
            let closed = status == WaitStatus::Exited(u8::try_from(CLOSED).unwrap_or(0));
            match child.row.state() {
                State::Ready => *connected &= !closed,
                // Nobody else was ready meanwhile: what is not there any more it had taken.
                State::Taking if is_next(context, child.row) => {}
                State::Taking | State::Busy | State::Keeping => {
                    report(context, child.row, Event::Gone { status });
                }
            }
            false
        });
    }

    /// Ends keepers that were silent for too long, and with them what they were waiting for.
    fn end_silent(&mut self) {
        let now = monotonic();
        for child in &mut self.children {
            if child.killed || !child.pulse.is_silent(child.row, now) {
                continue;
            }
            child.killed = true;
            let keeper = child.pidfd.as_fd();
            if let Ok(directory) = sys::pidfd_getfd(keeper, child.row.cgroup()) {
                cgroup::kill(directory.as_fd());
            }
            // A tenant who may write to his cgroups moves who is in them.
            if let Ok(helper) = sys::pidfd_getfd(keeper, child.row.helper()) {
                let _ = sys::pidfd_send_signal(helper.as_fd(), libc::SIGKILL);
            }
            let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            let errno = Errno::ETIMEDOUT as u32;
            report(
                &self.context,
                child.row,
                Event::Failed {
                    stage: Stage::Deadline,
                    errno,
                },
            );
        }
    }
}

fn report(context: &Context<'_>, row: Row, event: Event) {
    let (id, slot) = row.taken();
    Reporter::new(context.socket, None, id, slot).tell(event);
}

/// Whether the launch that this row names is still to be taken.
fn is_next(context: &Context<'_>, row: Row) -> bool {
    let next = seqpacket::peek(context.socket, false);
    next.is_ok_and(|record| Launch::named(&record).is_ok_and(|named| named == row.taken()))
}

/// The whole life of a child: waits for a launch and does it.
fn take(context: &Context<'_>, row: Row, mut taken: &File) -> ! {
    let prepared = keeper::prepare();
    let received = loop {
        // Whoever is killed with a launch that is nobody else's any more has said which.
        let named = seqpacket::peek(context.socket, true)
            .and_then(|record| Launch::named(&record).map_err(|_| Errno::EBADMSG));
        if let Ok((id, slot)) = &named {
            row.about_to_take(id, *slot);
        }
        match seqpacket::receive(context.socket) {
            Ok(received) if received.record.is_empty() => sys::exit(CLOSED),
            Ok(received) => break received,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // It is nobody's any more, and this end is how whoever waits for it hears so.
            Err(Errno::EMSGSIZE) => {
                if let Ok((id, slot)) = &named {
                    row.take(id, *slot);
                }
                sys::exit(127)
            }
            Err(_) => sys::exit(CLOSED),
        }
    };
    let launch = Launch::decode(&received.record, received.fds.len());
    let (id, slot) = launch
        .as_ref()
        .map_or((&[][..], 0), |launch| (&launch.id, launch.slot));
    row.take(id, slot);
    drop(taken.write_all(b"."));
    match launch {
        Ok(launch) => match &launch.task {
            Task::Enter(enter) => {
                keeper::keep(context, &launch, enter, received.fds, prepared, row)
            }
            Task::Exec(exec) => {
                drop(prepared);
                plain::exec(context, &launch, exec, received.fds)
            }
        },
        // It names no record to report to; the daemon misses its report and says so.
        Err(_) => sys::exit(127),
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
