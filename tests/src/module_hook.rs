//! The host's kernel.modprobe, borrowed, and put back by a process that outlives the test whatever happens to it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use crate::command::{command, run};
use crate::sandbox::Sandbox;

/// Whom the kernel starts.
pub const SETTING: &str = "/proc/sys/kernel/modprobe";

/// What the shim reads.
const FILE: &str = "/etc/upcalld/hooks/module";

/// What stood there while it is borrowed.
const SAVED: &str = "/run/upcalld-host-hooks.module";

/// Whoever changes the host's hooks in a test holds this.
const LOCK: &str = "/run/upcalld-host-hooks.lock";

/// Puts back what was there: also what somebody left who could not.
const PUT_BACK: &str = "\
if [ -e /run/upcalld-host-hooks.module ]; then
    cat /run/upcalld-host-hooks.module >/proc/sys/kernel/modprobe
    rm -f /etc/upcalld/hooks/module /run/upcalld-host-hooks.module
    rmdir /etc/upcalld/hooks /etc/upcalld 2>/dev/null
fi
:";

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
        run(command("sh").args(["-c", PUT_BACK]))?;
        ensure!(!Path::new(FILE).exists(), "{FILE} is somebody's");
        let previous = std::fs::read_to_string(SETTING).context(SETTING)?;
        std::fs::write(SAVED, &previous)?;
        std::fs::create_dir_all("/etc/upcalld/hooks")?;
        // Its end of the pipe closes with us; and the lock is held until it is done.
        let guard = command("setsid")
            .args(["sh", "-c", &format!("cat >/dev/null\n{PUT_BACK}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::from(OwnedFd::from(lock)))
            .spawn()?;
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
