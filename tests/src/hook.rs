//! The host's own core hook, borrowed: taken by one test or demo at a time, and put back whatever happens.
//!
//! It is put back when the guard is dropped (also by a panic), when a signal ends the process, and, should it have been
//! killed, by whoever borrows it next.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use upcalld::hooks::install::Mode;
use upcalld::hooks::pattern::Pattern;

use crate::command::{command, run};
use crate::sandbox::Sandbox;

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
const PIPE_LIMIT: &str = "/proc/sys/kernel/core_pipe_limit";
const SUID_DUMPABLE: &str = "/proc/sys/fs/suid_dumpable";
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";

/// Whoever changes the host's hooks in a test holds this.
pub(crate) const LOCK: &str = "/run/upcalld-host-hooks.lock";

/// What stood in the hooks while somebody has borrowed them.
const SAVED: &str = "/run/upcalld-host-hooks.core";

/// Puts back what was there: also what somebody left who could not.
const PUT_BACK: &str = include_str!("../../tools/put-back");

/// core_pattern, core_pipe_limit, fs.suid_dumpable and vm.max_map_count as they were.
#[derive(Debug)]
pub struct HostHook {
    pattern: String,
    pipe_limit: String,
    suid_dumpable: String,
    max_map_count: String,
    _lock: File,
}

impl HostHook {
    /// Borrows them, for a test: a signal puts them back and ends the process. Waits for others.
    ///
    /// # Errors
    /// As open(2), flock(2), read(2); a killed borrower's could not be put back.
    pub fn borrow() -> Result<Self> {
        let hook = Self::borrow_quietly()?;
        let pattern = format!("{}\n", hook.pattern).into_bytes();
        let pipe_limit = format!("{}\n", hook.pipe_limit).into_bytes();
        let suid_dumpable = format!("{}\n", hook.suid_dumpable).into_bytes();
        let max_map_count = format!("{}\n", hook.max_map_count).into_bytes();
        crate::sys::write_at_the_end(vec![
            (c"/proc/sys/kernel/core_pattern", pattern),
            (c"/proc/sys/kernel/core_pipe_limit", pipe_limit),
            (c"/proc/sys/fs/suid_dumpable", suid_dumpable),
            (c"/proc/sys/vm/max_map_count", max_map_count),
        ])?;
        Ok(hook)
    }

    /// Borrows them and leaves signals to the caller.
    ///
    /// # Errors
    /// As [`HostHook::borrow`].
    pub fn borrow_quietly() -> Result<Self> {
        let lock = File::create(LOCK).context(LOCK)?;
        lock.lock()?;
        put_back("core")?;
        let hook = Self {
            pattern: read(PATTERN)?,
            pipe_limit: read(PIPE_LIMIT)?,
            suid_dumpable: read(SUID_DUMPABLE)?,
            max_map_count: read(MAX_MAP_COUNT)?,
            _lock: lock,
        };
        let text = format!(
            "{}\n{}\n{}\n{}\n",
            hook.pipe_limit, hook.suid_dumpable, hook.pattern, hook.max_map_count
        );
        keep(SAVED, text.as_bytes())?;
        Ok(hook)
    }

    /// What stood in core_pattern.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// What stood in core_pipe_limit.
    pub fn pipe_limit(&self) -> &str {
        &self.pipe_limit
    }

    /// Puts the sandbox's shim in.
    ///
    /// # Errors
    /// As write(2); the kernel does not keep it.
    pub fn install(&self, sandbox: &Sandbox) -> Result<()> {
        self.install_as(sandbox, Mode::Pipe)
    }

    /// Puts the sandbox's shim in, or its socket.
    ///
    /// # Errors
    /// As write(2); the kernel does not keep it.
    pub fn install_as(&self, sandbox: &Sandbox, mode: Mode) -> Result<()> {
        let before = Pattern::parse(&self.pattern);
        sandbox.hook(|hook| hook.previous = before)?;
        let (run, hooks) = (sandbox.sockets(), sandbox.hooks());
        let ours = match mode {
            Mode::Pipe => Pattern::ours(&sandbox.libexec().join("core"), &hooks),
            Mode::Socket => Pattern::ours_by_socket(&run, &hooks, true),
            Mode::PlainSocket => Pattern::ours_by_socket(&run, &hooks, false),
        }?;
        // The limit first, so that the kernel waits for the shim from its first call on.
        write(PIPE_LIMIT, "1024")?;
        write(PATTERN, ours.text())
    }

    /// Puts back what stood there, and reads it back.
    ///
    /// # Errors
    /// As write(2); the kernel does not keep it.
    pub fn put_back(self) -> Result<()> {
        self.restore()
    }

    fn restore(&self) -> Result<()> {
        write(PATTERN, &self.pattern)?;
        write(PIPE_LIMIT, &self.pipe_limit)?;
        write(SUID_DUMPABLE, &self.suid_dumpable)?;
        write(MAX_MAP_COUNT, &self.max_map_count)?;
        std::fs::remove_file(SAVED).or_else(|error| {
            let gone = error.kind() == std::io::ErrorKind::NotFound;
            if gone { Ok(()) } else { Err(error) }
        })?;
        Ok(())
    }
}

impl Drop for HostHook {
    fn drop(&mut self) {
        if Path::new(SAVED).exists() {
            drop(self.restore());
        }
    }
}

/// Puts a hook back as whoever borrowed it last found it; the lock is held.
///
/// # Errors
/// It is not possible, with the words of whoever was told to.
pub(crate) fn put_back(hook: &str) -> Result<()> {
    run(command("sh").args(["-c", PUT_BACK, "put-back", hook]))?;
    Ok(())
}

/// Keeps what stood there; a name that is there is all of it.
///
/// # Errors
/// As write(2), rename(2).
pub(crate) fn keep(saved: &str, text: &[u8]) -> Result<()> {
    let new = format!("{saved}.new");
    std::fs::write(&new, text).context(saved.to_owned())?;
    std::fs::rename(&new, saved).context(saved.to_owned())
}

/// Puts it back as soon as the returned process's input is closed, and be it because this process was killed. `held` is
/// open until that is done.
///
/// # Errors
/// As fork(2), execve(2).
pub(crate) fn put_back_later(hook: &str, held: Stdio) -> Result<Child> {
    let script = format!("cat >/dev/null\n{PUT_BACK}");
    Ok(command("setsid")
        .args(["sh", "-c", &script, "put-back", hook])
        .stdin(Stdio::piped())
        .stdout(held)
        .spawn()?)
}

/// Sets fs.suid_dumpable (proc_sys_fs(5)) until everything that was borrowed is put back.
///
/// # Errors
/// As write(2).
pub fn suid_dumpable(_borrowed: &HostHook, value: &str) -> Result<()> {
    write(SUID_DUMPABLE, value)
}

/// Sets vm.max_map_count (proc_sys_vm(5)) until everything that was borrowed is put back.
///
/// # Errors
/// As write(2).
pub fn max_map_count(_borrowed: &HostHook, value: &str) -> Result<()> {
    write(MAX_MAP_COUNT, value)
}

/// What stands in the hooks now: pattern and limit.
///
/// # Errors
/// As read(2).
pub fn standing() -> Result<(String, String)> {
    Ok((read(PATTERN)?, read(PIPE_LIMIT)?))
}

fn read(path: &str) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    Ok(text.trim_end_matches('\n').to_owned())
}

fn write(path: &str, text: &str) -> Result<()> {
    std::fs::write(path, format!("{text}\n")).with_context(|| path.to_owned())?;
    let found = read(path)?;
    ensure!(
        found == text,
        "{path} is {found:?} after {text:?} was written"
    );
    Ok(())
}
