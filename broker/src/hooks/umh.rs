//! The static usermode helper: on a kernel that was built with CONFIG_STATIC_USERMODEHELPER, the one program that it starts
//! for everything (security/Kconfig), whatever its settings say. Its path is fixed in the kernel, and it gets the
//! words of what was wanted and none of ours; so the hook's file is where the shim looks by itself, or nothing works.
//!
//! Whether a kernel is such a one is not asked: ours is put in and tried.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use upcall_helpers::hookfile::HookFile;

use super::InstallFileError;
use super::file::{self, HookFileError};
use super::lock::{Lock, LockError, OneWriter};
use super::shim::{Shim, ShimError};
use crate::linux::secure;

/// Where kernels look unless their builders wanted something else (`CONFIG_STATIC_USERMODEHELPER_PATH`).
pub const PLACE: &str = "/sbin/usermode-helper";

/// The name of the hook's file.
const FILE: &str = "umh";

/// The longest file of the hook's.
const SIZE_MAX: u64 = 4096;

/// What stands in that place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A link to this upcalld's shim.
    Ours,
    /// Something else.
    Foreign,
    /// Nothing: such a kernel starts nothing.
    Nothing,
}

/// Where the hook is and what is to be put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UmhHook {
    place: PathBuf,
    shim: Shim,
    writer: OneWriter,
    /// Whether a kernel is to start it.
    real: bool,
}

/// Why it cannot be put in or taken out.
#[derive(Debug, thiserror::Error)]
pub enum UmhHookError {
    /// The hook's file.
    #[error(transparent)]
    File(#[from] HookFileError),
    /// The link.
    #[error(transparent)]
    Link(#[from] InstallFileError),
    /// The shim cannot be used.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// Somebody else of ours writes.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Something stands there.
    #[error("{} is there already, and is somebody else's", .0.display())]
    Taken(PathBuf),
    /// The shim would not find its file.
    #[error("the kernel gives this program no words of ours, so its file has to be {}", .0.display())]
    Elsewhere(PathBuf),
}

/// What is needed to undo an installation.
#[derive(Debug)]
pub struct Before {
    was_ours: bool,
    file: Option<Vec<u8>>,
}

impl UmhHook {
    /// The host's, for an installation in these directories; the place is the one that the hook's file says, if any does.
    pub fn host(libexec: &Path, hooks: &Path, run: &Path) -> Self {
        let shim = Shim::new("upcall-shim", libexec, hooks, run);
        let text = secure::read_file(&shim.hooks.join(FILE), SIZE_MAX).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let place = file::value(&text, "place").map(|place| PathBuf::from(place.trim()));
        Self {
            place: place
                .filter(|place| place.is_absolute())
                .unwrap_or_else(|| PLACE.into()),
            shim,
            writer: OneWriter::host(),
            real: true,
        }
    }

    /// With another place, which the kernel was built for.
    #[must_use]
    pub fn at(self, place: &Path) -> Self {
        let place = place.to_owned();
        Self { place, ..self }
    }

    /// The same in another directory, for tests.
    #[must_use]
    pub fn below(self, directory: &Path) -> Self {
        let place = directory.join("usermode-helper");
        let writer = OneWriter::below(directory);
        Self {
            place,
            writer,
            real: false,
            ..self
        }
    }

    /// What the kernel starts.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The hook's file.
    pub fn path(&self) -> PathBuf {
        self.shim.hooks.join(FILE)
    }

    /// What stands there.
    pub fn standing(&self) -> Standing {
        match std::fs::read_link(&self.place) {
            Ok(target) if target == self.shim.program => Standing::Ours,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Standing::Nothing,
            Ok(_) | Err(_) => Standing::Foreign,
        }
    }

    /// Whether it was put in, and is not there any more.
    pub fn is_lost(&self) -> bool {
        self.path().exists() && self.standing() != Standing::Ours
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
    /// See [`UmhHookError`]; everything is as it was then.
    pub fn install(&self, lock: &Lock) -> Result<Before, UmhHookError> {
        self.shim.check()?;
        if self.real && !self.shim.is_default() {
            let usual = Path::new(super::pattern::DEFAULT_HOOKS);
            return Err(UmhHookError::Elsewhere(usual.join(FILE)));
        }
        let before = Before {
            was_ours: self.standing() == Standing::Ours,
            file: secure::read_file(&self.path(), SIZE_MAX).ok(),
        };
        if self.standing() == Standing::Foreign {
            return Err(UmhHookError::Taken(self.place.clone()));
        }
        let put_in = || -> Result<(), UmhHookError> {
            file::write(&self.shim.hooks, FILE, self.text().as_bytes())?;
            Ok(self.link()?)
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

    /// Puts ours back where it was and nothing stands now, unless somebody of ours is at work there. Returns whether it is
    /// ours.
    ///
    /// # Errors
    /// See [`UmhHookError`].
    pub fn take_back(&self) -> Result<bool, UmhHookError> {
        let Some(_lock) = self.writer.now()? else {
            return Ok(false);
        };
        if !self.is_lost() || self.standing() != Standing::Nothing {
            return Ok(false);
        }
        self.link()?;
        Ok(true)
    }

    /// Makes everything what it was before [`UmhHook::install`].
    ///
    /// # Errors
    /// See [`UmhHookError`].
    pub fn undo(&self, before: &Before, _lock: &Lock) -> Result<(), UmhHookError> {
        if !before.was_ours {
            self.unlink()?;
        }
        match &before.file {
            Some(bytes) => file::write(&self.shim.hooks, FILE, bytes)?,
            None => file::remove(&self.shim.hooks, FILE)?,
        }
        Ok(())
    }

    /// Takes ours out; what is somebody else's is left alone. Returns what stood there.
    ///
    /// # Errors
    /// See [`UmhHookError`].
    pub fn uninstall(&self) -> Result<Standing, UmhHookError> {
        let _lock = self.lock()?;
        let standing = self.standing();
        self.unlink()?;
        file::remove(&self.shim.hooks, FILE)?;
        Ok(standing)
    }

    /// Nothing may be there: what is somebody else's is not replaced.
    fn link(&self) -> Result<(), InstallFileError> {
        if self.standing() == Standing::Ours {
            return Ok(());
        }
        symlink(&self.shim.program, &self.place).map_err(|source| self.failed(source))
    }

    fn unlink(&self) -> Result<(), InstallFileError> {
        if self.standing() != Standing::Ours {
            return Ok(());
        }
        std::fs::remove_file(&self.place).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> InstallFileError {
        let path = self.place.clone();
        InstallFileError { path, source }
    }

    /// What an admin set in an earlier one stays.
    fn text(&self) -> String {
        let set = HookFile::read(&self.shim.hooks, FILE);
        format!(
            "# Written by `upcallctl install umh`; read by the shim that the kernel starts (upcalld(8)).\n\
             socket = {}\ndeadline_ms = {}\n\
             # What the kernel starts for everything.\nplace = {}\n\
             # What the kernel is known to start goes on while upcalld is stopped, unless this is `deny`.\n\
             without_daemon = {}\n",
            self.shim.socket.display(),
            set.deadline.as_millis(),
            self.place.display(),
            if set.refuse { "deny" } else { "pass" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory in the place of the host's, with a shim.
    fn hook() -> Option<(tempfile::TempDir, UmhHook)> {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: the files must be root's");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::write(at.join("upcall-shim"), "").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(at.join("upcall-shim"), executable).unwrap();
        let hook = UmhHook::host(at, &at.join("hooks"), at).below(at);
        Some((directory, hook))
    }

    #[test]
    fn ours_goes_in_and_out_and_back() {
        let Some((_directory, hook)) = hook() else {
            return;
        };
        assert_eq!(hook.standing(), Standing::Nothing);
        let lock = hook.lock().unwrap();
        let before = hook.install(&lock).unwrap();
        assert_eq!(hook.standing(), Standing::Ours);
        assert!(hook.path().exists() && !hook.is_lost());
        // Again changes nothing, and undoing that neither.
        let again = hook.install(&lock).unwrap();
        hook.undo(&again, &lock).unwrap();
        assert_eq!(hook.standing(), Standing::Ours);
        hook.undo(&before, &lock).unwrap();
        assert_eq!(hook.standing(), Standing::Nothing);
        assert!(!hook.path().exists());
        hook.install(&lock).unwrap();
        std::fs::remove_file(hook.place()).unwrap();
        assert!(hook.is_lost() && !hook.take_back().unwrap(), "at work");
        drop(lock);
        assert!(hook.take_back().unwrap() && !hook.is_lost());
        assert_eq!(hook.uninstall().unwrap(), Standing::Ours);
        assert_eq!(hook.standing(), Standing::Nothing);
    }

    #[test]
    fn what_somebody_else_put_there_stays() {
        let Some((_directory, hook)) = hook() else {
            return;
        };
        std::fs::write(hook.place(), "theirs").unwrap();
        let lock = hook.lock().unwrap();
        let error = hook.install(&lock).unwrap_err();
        assert!(matches!(error, UmhHookError::Taken(_)), "{error}");
        drop(lock);
        assert_eq!(hook.uninstall().unwrap(), Standing::Foreign);
        assert_eq!(std::fs::read_to_string(hook.place()).unwrap(), "theirs");
    }
}
