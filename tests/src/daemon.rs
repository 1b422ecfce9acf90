//! A daemon in a sandbox: started, told things by signals, ended, and looked after: it leaves nothing behind.

use std::fs::{DirBuilder, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use upcalld::hooks::pattern;

use crate::command::{command, until};
use crate::container::{children, pid_of, runs};
use crate::leftovers::{Before, left_nothing};
use crate::records::Records;
use crate::sandbox::Sandbox;

/// How long start and end may take; the end waits for running work.
const PATIENCE: Duration = Duration::from_secs(20);

/// The listening sockets of upcalld.socket, kept while daemons come and go.
#[derive(Debug)]
pub struct Sockets([OwnedFd; 2]);

impl Sockets {
    /// Listens in the sandbox.
    ///
    /// # Errors
    /// As bind(2), listen(2).
    pub fn listen(sandbox: &Sandbox) -> Result<Self> {
        let kernel = pattern::kernel_socket(&sandbox.sockets(), &sandbox.hooks());
        let directory = kernel.parent().context("its directory")?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let listening = |path: &Path, kind| -> Result<OwnedFd> {
            drop(std::fs::remove_file(path));
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Unix, kind, flags, None)?;
            bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
            listen(&socket, Backlog::new(4096)?)?;
            Ok(socket)
        };
        let upcall = listening(&sandbox.sockets().join("upcall.sock"), SockType::SeqPacket)?;
        Ok(Self([upcall, listening(&kernel, SockType::Stream)?]))
    }
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    launcher: u32,
    log: PathBuf,
    records: Records,
    before: Before,
}

impl Daemon {
    /// Starts one that takes requests from every process of root's, and waits until it is ready.
    ///
    /// # Errors
    /// It does not start; the error has its log.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        Self::start_with(sandbox, |daemon| {
            daemon.arg("--any-peer");
        })
    }

    /// Starts one as it is for use: requests come from the kernel's own shims.
    ///
    /// # Errors
    /// It does not start; the error has its log.
    pub fn start_strict(sandbox: &Sandbox) -> Result<Self> {
        Self::start_with(sandbox, |_| {})
    }

    /// Starts one as systemd does, with these listening sockets.
    ///
    /// # Errors
    /// It does not start; the error has its log.
    pub fn start_activated(sandbox: &Sandbox, sockets: &Sockets) -> Result<Self> {
        // A shell has them as its input and output, and gives them on as sd_listen_fds(3) has it.
        const GIVE: &str = "exec 3<&0 4<&1 </dev/null >/dev/null; \
             export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$0\" \"$@\"";
        let [upcall, kernel] = &sockets.0;
        let (upcall, kernel) = (upcall.try_clone()?, kernel.try_clone()?);
        let by = ["/bin/sh", "-c", GIVE].map(str::to_owned);
        Self::start_by(sandbox, &by, |daemon| {
            daemon.stdin(upcall).stdout(kernel);
        })
    }

    /// Starts one, its command changed as wanted.
    ///
    /// # Errors
    /// It does not start; the error has its log.
    pub fn start_with(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> Result<Self> {
        Self::start_by(sandbox, &[], change)
    }

    /// Starts one that takes requests from every process of root's, by these words, which execute what follows them.
    ///
    /// # Errors
    /// It does not start; the error has its log.
    pub fn start_below(sandbox: &Sandbox, by: &[String]) -> Result<Self> {
        Self::start_by(sandbox, by, |daemon| {
            daemon.arg("--any-peer");
        })
    }

    fn start_by(
        sandbox: &Sandbox,
        by: &[String],
        change: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let log = sandbox.path("log");
        let notify = sandbox.path("notify");
        drop(std::fs::remove_file(&notify));
        let told = UnixDatagram::bind(&notify)?;
        told.set_read_timeout(Some(Duration::from_millis(50)))?;
        // A test that is killed takes its daemon with it.
        let mut daemon = command("setpriv");
        daemon
            .args(["--pdeathsig=TERM", "--"])
            .args(by)
            .arg(&sandbox.programs.daemon)
            // A system call that the daemon has no use for ends it here, so that a test sees it.
            .args(["--foreground", "--armour", "kill", "--config"])
            .arg(sandbox.config())
            .arg("--state")
            .arg(sandbox.state())
            .arg("--run")
            .arg(sandbox.sockets())
            .arg("--libexec")
            .arg(sandbox.libexec())
            .current_dir("/")
            .env_clear()
            .env("NOTIFY_SOCKET", &notify)
            .env("UPCALLD_LOG", "debug")
            // Ctrl-C at a terminal is for the test, which then ends it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().append(true).create(true).open(&log)?);
        change(&mut daemon);
        let mut child = daemon.spawn().with_context(|| format!("{daemon:?}"))?;
        let ready = until(PATIENCE, "READY=1", || {
            let ended = child.try_wait().ok().flatten().is_some();
            let mut message = [0; 256];
            let length = told.recv(&mut message).unwrap_or(0);
            let message = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
            if message.lines().any(|line| line == "READY=1") {
                Some(true)
            } else {
                ended.then_some(false)
            }
        });
        if !matches!(ready, Ok(true)) {
            drop(child.kill());
            let status = child.wait()?;
            bail!("upcalld did not start: {status}: {}", read(&log));
        }
        let launcher = children(child.id());
        let launcher = launcher
            .first()
            .copied()
            .context("upcalld has no launcher")?;
        Ok(Self {
            before: Before::of(child.id(), launcher),
            child,
            launcher,
            log,
            records: Records::at(&sandbox.state()),
        })
    }

    /// Its records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its launcher's pid.
    pub fn launcher(&self) -> u32 {
        self.launcher
    }

    /// The launcher's child that takes the next launch and keeps it, when all others have ended.
    ///
    /// # Errors
    /// Others do not end.
    pub fn keeper(&self) -> Result<u32> {
        until(
            Duration::from_secs(5),
            "a keeper alone",
            || match children(self.launcher).as_slice() {
                [keeper] => Some(*keeper),
                _ => None,
            },
        )
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Waits until it has logged this.
    ///
    /// # Errors
    /// It does not.
    pub fn logs(&self, text: &str) -> Result<()> {
        let found = until(Duration::from_secs(5), text, || {
            self.log().contains(text).then_some(())
        });
        found.map_err(|error| anyhow::anyhow!("{error}; the log is {}", self.log()))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(pid_of(self.pid()), signal)?)
    }

    /// Stops it (SIGSTOP), and waits until it is: the signal alone lets its threads go on for a while where the machine
    /// is busy.
    ///
    /// # Errors
    /// It is gone.
    pub fn halt(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        self.stopped()
    }

    /// Waits until it has stopped itself, at the step it was told (`--stop-at`).
    ///
    /// # Errors
    /// It does not.
    pub fn stopped(&self) -> Result<()> {
        let path = format!("/proc/{}/status", self.pid());
        let stopped = until(Duration::from_secs(10), "its stop", || {
            let status = std::fs::read_to_string(&path).ok()?;
            status.contains("State:\tT").then_some(())
        });
        stopped.map_err(|error| anyhow::anyhow!("{error}; the log is {}", self.log()))
    }

    /// Kills it, as a crash would end it.
    ///
    /// # Errors
    /// It is gone.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it and looks for what it should not have left: descriptors, a process, a cgroup, an open record, half a file.
    ///
    /// # Errors
    /// It fails, or left something.
    pub fn stop(self, sandbox: &Sandbox) -> Result<()> {
        self.before.is_again()?;
        let (launcher, workers) = (self.launcher, self.before.workers());
        self.ends()?;
        until(PATIENCE, "the launcher's end", || {
            (!runs(launcher)).then_some(())
        })?;
        left_nothing(sandbox, &workers)
    }

    /// Ends it; what its launcher has begun goes on.
    ///
    /// # Errors
    /// It fails.
    pub fn ends(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = until(PATIENCE, "upcalld's end", || {
            self.child.try_wait().ok().flatten()
        })?;
        ensure!(
            status.success(),
            "upcalld ended with {status}: {}",
            self.log()
        );
        Ok(())
    }
}

fn read(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
