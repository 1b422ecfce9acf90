//! A daemon of a container runtime's own, in a sandbox; ended with whoever started it, and when dropped.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};

use crate::command::{command, until};
use crate::container::pid_of;
use crate::sandbox::Sandbox;

/// How long its start and its end may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running daemon.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts the words of a command, its output going to a log of the sandbox's.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(sandbox: &Sandbox, name: &str, change: impl FnOnce(&mut Command)) -> Result<Self> {
        let log = sandbox.path(format!("{name}.log"));
        let out = File::options().append(true).create(true).open(&log)?;
        // A test that is killed takes it along.
        let mut service = command("setpriv");
        service.args(["--pdeathsig=TERM", "--", name]);
        change(&mut service);
        service
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let child = service.spawn().with_context(|| format!("{service:?}"))?;
        Ok(Self { child, log })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something is so, as long as it runs.
    ///
    /// # Errors
    /// It ended, or took too long; the error has its log.
    pub fn wait<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let found = until(PATIENCE, what, || match ready() {
            Some(there) => Some(Some(there)),
            None => self.child.try_wait().ok().flatten().map(|_| None),
        });
        found.ok().flatten().with_context(|| {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            format!("{what}: {}: {said}", self.log.display())
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = kill(pid_of(self.pid()), Signal::SIGTERM);
        let ended = until(PATIENCE, "a daemon's end", || {
            self.child.try_wait().ok().flatten().map(drop)
        });
        if ended.is_err() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
