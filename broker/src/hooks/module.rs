//! The module hook: kernel.modprobe, the program that the kernel starts for a module (kernel/module/kmod.c).
//!
//! It is a setting, so it is gone with the next boot; what the admin wanted is still in the hook's file then, and
//! [`ModuleHook::is_wanted`] says so to whoever puts hooks in at boot.

use std::path::{Path, PathBuf};

use upcall_helpers::hookfile::HookFile;

use super::InstallFileError;
use super::file::{self, HookFileError};
use super::lock::{Lock, LockError, OneWriter};
use super::shim::{self, Shim, ShimError};
use super::sysctl::{self, SysctlError};
use crate::linux::secure;

/// The name of the program, and of the setting.
const NAME: &str = "modprobe";

/// The name of the hook's file.
const FILE: &str = "module";

/// Its name while the hook is out, and to be put in again at the next boot.
const AGAIN: &str = "module.again";

/// The longest file of the hook's.
const SIZE_MAX: u64 = 4096;

/// What stands in kernel.modprobe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// This upcalld's.
    Ours,
    /// Another upcalld's.
    Another(String),
    /// Somebody else's, the distribution's as a rule; empty where the kernel is to load nothing by itself.
    Foreign(String),
    /// The kernel has no modules.
    NoModules,
}

/// Where the hook is and what is to be put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleHook {
    /// The kernel's setting.
    setting: PathBuf,
    shim: Shim,
    writer: OneWriter,
}

/// Why it cannot be put in or taken out.
#[derive(Debug, thiserror::Error)]
pub enum ModuleHookError {
    /// The kernel's setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Somebody else of ours writes.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The hook's file.
    #[error(transparent)]
    File(#[from] HookFileError),
    /// The script beside it.
    #[error(transparent)]
    Script(#[from] InstallFileError),
    /// The shim cannot be used.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// Another upcalld's stands there.
    #[error("kernel.modprobe is another upcalld's: {0}")]
    Another(String),
    /// The kernel loads nothing by itself, and is not made to.
    #[error("kernel.modprobe is {0:?}, no program: this kernel loads no module by itself")]
    Disabled(String),
    /// There is no such setting.
    #[error("this kernel has no modules")]
    NoModules,
}

/// What is needed to undo an installation.
#[derive(Debug)]
pub struct Before {
    value: String,
    file: Option<Vec<u8>>,
    /// The hook's file, while the hook was out until the next boot.
    again: Option<Vec<u8>>,
}

/// What became of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uninstalled {
    /// This stands there again.
    Restored(String),
    /// It was not ours any more, and is left alone.
    Foreign(String),
    /// It was never put in.
    NotInstalled,
}

impl ModuleHook {
    /// The host's, for an installation in these directories.
    pub fn host(libexec: &Path, hooks: &Path, run: &Path) -> Self {
        Self {
            setting: Path::new("/proc/sys/kernel").join(NAME),
            shim: Shim::new(NAME, libexec, hooks, run),
            writer: OneWriter::host(),
        }
    }

    /// A file of the setting's name elsewhere, for tests.
    #[must_use]
    pub fn below(self, directory: &Path) -> Self {
        Self {
            setting: directory.join(NAME),
            writer: OneWriter::below(directory),
            ..self
        }
    }

    /// What ours writes there: the kernel takes a path and no options.
    pub fn ours(&self) -> PathBuf {
        if self.shim.is_default() {
            self.shim.program.clone()
        } else {
            self.shim.hooks.join(NAME)
        }
    }

    /// The hook's file.
    pub fn path(&self) -> PathBuf {
        self.shim.hooks.join(FILE)
    }

    /// Whether it was put in and not taken out for good: before this boot, perhaps.
    pub fn is_wanted(&self) -> bool {
        self.path().exists() || self.shim.hooks.join(AGAIN).exists()
    }

    /// What is executed for `pass`.
    pub fn program(&self) -> PathBuf {
        HookFile::read(&self.shim.hooks, FILE).program
    }

    /// What stood there before us, as far as the file says so.
    pub fn previous(&self) -> Option<String> {
        let bytes = secure::read_file(&self.path(), SIZE_MAX).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        file::value(&text, "previous").map(|value| value.trim().to_owned())
    }

    /// What stands there.
    ///
    /// # Errors
    /// As open(2), read(2).
    pub fn standing(&self) -> Result<Standing, SysctlError> {
        if !self.setting.exists() {
            return Ok(Standing::NoModules);
        }
        let value = self.value()?;
        let path = Path::new(&value);
        Ok(if path == self.ours() {
            Standing::Ours
        } else if shim::is_any_shim(path, NAME) || shim::is_any_script(path) {
            Standing::Another(value)
        } else {
            Standing::Foreign(value)
        })
    }

    fn value(&self) -> Result<String, SysctlError> {
        Ok(sysctl::read(&self.setting)?
            .trim_end_matches('\n')
            .to_owned())
    }

    /// Waits until nobody else of ours writes; see [`OneWriter::wait`].
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn lock(&self) -> Result<Lock, LockError> {
        self.writer.wait()
    }

    /// Puts ours in; what is ours already is written again.
    ///
    /// # Errors
    /// See [`ModuleHookError`]; everything is as it was then.
    pub fn install(&self, lock: &Lock) -> Result<Before, ModuleHookError> {
        self.shim.check()?;
        let previous = match self.standing()? {
            Standing::NoModules => return Err(ModuleHookError::NoModules),
            Standing::Another(value) => return Err(ModuleHookError::Another(value)),
            Standing::Ours => self.previous(),
            Standing::Foreign(value) if value.starts_with('/') => Some(value),
            Standing::Foreign(value) => return Err(ModuleHookError::Disabled(value)),
        };
        let file = |path: &Path| secure::read_file(path, SIZE_MAX).ok();
        let before = Before {
            value: self.value()?,
            file: file(&self.path()),
            again: file(&self.shim.hooks.join(AGAIN)),
        };
        let put_in = || -> Result<(), ModuleHookError> {
            self.take_up()?;
            let text = self.text(previous.as_deref());
            file::write(&self.shim.hooks, FILE, text.as_bytes())?;
            if !self.shim.is_default() {
                self.write_script()?;
            }
            let ours = self.ours();
            Ok(sysctl::write(&self.setting, &ours.to_string_lossy())?)
        };
        match put_in() {
            Ok(()) => Ok(before),
            Err(error) => {
                // The first error is the one to be told.
                drop(self.undo(&before, lock));
                Err(error)
            }
        }
    }

    /// Puts ours back where it was, unless somebody of ours is at work there, or the kernel is to load nothing at all.
    /// Returns whether it is ours now.
    ///
    /// # Errors
    /// See [`ModuleHookError`].
    pub fn take_back(&self) -> Result<bool, ModuleHookError> {
        let Some(_lock) = self.writer.now()? else {
            return Ok(false);
        };
        // No program is somebody's wish that nothing be loaded any more, which is more than ours.
        if !self.path().exists() || !self.value()?.starts_with('/') {
            return Ok(false);
        }
        sysctl::write(&self.setting, &self.ours().to_string_lossy())?;
        Ok(true)
    }

    /// Makes everything what it was before [`ModuleHook::install`].
    ///
    /// # Errors
    /// See [`ModuleHookError`].
    pub fn undo(&self, before: &Before, _lock: &Lock) -> Result<(), ModuleHookError> {
        sysctl::write(&self.setting, &before.value)?;
        match &before.file {
            Some(bytes) => file::write(&self.shim.hooks, FILE, bytes)?,
            None => self.forget()?,
        }
        if let Some(bytes) = &before.again {
            file::write(&self.shim.hooks, AGAIN, bytes)?;
        }
        Ok(())
    }

    /// Puts back what stood there before us. What is somebody else's is left alone. `for_now`: it is put in again at
    /// the next boot, else the hook's file is removed.
    ///
    /// # Errors
    /// See [`ModuleHookError`].
    pub fn uninstall(&self, for_now: bool) -> Result<Uninstalled, ModuleHookError> {
        let _lock = self.lock()?;
        let done = match self.standing()? {
            Standing::Ours => {
                let previous = self.previous().unwrap_or_else(usual);
                sysctl::write(&self.setting, &previous)?;
                Uninstalled::Restored(previous)
            }
            Standing::Another(value) | Standing::Foreign(value) if self.path().exists() => {
                Uninstalled::Foreign(value)
            }
            Standing::Another(_) | Standing::Foreign(_) | Standing::NoModules => {
                Uninstalled::NotInstalled
            }
        };
        if for_now {
            self.lay_down()?;
        } else {
            self.forget()?;
        }
        Ok(done)
    }

    /// The hook's file gets the name under which the next boot finds it.
    fn lay_down(&self) -> Result<(), ModuleHookError> {
        rename(&self.path(), &self.shim.hooks.join(AGAIN))
    }

    /// And its own again, so that what an admin has set in it stays.
    fn take_up(&self) -> Result<(), ModuleHookError> {
        if self.path().exists() {
            return Ok(());
        }
        rename(&self.shim.hooks.join(AGAIN), &self.path())
    }

    fn forget(&self) -> Result<(), ModuleHookError> {
        for name in [FILE, AGAIN, NAME] {
            file::remove(&self.shim.hooks, name)?;
        }
        Ok(())
    }

    fn write_script(&self) -> Result<(), ModuleHookError> {
        let path = self.ours();
        let new = path.with_extension("new");
        drop(std::fs::remove_file(&new));
        let written = self.shim.write_script(&new);
        let written = written.and_then(|()| std::fs::rename(&new, &path));
        Ok(written.map_err(|source| InstallFileError { path, source })?)
    }

    /// What an admin set in an earlier one stays.
    fn text(&self, previous: Option<&str>) -> String {
        let earlier = self.path().exists();
        let set = HookFile::read(&self.shim.hooks, FILE);
        let usual = usual();
        let previous = previous.unwrap_or(&usual);
        let program = set.program.display().to_string();
        let program = if earlier { &program } else { previous };
        format!(
            "# Written by `upcallctl install module`; read by the shim that the kernel starts (upcalld(8)).\n\
             socket = {}\ndeadline_ms = {}\n\
             # What `upcallctl uninstall module` puts back.\nprevious = {previous}\n\
             # Where `pass` goes, and modules that are wanted while upcalld is stopped, unless that is `deny`.\n\
             program = {program}\nwithout_daemon = {}\n",
            self.shim.socket.display(),
            set.deadline.as_millis(),
            if set.refuse { "deny" } else { "pass" },
        )
    }
}

/// What stands there where nobody has changed it (`CONFIG_MODPROBE_PATH`).
fn usual() -> String {
    "/sbin/modprobe".to_owned()
}

fn rename(from: &Path, to: &Path) -> Result<(), ModuleHookError> {
    match std::fs::rename(from, to) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            let path = from.to_owned();
            Err(InstallFileError { path, source }.into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
