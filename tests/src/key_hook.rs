//! The host's /sbin/request-key, borrowed: our shim is mounted over it, so that nothing on disk changes, and is taken away
//! by a process that outlives the test whatever happens to it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::command::{at_most, command, run, until};
use crate::hook::{HostHook, LOCK, keep, put_back, put_back_later};
use crate::sandbox::Sandbox;

/// Whom the kernel starts.
const PROGRAM: &str = "/sbin/request-key";

/// What the shim reads.
const FILE: &str = "/etc/upcalld/hooks/key";

/// What `install key --mode line` writes.
const LINES: &str = "/etc/request-key.d/upcalld.conf";

/// Where that is kept while it is borrowed: on the disk, as what replaces it.
const SAVED: &str = "/var/lib/upcalld-host-hooks.key";

/// The hook; given back when dropped, or when this process ends.
#[derive(Debug)]
pub struct HostKeyHook {
    guard: Child,
    previous: PathBuf,
}

impl HostKeyHook {
    /// Borrows it for a sandbox's shim. Waits for others.
    ///
    /// # Errors
    /// As flock(2), mount(2), and the rest of it.
    pub fn borrow(sandbox: &Sandbox) -> Result<Self> {
        Self::mounted(sandbox, Some(lock()?))
    }

    /// Borrows it beside the hook for cores, whose lock is held.
    ///
    /// # Errors
    /// As [`HostKeyHook::borrow`].
    pub fn beside(_borrowed: &HostHook, sandbox: &Sandbox) -> Result<Self> {
        put_back("key")?;
        Self::mounted(sandbox, None)
    }

    fn mounted(sandbox: &Sandbox, lock: Option<File>) -> Result<Self> {
        is_not_an_admins()?;
        // Where the shim finds it: the name itself is taken.
        let previous = sandbox.path("request-key.distrib");
        std::fs::copy(PROGRAM, &previous).context(PROGRAM)?;
        let former = std::fs::read(FILE).unwrap_or_default();
        keep(SAVED, &former)?;
        std::fs::create_dir_all("/etc/upcalld/hooks")?;
        let hook = Self::guarded(lock, previous)?;
        hook.file(sandbox, "")?;
        let shim = sandbox.libexec().join("upcall-shim");
        let none = None::<&str>;
        mount(Some(&shim), PROGRAM, none, MsFlags::MS_BIND, none)?;
        Ok(hook)
    }

    /// From now on, until it is given back, whoever the kernel starts stops itself before it becomes the shim, and can be
    /// followed from there.
    ///
    /// # Errors
    /// As open(2), mount(2).
    pub fn stop_first(sandbox: &Sandbox) -> Result<()> {
        let script = sandbox.path("stop-first");
        let shim = sandbox.libexec().join("request-key");
        let text = format!("#!/bin/sh\nkill -STOP $$\nexec {} \"$@\"\n", shim.display());
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
        let none = None::<&str>;
        Ok(mount(Some(&script), PROGRAM, none, MsFlags::MS_BIND, none)?)
    }

    /// The one that has stopped itself so.
    ///
    /// # Errors
    /// There is none.
    pub fn stopped() -> Result<u32> {
        let is_it = |pid: &u32| {
            let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}"));
            let words = read("cmdline").unwrap_or_default();
            let mut words = words.split(|byte| *byte == 0).skip(1);
            words.next() == Some(PROGRAM.as_bytes())
                && read("status").is_ok_and(|status| {
                    let mut lines = status.split(|byte| *byte == b'\n');
                    lines.any(|line| line.starts_with(b"State:\tT"))
                })
        };
        until(
            Duration::from_secs(10),
            "a shim that stopped itself",
            || {
                let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
                let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
                pids.find(|pid| is_it(pid))
            },
        )
    }

    /// Borrows the name for `upcallctl install key`, and leaves what stands there.
    ///
    /// # Errors
    /// As flock(2), write(2).
    pub fn borrow_name() -> Result<Self> {
        let lock = lock()?;
        is_not_an_admins()?;
        let former = std::fs::read(FILE).unwrap_or_default();
        keep(SAVED, &former)?;
        Self::guarded(Some(lock), PathBuf::from(PROGRAM))
    }

    fn guarded(lock: Option<File>, previous: PathBuf) -> Result<Self> {
        let held = lock.map_or_else(Stdio::null, |lock| Stdio::from(OwnedFd::from(lock)));
        let guard = put_back_later("key", held)?;
        Ok(Self { guard, previous })
    }

    /// Writes the hook's file, with these further lines.
    ///
    /// # Errors
    /// As open(2), write(2).
    pub fn file(&self, sandbox: &Sandbox, more: &str) -> Result<()> {
        let (socket, program) = (sandbox.sockets().join("upcall.sock"), &self.previous);
        let deadline = at_most(Duration::from_secs(2)).as_millis();
        let mut file = File::create(FILE)?;
        writeln!(
            file,
            "socket = {}\ndeadline_ms = {deadline}\nprogram = {}\n{more}",
            socket.display(),
            program.display()
        )?;
        Ok(())
    }

    /// Gives it back, and looks whether that worked.
    ///
    /// # Errors
    /// It is still there.
    pub fn put_back(mut self) -> Result<()> {
        self.end();
        let shim = run(command("findmnt").args(["--noheadings", PROGRAM]));
        ensure!(shim.is_err(), "{PROGRAM} is still ours");
        ensure!(!Path::new(SAVED).exists(), "{SAVED} is still there");
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

/// What is put back is a hook that is not installed: an admin's own stays.
fn is_not_an_admins() -> Result<()> {
    for name in [LINES, "/sbin/request-key.upcalld-was"] {
        ensure!(
            !Path::new(name).exists(),
            "{name} is an admin's: the key hook is installed"
        );
    }
    Ok(())
}

/// Waits for others, and puts back what they could not.
fn lock() -> Result<File> {
    let lock = File::create(LOCK).context(LOCK)?;
    lock.lock()?;
    put_back("key")?;
    Ok(lock)
}

impl Drop for HostKeyHook {
    fn drop(&mut self) {
        self.end();
    }
}
