//! Stops what is ours behind every system call that it makes (ptrace(2)): the very programs that are shipped, with
//! nothing compiled into them for it.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::container::pid_of;
use crate::tracer::seize;

/// How long a step is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody who is stopped, and goes on one system call at a time; where dropped, as he likes.
#[derive(Debug)]
pub struct Followed(Pid);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Before or behind a system call.
    Call,
    /// It has become another program.
    Executed,
    /// It is gone.
    Ended,
}

fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
}

/// The next thing that happens to it.
fn next(pid: Pid) -> Result<WaitStatus> {
    let start = Instant::now();
    let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
    loop {
        match waitpid(pid, Some(flags)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            status => return Ok(status?),
        }
        ensure!(start.elapsed() < PATIENCE, "{pid} does not stop");
        std::thread::yield_now();
    }
}

fn is_birth(event: i32) -> bool {
    let births = [
        Event::PTRACE_EVENT_CLONE,
        Event::PTRACE_EVENT_FORK,
        Event::PTRACE_EVENT_VFORK,
    ];
    births.iter().any(|birth| *birth as i32 == event)
}

impl Followed {
    /// What `parent` forks when `act` has been done, stopped before its first step; `parent` goes on.
    ///
    /// # Errors
    /// It cannot be traced, or forks nobody.
    pub fn child_of<T>(parent: u32, act: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let parent = pid_of(parent);
        ptrace::seize(parent, options()).context("seizing it")?;
        let done = act()?;
        loop {
            match next(parent)? {
                WaitStatus::PtraceEvent(_, _, event) if is_birth(event) => {
                    let child = i32::try_from(ptrace::getevent(parent)?)?;
                    ptrace::detach(parent, None)?;
                    let child = Pid::from_raw(child);
                    next(child)?;
                    return Ok((Self(child), done));
                }
                WaitStatus::PtraceEvent(..) => ptrace::cont(parent, None)?,
                WaitStatus::Stopped(_, signal) => ptrace::cont(parent, signal)?,
                status @ (WaitStatus::Exited(..)
                | WaitStatus::Signaled(..)
                | WaitStatus::PtraceSyscall(_)
                | WaitStatus::Continued(_)
                | WaitStatus::StillAlive) => bail!("{status:?}"),
            }
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.as_raw().unsigned_abs()
    }

    /// Lets it go on to the next side of a system call.
    ///
    /// # Errors
    /// It does not stop again.
    pub fn step(&mut self) -> Result<Step> {
        let mut signal = None;
        loop {
            match ptrace::syscall(self.0, signal) {
                Err(Errno::ESRCH) => {}
                result => result?,
            }
            signal = None;
            match next(self.0)? {
                WaitStatus::PtraceSyscall(_) => return Ok(Step::Call),
                WaitStatus::PtraceEvent(_, _, event)
                    if event == Event::PTRACE_EVENT_EXEC as i32 =>
                {
                    return Ok(Step::Executed);
                }
                WaitStatus::PtraceEvent(..) => {}
                WaitStatus::Stopped(_, given) => signal = Some(given),
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok(Step::Ended),
                status @ (WaitStatus::Continued(_) | WaitStatus::StillAlive) => bail!("{status:?}"),
            }
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // One that was killed is nobody else's to reap before we know of it.
        while ptrace::detach(self.0, None).is_err() {
            let Ok(
                WaitStatus::PtraceEvent(..)
                | WaitStatus::PtraceSyscall(_)
                | WaitStatus::Stopped(..),
            ) = next(self.0)
            else {
                break;
            };
        }
    }
}

/// A whole process, all of its threads, paused at one of its system calls.
#[derive(Debug)]
pub struct Paused {
    go_on: Option<SyncSender<()>>,
    is_hit: Receiver<()>,
    tracer: Option<JoinHandle<Result<()>>>,
}

impl Paused {
    /// Lets `start` begin something, and pauses `process` at side number `call` of the system calls that it makes from then
    /// on. `None` where it makes fewer.
    ///
    /// # Errors
    /// It cannot be traced; or `start` fails.
    pub fn at<T>(
        process: u32,
        call: usize,
        start: impl FnOnce() -> Result<T>,
    ) -> Result<(Option<Self>, T)> {
        let (ready, is_ready) = sync_channel(1);
        let (hit, is_hit) = sync_channel(1);
        let (go_on, goes_on) = sync_channel(1);
        let tracer = std::thread::spawn(move || trace(process, call, &ready, &hit, &goes_on));
        let paused = Self {
            go_on: Some(go_on),
            is_hit,
            tracer: Some(tracer),
        };
        if is_ready.recv_timeout(PATIENCE).is_err() {
            paused.end()?;
            bail!("process {process} cannot be traced");
        }
        let started = start()?;
        if paused.is_hit.recv_timeout(QUIET).is_ok() {
            return Ok((Some(paused), started));
        }
        paused.end()?;
        Ok((None, started))
    }

    /// The thread that is at a side of a system call goes on to the next side, all others stay where they are. `false`
    /// where it waits in the call, or has ended: it will not be at another. What went wrong, [`Paused::end`] says.
    pub fn to_next(&self) -> bool {
        let told = self
            .go_on
            .as_ref()
            .is_some_and(|go_on| go_on.send(()).is_ok());
        told && self.is_hit.recv_timeout(A_CALL).is_ok()
    }

    /// It goes on, and nobody traces it.
    ///
    /// # Errors
    /// What went wrong with tracing it.
    pub fn end(mut self) -> Result<()> {
        drop(self.go_on.take());
        let tracer = self.tracer.take().context("a tracer")?;
        tracer.join().ok().context("the tracer")?
    }
}

/// A system call that takes longer waits for something.
const A_CALL: Duration = Duration::from_millis(50);

/// A process that makes no system call for this long makes none for what was begun.
const QUIET: Duration = Duration::from_secs(2);

/// Traces a thread from its next system call on.
fn step_by_step(thread: Pid, options: Options) -> Result<()> {
    if !seize(thread, options)? {
        return Ok(());
    }
    next(thread)?;
    Ok(ptrace::syscall(thread, None)?)
}

/// Waits for a thread's next stop, and until it is let go or has ended.
fn stops(thread: Pid, goes_on: &Receiver<()>) -> bool {
    let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
    loop {
        match waitpid(thread, Some(flags)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            status => return matches!(status, Ok(WaitStatus::PtraceSyscall(_))),
        }
        if goes_on.try_recv() == Err(TryRecvError::Disconnected) {
            return false;
        }
        std::thread::yield_now();
    }
}

/// The tracer's thread; its tracees are let go when it ends (ptrace(2)).
fn trace(
    process: u32,
    call: usize,
    ready: &SyncSender<()>,
    hit: &SyncSender<()>,
    goes_on: &Receiver<()>,
) -> Result<()> {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    for entry in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let name = entry?.file_name();
        match step_by_step(Pid::from_raw(name.to_string_lossy().parse()?), options) {
            // One that waited for work, and ended since there was none.
            Err(error) if error.downcast_ref() == Some(&Errno::ESRCH) => {}
            result => result?,
        }
    }
    ready.send(())?;
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
    let mut calls = 0;
    loop {
        let (thread, signal) = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {
                match goes_on.try_recv() {
                    Err(TryRecvError::Empty) => std::thread::yield_now(),
                    Ok(()) | Err(TryRecvError::Disconnected) => return Ok(()),
                }
                continue;
            }
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                calls += 1;
                if calls == call {
                    hit.send(())?;
                    while goes_on.recv().is_ok() {
                        ptrace::syscall(thread, None)?;
                        if !stops(thread, goes_on) {
                            break;
                        }
                        hit.send(())?;
                    }
                    return Ok(());
                }
                (thread, None)
            }
            Ok(WaitStatus::PtraceEvent(thread, ..)) => (thread, None),
            Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..) | WaitStatus::Continued(_)) => {
                continue;
            }
            Err(errno) => return Err(errno.into()),
        };
        match ptrace::syscall(thread, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
