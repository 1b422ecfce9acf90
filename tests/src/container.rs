//! A running container, seen from the host: its processes, its init, its end.

use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::command::{command, run, run_logged, until};
use crate::leader::Leader;
use crate::rootfs::Rootfs;

/// How long a process of a container's is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The program that made a container, and what it can do with it.
pub trait Engine: std::fmt::Debug + Send + Sync {
    /// Its word in rules and records.
    fn word(&self) -> &'static str;

    /// The command that runs something in the container; the words of that follow.
    fn exec(&self, id: &str) -> Command;

    /// Removes the container, whose init has ended.
    ///
    /// # Errors
    /// It fails; it is then tried again.
    fn remove(&self, id: &str) -> Result<()>;

    /// Whether it knows a container by its id alone.
    fn knows_ids_only(&self) -> bool {
        false
    }
}

/// A running container; removed when dropped.
#[derive(Debug)]
pub struct Container {
    engine: Box<dyn Engine>,
    name: String,
    id: String,
    root: Rootfs,
    init: u32,
    /// Processes that are left to us when who started them has ended.
    orphans: std::sync::Mutex<Vec<u32>>,
}

impl Container {
    pub(crate) fn new(
        engine: impl Engine + 'static,
        name: String,
        id: String,
        root: Rootfs,
    ) -> Self {
        Self {
            engine: Box::new(engine),
            name,
            id,
            root,
            init: 0,
            orphans: std::sync::Mutex::default(),
        }
    }

    /// Takes the runtime's id where that is not what it was started by.
    pub(crate) fn with_id(mut self, id: String) -> Self {
        self.id = id;
        self
    }

    /// Takes its init; `waits` where that is our own, which is waited for.
    pub(crate) fn with_init(mut self, pid: u32, waiting: bool) -> Result<Self> {
        self.init = pid;
        self.orphan(pid);
        if waiting {
            until(PATIENCE, "a container's init", || waits(pid).then_some(()))?;
        }
        Ok(self)
    }

    /// Who made it, as rules and records call it.
    pub fn runtime(&self) -> &'static str {
        self.engine.word()
    }

    /// Its name in the test.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The runtime's id of it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What rules and records call it: some know an id only.
    pub fn called(&self) -> &str {
        if self.engine.knows_ids_only() {
            &self.id
        } else {
            &self.name
        }
    }

    /// Its root, as the host sees it.
    pub fn root(&self) -> &Rootfs {
        &self.root
    }

    /// The host's pid of its init.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// What is known about its init.
    ///
    /// # Errors
    /// It is gone.
    pub fn leader(&self) -> Result<Leader> {
        Leader::read(self.init)
    }

    /// Runs a program in it to its end, as an admin would; what it printed.
    ///
    /// # Errors
    /// The runtime or the program fails.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        run(self.engine.exec(&self.id).args(words))
    }

    /// Starts a program in it as an admin would, and waits until it waits to crash: the command, which lasts as long as
    /// the program, and the host's pid of the program.
    ///
    /// # Errors
    /// The runtime fails, or none of its processes becomes one that waits.
    pub fn attached(&self, words: &[&str]) -> Result<(Child, u32)> {
        let before = self.waiting()?;
        let mut exec = self.engine.exec(&self.id);
        exec.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = exec.spawn()?;
        let new = until(PATIENCE, "an attached process", || {
            let now = self.waiting().ok()?;
            now.into_iter().find(|pid| !before.contains(pid))
        });
        if new.is_err() {
            drop(child.kill());
        }
        Ok((child, new?))
    }

    /// Processes in its pid namespace that wait to crash.
    fn waiting(&self) -> Result<Vec<u32>> {
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
        let own = of(self.init)?;
        let pids = std::fs::read_dir("/proc")?.flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let inside = pids.filter(|pid| waits(*pid) && of(*pid).is_ok_and(|pid| pid == own));
        Ok(inside.collect())
    }

    /// Starts a program in it and leaves it; the host's pid of it. runc only.
    ///
    /// # Errors
    /// runc fails.
    pub fn spawn(&self, words: &[&str]) -> Result<u32> {
        self.spawn_as(0, words)
    }

    /// As [`Container::spawn`], as this user of the container's. runc only.
    ///
    /// # Errors
    /// runc fails.
    pub fn spawn_as(&self, uid: u32, words: &[&str]) -> Result<u32> {
        self.spawn_with(&[&format!("--user={uid}:{uid}")], words)
    }

    /// As [`Container::spawn`], with further words for `runc exec`.
    ///
    /// # Errors
    /// runc fails.
    pub fn spawn_with(&self, flags: &[&str], words: &[&str]) -> Result<u32> {
        let directory = self.root.path().parent().context("a bundle")?;
        let pid_file = directory.join("exec-pid");
        let mut exec = command("runc");
        exec.args(["exec", "--detach", "--pid-file"]).arg(&pid_file);
        exec.args(flags).arg(&self.id).args(words);
        run_logged(&mut exec, &directory.join("exec-log"))?;
        let pid = crate::runc::pid(&pid_file)?;
        self.orphan(pid);
        Ok(pid)
    }

    /// Notes a process that is ours to reap.
    pub(crate) fn orphan(&self, pid: u32) {
        self.orphans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pid);
    }

    /// Reaps what was left to us: until then its runtime waits for it to go, and so does its cgroup. Helpers whose keepers
    /// were killed are left to us too, and are in a pid namespace that is not ours, as nobody is whom we wait for.
    pub fn reap(&self) {
        for pid in children(std::process::id())
            .into_iter()
            .filter(|pid| is_below(*pid))
        {
            let _ = waitpid(pid_of(pid), Some(WaitPidFlag::WNOHANG));
        }
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.retain(|pid| {
            waitpid(pid_of(*pid), Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive)
        });
    }

    /// As [`child_of`] its init.
    ///
    /// # Errors
    /// The init does not do it.
    pub fn child(&self) -> Result<u32> {
        child_of(self.init)
    }

    /// Starts `/crash-me` with these words and `--wait`, and waits until it waits; the host's pid of it. runc only.
    ///
    /// # Errors
    /// runc fails.
    pub fn victim(&self, words: &[&str]) -> Result<u32> {
        // It waits when all else is done.
        let all = [&["/crash-me"], words, &["--wait"]].concat();
        self.victim_by(0, &all)
    }

    /// Starts something, as this user, that becomes `crash-me --wait`, and waits until it is. runc only.
    ///
    /// # Errors
    /// runc fails.
    pub fn victim_by(&self, uid: u32, words: &[&str]) -> Result<u32> {
        let pid = self.spawn_as(uid, words)?;
        until(PATIENCE, "a process that waits", || {
            waits(pid).then_some(())
        })?;
        Ok(pid)
    }

    /// Crashes a process that waits for it: a victim, a child, or the init itself.
    ///
    /// # Errors
    /// It is gone.
    pub fn crash(&self, pid: u32) -> Result<()> {
        self.signal(pid, Signal::SIGUSR1)
    }

    fn signal(&self, pid: u32, signal: Signal) -> Result<()> {
        kill(pid_of(pid), signal).with_context(|| format!("{signal} to {pid} of {}", self.id))
    }

    /// Ends one of its processes that is ours to reap, and reaps it: its number is free.
    ///
    /// # Errors
    /// It is gone, or does not end.
    pub fn end_of(&self, pid: u32) -> Result<()> {
        self.signal(pid, Signal::SIGKILL)?;
        until(PATIENCE, "its number", || {
            self.reap();
            (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        })
    }

    /// Ends its init, and with it everything else in it.
    ///
    /// # Errors
    /// It is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(self.init, Signal::SIGKILL)
    }

    /// Waits for its init's end, which comes when whatever is left to us of it is reaped.
    ///
    /// # Errors
    /// It does not end.
    pub fn ended(&self) -> Result<()> {
        until(PATIENCE, "its init's end", || {
            self.reap();
            (!runs(self.init)).then_some(())
        })
    }

    /// Runs a program of its root in its mount namespace with all the host's rights: for what its own may not.
    ///
    /// # Errors
    /// nsenter or the program fails.
    pub fn as_host_root(&self, words: &[&str]) -> Result<String> {
        let target = self.init.to_string();
        run(command("nsenter")
            .args(["--target", &target, "--mount", "--"])
            .args(words))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may never have had one, and 0 is everybody's.
        if self.init != 0 {
            let _ = kill(pid_of(self.init), Signal::SIGKILL);
        }
        let patience = Duration::from_millis(100);
        drop(until(patience, "its init's end", || {
            self.reap();
            (!runs(self.init)).then_some(())
        }));
        let remove = || {
            self.reap();
            self.engine.remove(&self.id)
        };
        // A runtime's own clean-up after a container's end may be at work; it is tried again.
        drop(until(Duration::from_secs(3), "a removal", || remove().ok()));
    }
}

/// Has an `/init` start a child that waits to crash; the host's pid of it.
///
/// # Errors
/// The init does not do it.
pub fn child_of(init: u32) -> Result<u32> {
    let before = children(init);
    kill(pid_of(init), Signal::SIGUSR2).with_context(|| format!("SIGUSR2 to {init}"))?;
    until(PATIENCE, "a child of a container's init", || {
        let now = children(init);
        let child = now.into_iter().find(|pid| !before.contains(pid))?;
        waits(child).then_some(child)
    })
}

/// A pid for nix.
pub fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

/// Children of a process, of all its threads.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return vec![];
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Whether a process is there and has not ended: whoever is to reap it may take his time.
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

/// Whether a process has ended, in a pid namespace below ours (proc_pid_status(5)).
fn is_below(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    !runs(pid) && pids.is_some_and(|pids| pids.split_whitespace().count() > 1)
}

/// Whether a process sleeps until something comes.
pub fn sleeps(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:\tS"))
}

/// Whether a process sleeps with SIGUSR1 blocked, as `crash-me --wait` does.
pub fn waits(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let blocked = field("SigBlk:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    let usr1 = 1 << (Signal::SIGUSR1 as u32 - 1);
    blocked.is_some_and(|mask| mask & usr1 != 0)
        && field("State:").is_some_and(|state| state.starts_with('S'))
}
