//! An upcall as the kernel makes it, without the kernel: the real shim, started as a helper of the kernel's is, for a
//! process that lives and does not crash. So most of upcalld can be tried without touching core_pattern.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use upcall_helpers::wire::CORE_WORDS;

use crate::command::{pause, until};
use crate::leader::Leader;
use crate::sandbox::Sandbox;

/// The pidfd's number, as the kernel gives it.
const PIDFD: i32 = 3;

/// A core dump of a process.
#[derive(Debug, Clone)]
pub struct CoreDump {
    words: Vec<(&'static str, Vec<u8>)>,
    pid: u32,
    core: Vec<u8>,
    pause: Duration,
    pidfd: Option<Arc<OwnedFd>>,
}

/// A shim that was started, and the core that is written to it.
#[derive(Debug)]
pub struct Started {
    shim: Pid,
    writer: JoinHandle<std::io::Result<()>>,
}

impl CoreDump {
    /// Of this process, by SIGSEGV; 256 KiB of core.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let process = Leader::read(pid)?;
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"))?;
        let name = exe.file_name().unwrap_or_default().as_bytes().to_vec();
        let path: Vec<u8> = exe.as_os_str().as_bytes().to_vec();
        let path = path
            .into_iter()
            .map(|byte| if byte == b'/' { b'!' } else { byte });
        let inside = process.field("NSpid").split_whitespace().last();
        let inside = inside.context("NSpid")?.as_bytes().to_vec();
        let id = |name: &str| process.ids(name).first().copied().unwrap_or(0);
        let text = |number: u32| number.to_string().into_bytes();
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let words = vec![
            ("%P", text(pid)),
            ("%I", text(pid)),
            ("%p", inside.clone()),
            ("%i", inside),
            ("%u", text(id("Uid"))),
            ("%g", text(id("Gid"))),
            ("%d", b"1".to_vec()),
            ("%s", b"11".to_vec()),
            ("%t", time.as_secs().to_string().into_bytes()),
            ("%c", b"0".to_vec()),
            ("%C", b"0".to_vec()),
            ("%F", PIDFD.to_string().into_bytes()),
            ("%h", b"host".to_vec()),
            ("%e", process.field("Name").as_bytes().to_vec()),
            ("%f", name),
            ("%E", path.collect()),
        ];
        Ok(Self {
            words,
            pid,
            core: core(256 * 1024, pid),
            pause: Duration::ZERO,
            pidfd: Some(Arc::new(upcall_helpers::sys::pidfd_open(pid)?)),
        })
    }

    /// The number that the shim is told, if it is one.
    pub fn number(&self) -> Option<u32> {
        let (_, word) = self.words.iter().find(|(known, _)| *known == "%P")?;
        std::str::from_utf8(word).ok()?.parse().ok()
    }

    /// With another text in the place of a specifier.
    #[must_use]
    pub fn word(mut self, specifier: &str, text: impl AsRef<[u8]>) -> Self {
        for (known, word) in &mut self.words {
            if *known == specifier {
                *word = text.as_ref().to_vec();
            }
        }
        self
    }

    /// With a core of so many bytes.
    #[must_use]
    pub fn bytes(mut self, length: usize) -> Self {
        self.core = core(length, self.pid);
        self
    }

    /// With these bytes as its core.
    #[must_use]
    pub fn with_core(mut self, core: Vec<u8>) -> Self {
        self.core = core;
        self
    }

    /// Written 64 KiB at a time, with this long before each.
    #[must_use]
    pub fn slowly(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// On a kernel that knows no `%F`.
    #[must_use]
    pub fn without_pidfd(mut self) -> Self {
        self.pidfd = None;
        self.word("%F", "")
    }

    /// The core that it writes.
    pub fn core(&self) -> &[u8] {
        &self.core
    }

    /// Starts the shim, as the kernel does: a fixed line of words, no environment, the pipe as descriptor 0, 1 and 2
    /// closed, the pidfd as 3.
    ///
    /// # Errors
    /// As pipe(2), posix_spawn(3).
    pub fn start(&self, sandbox: &Sandbox) -> Result<Started> {
        self.start_by(sandbox, &[])
    }

    /// Starts what becomes the shim when it is continued: it stops itself first.
    ///
    /// # Errors
    /// As [`CoreDump::start`]; it does not stop.
    pub fn start_stopped(&self, sandbox: &Sandbox) -> Result<Started> {
        let by = [c"/bin/sh", c"-c", c"kill -STOP $$; exec \"$0\" \"$@\""];
        let started = self.start_by(sandbox, &by)?;
        let status = format!("/proc/{}/status", started.shim);
        until(Duration::from_secs(10), "its stop", || {
            let status = std::fs::read_to_string(&status).ok()?;
            status.contains("State:\tT").then_some(())
        })?;
        Ok(started)
    }

    fn start_by(&self, sandbox: &Sandbox, by: &[&CStr]) -> Result<Started> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        let program = sandbox.libexec().join("core");
        let hooks = format!("--hooks={}", sandbox.hooks().display());
        let mut argv: Vec<CString> = by.iter().map(|word| (*word).to_owned()).collect();
        argv.extend([word(program.as_os_str())?, CString::new(hooks)?]);
        for specifier in CORE_WORDS {
            let word = self.words.iter().find(|(known, _)| *known == specifier);
            let (_, text) = word.with_context(|| format!("a word for {specifier}"))?;
            argv.push(CString::new(text.as_slice())?);
        }
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_dup2(read.as_raw_fd(), 0)?;
        actions.add_close(1)?;
        actions.add_close(2)?;
        if let Some(pidfd) = &self.pidfd {
            actions.add_dup2(pidfd.as_raw_fd(), PIDFD)?;
        }
        let attributes = PosixSpawnAttr::init()?;
        let environment: [CString; 0] = [];
        let path = argv.first().context("a program")?.clone();
        let shim = posix_spawn(path.as_c_str(), &actions, &attributes, &argv, &environment)?;
        drop(read);
        let (core, rest) = (self.core.clone(), self.pause);
        let writer = std::thread::spawn(move || {
            let mut pipe = File::from(write);
            for part in core.chunks(if rest.is_zero() { core.len() } else { 65_536 }) {
                pause(rest);
                pipe.write_all(part)?;
            }
            Ok(())
        });
        Ok(Started { shim, writer })
    }

    /// Starts the shim and waits for its end.
    ///
    /// # Errors
    /// As [`CoreDump::start`] and [`Started::wait`].
    pub fn dump(&self, sandbox: &Sandbox) -> Result<Ended> {
        self.start(sandbox)?.wait()
    }
}

/// How a dump went, as the kernel sees it.
#[derive(Debug)]
pub struct Ended {
    /// What the shim exited with.
    pub code: i32,
    /// Whether all of the core was taken.
    pub taken: bool,
}

impl Started {
    /// The shim's pid.
    pub fn shim(&self) -> u32 {
        self.shim.as_raw().unsigned_abs()
    }

    /// Ends the shim, as the kernel's out-of-memory killer would.
    ///
    /// # Errors
    /// As kill(2), waitpid(2).
    pub fn kill(self) -> Result<()> {
        nix::sys::signal::kill(self.shim, nix::sys::signal::Signal::SIGKILL)?;
        waitpid(self.shim, None)?;
        Ok(())
    }

    /// Waits until a shim has ended anyhow, and the core was taken or nobody can take it any more.
    ///
    /// # Errors
    /// Somebody holds the pipe and does not read.
    pub fn over(self) -> Result<()> {
        // Whoever traced it may have waited for it.
        let _ = waitpid(self.shim, None);
        until(Duration::from_secs(20), "the core's end", || {
            self.writer.is_finished().then_some(())
        })
    }

    /// Whether the shim has ended.
    pub fn ended(&self) -> bool {
        !std::path::Path::new(&format!("/proc/{}/exe", self.shim)).exists()
    }

    /// Waits for the shim's end, and until the core was taken or nobody can take it any more.
    ///
    /// # Errors
    /// The shim was killed, or stays.
    pub fn wait(self) -> Result<Ended> {
        let status = until(Duration::from_secs(20), "the shim's end", || match waitpid(
            self.shim,
            Some(WaitPidFlag::WNOHANG),
        ) {
            Ok(WaitStatus::StillAlive) => None,
            other => Some(other),
        })?;
        let WaitStatus::Exited(_, code) = status? else {
            bail!("the shim ended with {status:?}");
        };
        until(Duration::from_secs(20), "the core's end", || {
            self.writer.is_finished().then_some(())
        })?;
        let taken = self.writer.join().is_ok_and(|written| written.is_ok());
        Ok(Ended { code, taken })
    }
}

/// Bytes that are each process's own.
fn core(length: usize, seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed) | 1 << 40;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()
    })
    .flat_map(|bytes| [bytes[0], bytes[1], bytes[2], bytes[3]])
    .take(length)
    .collect()
}

fn word(text: &OsStr) -> Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}
