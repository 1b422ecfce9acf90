//! The key hook: /sbin/request-key, which the kernel starts by that name alone (security/keys/request_key.c).
//!
//! The distribution's program is never gone for a moment: it gets a second name first, then ours is renamed over the
//! first one; and the way back is one rename too. dpkg is told by dpkg-divert(1), so that an upgrade unpacks the
//! distribution's program to the second name; it moves nothing itself.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use upcall_helpers::hookfile::HookFile;

use super::InstallFileError;
use super::file::{self, HookFileError};
use super::lock::{Lock, LockError, OneWriter};
use super::shim::{self, Shim, ShimError};
use crate::linux::secure;

mod divert;
pub mod line;
mod wrong;

pub use divert::DivertError;
pub use wrong::Wrong;

/// What the kernel starts.
const NAME: &str = "request-key";

/// What the distribution's is called while ours stands there.
const WAS: &str = "request-key.upcalld-was";

/// Starts the hook's file.
const MARK: &str = "# Written by `upcallctl install key`";

/// The longest file of the hook's.
const SIZE_MAX: u64 = 4096;

/// Whose program the kernel starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// This upcalld's.
    Ours,
    /// Another upcalld's.
    Another,
    /// Somebody else's, while the hook's file says that ours was put in: a package was upgraded, or somebody wrote it.
    Lost,
    /// Somebody else's.
    Foreign,
    /// There is no such program: the kernel refuses every key.
    Nothing,
}

/// Where the hook is and what is to be put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHook {
    /// The directory of the kernel's program.
    directory: PathBuf,
    /// Whether dpkg may have packages that want the name.
    dpkg: bool,
    shim: Shim,
    writer: OneWriter,
}

/// Why it cannot be put in or taken out.
#[derive(Debug, thiserror::Error)]
pub enum KeyHookError {
    /// The hook's file.
    #[error(transparent)]
    File(#[from] HookFileError),
    /// Somebody else of ours writes.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A name of the program's.
    #[error(transparent)]
    Name(#[from] InstallFileError),
    /// dpkg.
    #[error(transparent)]
    Divert(#[from] DivertError),
    /// Lines of request-key.conf.
    #[error(transparent)]
    Line(#[from] line::LineError),
    /// Another upcalld's stands there.
    #[error("{} belongs to another upcalld", .0.display())]
    Another(PathBuf),
    /// The shim cannot be used.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// What is needed to undo an installation.
#[derive(Debug)]
pub struct Before {
    standing: Standing,
    file: Option<Vec<u8>>,
}

impl KeyHook {
    /// The host's, for an installation in these directories.
    pub fn host(libexec: &Path, hooks: &Path, run: &Path) -> Self {
        Self {
            directory: PathBuf::from("/sbin"),
            dpkg: divert::is_there(),
            shim: Shim::new(NAME, libexec, hooks, run),
            writer: OneWriter::host(),
        }
    }

    /// One in a directory of files, which no package wants, beside what stands for /etc: for tests.
    #[must_use]
    pub fn below(self, directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            dpkg: false,
            writer: OneWriter::below(directory.parent().unwrap_or(directory)),
            ..self
        }
    }

    /// What the kernel starts.
    pub fn place(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    /// Where the distribution's program is while ours is at its place.
    pub fn was(&self) -> PathBuf {
        self.directory.join(WAS)
    }

    /// Whether dpkg is told.
    pub fn is_diverted(&self) -> bool {
        self.dpkg
    }

    /// The hook's file.
    pub fn path(&self) -> PathBuf {
        self.shim.hooks.join("key")
    }

    /// What stands there.
    pub fn standing(&self) -> Standing {
        let place = self.place();
        if place.symlink_metadata().is_err() {
            return Standing::Nothing;
        }
        let shim = &self.shim;
        if let Ok(target) = std::fs::read_link(&place) {
            if shim.is_default() && target == shim.program {
                return Standing::Ours;
            }
            if shim::is_any_shim(&target, NAME) {
                return Standing::Another;
            }
        } else if !shim.is_default() && shim.is_script(&place) {
            return Standing::Ours;
        } else if shim::is_any_script(&place) {
            return Standing::Another;
        }
        if self.path().exists() && self.was().exists() {
            Standing::Lost
        } else {
            Standing::Foreign
        }
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
    /// See [`KeyHookError`]; everything is as it was then.
    pub fn install(&self, lock: &Lock) -> Result<Before, KeyHookError> {
        self.shim.check()?;
        let before = Before {
            standing: self.standing(),
            file: secure::read_file(&self.path(), SIZE_MAX).ok(),
        };
        if before.standing == Standing::Another {
            return Err(KeyHookError::Another(self.place()));
        }
        if matches!(self.lines().standing(), line::Lines::Ours(_)) {
            return Err(line::LineError::Both(self.lines().path()).into());
        }
        let text = self.text(&self.was(), self.previous(&before).as_deref());
        file::write(&self.shim.hooks, "key", text.as_bytes())?;
        if before.standing == Standing::Ours {
            return Ok(before);
        }
        let told = if self.dpkg { divert::add() } else { Ok(()) };
        match told.map_err(KeyHookError::from).and_then(|()| self.take()) {
            Ok(()) => Ok(before),
            Err(error) => {
                // The first error is the one to be told.
                drop(self.undo(&before, lock));
                Err(error)
            }
        }
    }

    /// What stood there before us, as far as something did.
    fn previous(&self, before: &Before) -> Option<PathBuf> {
        match before.standing {
            Standing::Nothing => Some(self.was()).filter(|was| was.symlink_metadata().is_ok()),
            Standing::Another | Standing::Lost | Standing::Foreign => Some(self.was()),
            Standing::Ours => {
                let earlier = String::from_utf8(before.file.clone()?).ok()?;
                let earlier = file::value(&earlier, "previous")?.trim();
                Some(PathBuf::from(earlier)).filter(|path| path.is_absolute())
            }
        }
    }

    /// Puts ours back where another's is that was put in over it, unless somebody of ours is at work there. Returns whether
    /// it is ours now. dpkg was told when it was put in.
    ///
    /// # Errors
    /// See [`KeyHookError`].
    pub fn take_back(&self) -> Result<bool, KeyHookError> {
        let Some(_lock) = self.writer.now()? else {
            return Ok(false);
        };
        match (self.wrong(), self.standing()) {
            (Some(Wrong::Taken(_)), Standing::Lost | Standing::Foreign) => {
                self.shim.check()?;
                self.take().map(|()| true)
            }
            _ => Ok(false),
        }
    }

    fn take(&self) -> Result<(), KeyHookError> {
        let (place, was) = (self.place(), self.was());
        let named = |path: &Path| {
            let path = path.to_owned();
            move |source| InstallFileError { path, source }
        };
        if place.symlink_metadata().is_ok() {
            // What is at the place is the newer one, if an upgrade put it there.
            let new = was.with_extension("upcalld-new");
            drop(std::fs::remove_file(&new));
            std::fs::hard_link(&place, &new).map_err(named(&new))?;
            std::fs::rename(&new, &was).map_err(named(&was))?;
            // Two names of one file are not renamed (rename(2)).
            drop(std::fs::remove_file(&new));
        }
        let new = self.directory.join(".request-key.upcalld");
        drop(std::fs::remove_file(&new));
        self.create(&new).map_err(named(&new))?;
        std::fs::rename(&new, &place).map_err(named(&place))?;
        Ok(())
    }

    fn create(&self, path: &Path) -> std::io::Result<()> {
        if self.shim.is_default() {
            return symlink(&self.shim.program, path);
        }
        self.shim.write_script(path)
    }

    /// Makes everything what it was before [`KeyHook::install`].
    ///
    /// # Errors
    /// See [`KeyHookError`].
    pub fn undo(&self, before: &Before, _lock: &Lock) -> Result<(), KeyHookError> {
        if before.standing != Standing::Ours {
            self.give_back()?;
        }
        match &before.file {
            Some(bytes) => file::write(&self.shim.hooks, "key", bytes)?,
            None => file::remove(&self.shim.hooks, "key")?,
        }
        Ok(())
    }

    /// Puts back what stood there before us and removes the hook's file. What is somebody else's is left alone. Returns
    /// what stood there.
    ///
    /// # Errors
    /// See [`KeyHookError`].
    pub fn uninstall(&self) -> Result<Standing, KeyHookError> {
        let _lock = self.lock()?;
        let standing = self.standing();
        // What dpkg was told is told for another one's too.
        if standing != Standing::Another && (standing == Standing::Ours || self.path().exists()) {
            self.give_back()?;
        }
        file::remove(&self.shim.hooks, "key")?;
        Ok(standing)
    }

    fn give_back(&self) -> Result<(), KeyHookError> {
        let (place, was) = (self.place(), self.was());
        let there = was.symlink_metadata().is_ok();
        let moved = match (self.standing(), there) {
            (Standing::Ours, true) => std::fs::rename(&was, &place),
            (Standing::Ours, false) => std::fs::remove_file(&place),
            // A name of ours for what is at its place, or an older one that an upgrade has replaced.
            (Standing::Lost | Standing::Foreign, true) => std::fs::remove_file(&was),
            _ => Ok(()),
        };
        moved.map_err(|source| InstallFileError {
            path: place,
            source,
        })?;
        if self.dpkg {
            divert::remove()?;
        }
        Ok(())
    }

    /// The hook's file; `program` is what answers where we do not, `previous` what stood in our place. What an admin set in
    /// an earlier one stays.
    fn text(&self, program: &Path, previous: Option<&Path>) -> String {
        let previous = previous.map_or_else(String::new, |path| {
            let path = path.display();
            format!("# What `upcallctl uninstall key` puts back.\nprevious = {path}\n")
        });
        let earlier = HookFile::read(&self.shim.hooks, "key");
        format!(
            "{MARK}; read by the shim that the kernel starts (upcalld(8)).\n\
             socket = {}\ndeadline_ms = {}\n{previous}\
             # Where `pass` goes, and keys that come while upcalld is stopped, unless that is `deny`.\n\
             program = {}\npass_deadline_ms = {}\nwithout_daemon = {}\n",
            self.shim.socket.display(),
            earlier.deadline.as_millis(),
            program.display(),
            earlier.pass_deadline.as_millis(),
            if earlier.refuse { "deny" } else { "pass" },
        )
    }
}

#[cfg(test)]
mod tests;
