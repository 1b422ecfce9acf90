//! The host's kernel.modprobe, borrowed, and put back by a process that outlives the test whatever happens to it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Child;

use anyhow::{Context, Result, ensure};

use crate::hook::{LOCK, keep, put_back, put_back_later};
use crate::sandbox::Sandbox;

/// Whom the kernel starts.
pub const SETTING: &str = "/proc/sys/kernel/modprobe";

/// What the shim reads.
const FILE: &str = "/etc/upcalld/hooks/module";

/// What stood there while it is borrowed.
const SAVED: &str = "/run/upcalld-host-hooks.module";

/// The hook; given back when dropped, or when this process ends.
#[derive(Debug)]
pub struct HostModuleHook {
    guard: Child,
    previous: String,
}

impl HostModuleHook {
    /// Borrows it for a sandbox's shim. Waits for others.
    ///
    /// # Errors
    /// As flock(2), open(2), write(2); somebody's own hook file is there.
    pub fn borrow(sandbox: &Sandbox) -> Result<Self> {
        let hook = Self::borrow_setting()?;
        hook.file(sandbox, "")?;
        let shim = sandbox.libexec().join("modprobe");
        std::fs::write(SETTING, shim.as_os_str().as_encoded_bytes()).context(SETTING)?;
        Ok(hook)
    }

    /// Borrows it for `upcallctl install module`, and leaves what stands there.
    ///
    /// # Errors
    /// As flock(2), write(2).
    pub fn borrow_setting() -> Result<Self> {
        let lock = File::create(LOCK).context(LOCK)?;
        lock.lock()?;
        put_back("module")?;
        ensure!(!Path::new(FILE).exists(), "{FILE} is somebody's");
        let previous = std::fs::read_to_string(SETTING).context(SETTING)?;
        keep(SAVED, previous.as_bytes())?;
        std::fs::create_dir_all("/etc/upcalld/hooks")?;
        let guard = put_back_later("module", OwnedFd::from(lock).into())?;
        let previous = previous.trim().to_owned();
        Ok(Self { guard, previous })
    }

    /// Writes the hook's file, with these further lines.
    ///
    /// # Errors
    /// As open(2), write(2).
    pub fn file(&self, sandbox: &Sandbox, more: &str) -> Result<()> {
        let socket = sandbox.sockets().join("upcall.sock");
        let mut file = File::create(FILE)?;
        writeln!(
            file,
            "socket = {}\nprogram = {}\n{more}",
            socket.display(),
            self.previous
        )?;
        Ok(())
    }

    /// Gives it back, and looks whether that worked.
    ///
    /// # Errors
    /// It is still there.
    pub fn put_back(mut self) -> Result<()> {
        self.end();
        let standing = std::fs::read_to_string(SETTING)?;
        ensure!(standing.trim() == self.previous, "{SETTING} is {standing}");
        Ok(())
    }

    /// As if everything of it had been killed: nothing is put back, and nobody waits for it any longer.
    ///
    /// # Errors
    /// As kill(2), waitpid(2).
    pub fn abandon(mut self) -> Result<()> {
        self.guard.kill()?;
        self.guard.wait()?;
        Ok(())
    }

    fn end(&mut self) {
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

impl Drop for HostModuleHook {
    fn drop(&mut self) {
        self.end();
    }
}
