//! Stops what is ours behind every system call that it makes (ptrace(2)): the very programs that are shipped, with
//! nothing compiled into them for it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::container::pid_of;

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
        let _ = ptrace::detach(self.0, None);
    }
}
