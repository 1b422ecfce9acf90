//! Ends a process at one of its system calls, whichever is wished (ptrace(2)): so every step can be the last one, and nothing
//! has to be built into a program for that.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::command::{pause, until};
use crate::container::{children, pid_of, runs};

/// At which call somebody is to end, and how.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// The first is 1; none: nobody ends, and all are counted.
    pub call: Option<u64>,
    /// SIGKILL, SIGSEGV.
    pub signal: Signal,
}

impl End {
    /// Nobody's.
    pub fn never() -> Self {
        Self {
            call: None,
            signal: Signal::SIGKILL,
        }
    }
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The calls that began, up to the last: their numbers.
    pub calls: Vec<i64>,
    /// Who was ended.
    pub ended: Option<u32>,
}

/// A thread that follows processes; they are left alone when it ends.
#[derive(Debug)]
pub struct Tracer {
    thread: JoinHandle<Result<Seen>>,
    enough: Arc<AtomicBool>,
}

impl Tracer {
    /// Follows the children of this process, those that it has and those that it will have, and their children, and ends
    /// one of them; itself it is spared.
    ///
    /// # Errors
    /// As ptrace(2).
    pub fn of_children(parent: u32, end: End) -> Result<Self> {
        Self::start(end, Some(parent), move || {
            let all = std::iter::once(parent).chain(children(parent));
            all.map(pid_of).collect()
        })
    }

    /// Follows a process that has stopped itself and is to execute something, from that on.
    ///
    /// # Errors
    /// As ptrace(2).
    pub fn of_stopped(pid: u32, end: End) -> Result<Self> {
        let tracer = Self::start(end, None, move || vec![pid_of(pid)])?;
        kill(pid_of(pid), Signal::SIGCONT)?;
        Ok(tracer)
    }

    fn start(
        end: End,
        spared: Option<u32>,
        whom: impl FnOnce() -> Vec<Pid> + Send + 'static,
    ) -> Result<Self> {
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let (ready, attached) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let options = Options::PTRACE_O_TRACESYSGOOD
                | Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK
                | Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_TRACEEXEC;
            for pid in whom() {
                seize(pid, options)?;
            }
            let _ = ready.send(());
            let mut follower = Follower {
                end,
                spared: spared.map(pid_of),
                executed: spared.is_some(),
                inside: HashSet::new(),
                seen: Seen::default(),
            };
            follower.follow(&told)?;
            Ok(follower.seen)
        });
        if attached.recv().is_err() {
            let failed = thread.join().map_err(|_| anyhow!("the tracer"))?;
            return Err(failed.err().unwrap_or_else(|| anyhow!("the tracer")));
        }
        Ok(Self { thread, enough })
    }

    /// Stops following, and tells what was seen.
    ///
    /// # Errors
    /// As ptrace(2).
    pub fn end(self) -> Result<Seen> {
        self.enough.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the tracer"))?
    }

    /// Waits until there is nobody any more to be followed, or somebody was ended.
    ///
    /// # Errors
    /// As ptrace(2).
    pub fn wait(self) -> Result<Seen> {
        self.thread.join().map_err(|_| anyhow!("the tracer"))?
    }
}

/// Follows this one; who has followed it before may be about to leave. `false`: it is not there any more.
pub(crate) fn seize(pid: Pid, options: Options) -> Result<bool> {
    let seized = until(
        Duration::from_secs(2),
        "leave to follow",
        || match ptrace::seize(pid, options) {
            // One that has ended and is not reaped is nobody's to follow either.
            Err(Errno::EPERM) if runs(pid.as_raw().unsigned_abs()) => None,
            Err(Errno::EPERM | Errno::ESRCH) => Some(Ok(false)),
            other => Some(other.map(|()| true)),
        },
    );
    let seized = seized?.with_context(|| format!("ptrace {pid}"))?;
    if seized {
        let _ = ptrace::interrupt(pid);
    }
    Ok(seized)
}

struct Follower {
    end: End,
    spared: Option<Pid>,
    /// Whether calls count: not those before the program that is meant.
    executed: bool,
    /// Who is inside a call.
    inside: HashSet<Pid>,
    seen: Seen,
}

impl Follower {
    fn follow(&mut self, enough: &AtomicBool) -> Result<()> {
        let any = Pid::from_raw(-1);
        // Children of the test's other threads are theirs.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        while !enough.load(Ordering::Relaxed) && self.seen.ended.is_none() {
            let (pid, signal) = match waitpid(any, Some(flags)) {
                Ok(WaitStatus::StillAlive) => {
                    pause(Duration::from_micros(200));
                    continue;
                }
                Ok(WaitStatus::PtraceSyscall(pid)) => {
                    self.call(pid)?;
                    (pid, None)
                }
                Ok(WaitStatus::PtraceEvent(pid, _, event)) => {
                    if event == libc::PTRACE_EVENT_EXEC {
                        // Inside execve(2), which ends next.
                        self.executed = true;
                        self.inside.insert(pid);
                    }
                    (pid, None)
                }
                Ok(WaitStatus::Stopped(pid, signal)) => {
                    let ours = matches!(signal, Signal::SIGTRAP | Signal::SIGSTOP);
                    (pid, Some(signal).filter(|_| !ours))
                }
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    self.inside.remove(&pid);
                    continue;
                }
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            match ptrace::syscall(pid, signal) {
                // Somebody else has ended it.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// A call begins or ends.
    fn call(&mut self, pid: Pid) -> Result<()> {
        if !self.inside.insert(pid) {
            self.inside.remove(&pid);
            return Ok(());
        }
        if !self.executed || self.spared == Some(pid) {
            return Ok(());
        }
        let text = std::fs::read_to_string(format!("/proc/{pid}/syscall"));
        let number = text.unwrap_or_default();
        let number = number.split(' ').next().and_then(|word| word.parse().ok());
        self.seen.calls.push(number.unwrap_or(-1));
        if self.end.call == u64::try_from(self.seen.calls.len()).ok() {
            self.seen.ended = Some(pid.as_raw().unsigned_abs());
            match kill(pid, self.end.signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
