//! The hook's file: what the shim reads when the kernel starts it, and what `uninstall` needs to put things back.
//!
//! Lines of `key = value`. The shim has its own reader of the keys it needs; both know the same defaults.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::errno_name;
use super::pattern::Pattern;
use crate::linux::secure;

/// The longest file, as for the shim.
const SIZE_MAX: u64 = 4096;

/// `/etc/upcalld/hooks/core`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreHook {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// How long the shim waits, in milliseconds.
    pub deadline_ms: u64,
    /// Where the shim keeps what the daemon did not take.
    pub spool: PathBuf,
    /// Bytes the spool may hold.
    pub spool_max: u64,
    /// Bytes that must stay free beside it.
    pub keep_free: u64,
    /// What stood in core_pattern before us.
    pub previous: Pattern,
    /// What stood in core_pipe_limit before us.
    pub previous_pipe_limit: u64,
}

/// Why a hook's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HookFileError {
    /// It cannot be read, or somebody else than root may write it.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: secure::OpenError,
    },
    /// It cannot be written or removed.
    #[error("{}: {}", path.display(), errno_name(source))]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It lacks what only it knows.
    #[error("{}: there is no usable line `{key} = …`", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// What.
        key: &'static str,
    },
}

impl HookFileError {
    /// Whether there simply is no file.
    pub fn is_absent(&self) -> bool {
        matches!(
            self,
            Self::Read { source: secure::OpenError::Open(error), .. }
                if error.kind() == std::io::ErrorKind::NotFound
        )
    }
}

impl CoreHook {
    /// Where it is.
    pub fn path(hooks: &Path) -> PathBuf {
        hooks.join("core")
    }

    /// Reads `hooks/core`.
    ///
    /// # Errors
    /// See [`HookFileError`].
    pub fn read(hooks: &Path) -> Result<Self, HookFileError> {
        let path = Self::path(hooks);
        let bytes = secure::read_file(&path, SIZE_MAX).map_err(|source| HookFileError::Read {
            path: path.clone(),
            source,
        })?;
        Self::parse(&String::from_utf8_lossy(&bytes))
            .map_err(|key| HookFileError::Missing { path, key })
    }

    /// Reads its text; an error is the key that is not there or has no usable value.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let value = |key| value(text, key).ok_or(key);
        let path = |key| -> Result<PathBuf, &'static str> {
            let path = PathBuf::from(value(key)?.trim());
            path.is_absolute().then_some(path).ok_or(key)
        };
        let number =
            |key| -> Result<u64, &'static str> { value(key)?.trim().parse().map_err(|_| key) };
        // To the letter: a pattern may begin or end with a space.
        let pattern = |key| -> Result<Pattern, &'static str> {
            let text = value(key)?;
            Ok(Pattern::parse(text.strip_prefix(' ').unwrap_or(text)))
        };
        Ok(Self {
            socket: path("socket")?,
            deadline_ms: number("deadline_ms")?,
            spool: path("spool")?,
            spool_max: number("spool_max")?,
            keep_free: number("keep_free")?,
            previous: pattern("previous")?,
            previous_pipe_limit: number("previous_pipe_limit")?,
        })
    }

    /// The file's text.
    pub fn text(&self) -> String {
        format!(
            "# Written by `upcallctl install core`; read by the shim that the kernel starts (upcalld(8)).\n\
             socket = {}\ndeadline_ms = {}\nspool = {}\nspool_max = {}\nkeep_free = {}\n\
             # What `upcallctl uninstall core` puts back, and what `pass` goes to.\n\
             previous = {}\nprevious_pipe_limit = {}\n",
            self.socket.display(),
            self.deadline_ms,
            self.spool.display(),
            self.spool_max,
            self.keep_free,
            self.previous.text(),
            self.previous_pipe_limit,
        )
    }

    /// Writes `hooks/core`, whole or not at all.
    ///
    /// # Errors
    /// See [`HookFileError`].
    pub fn write(&self, hooks: &Path) -> Result<(), HookFileError> {
        write(hooks, "core", self.text().as_bytes())
    }

    /// What the file says now, byte by byte, for [`CoreHook::put_back`]; `None`: there is none, or none to trust.
    pub fn bytes(hooks: &Path) -> Option<Vec<u8>> {
        secure::read_file(&Self::path(hooks), SIZE_MAX).ok()
    }

    /// Makes the file what it was.
    ///
    /// # Errors
    /// See [`HookFileError`].
    pub fn put_back(hooks: &Path, bytes: Option<&[u8]>) -> Result<(), HookFileError> {
        match bytes {
            Some(bytes) => write(hooks, "core", bytes),
            None => Self::remove(hooks),
        }
    }

    /// Removes the file.
    ///
    /// # Errors
    /// See [`HookFileError`].
    pub fn remove(hooks: &Path) -> Result<(), HookFileError> {
        remove(hooks, "core")
    }
}

/// What stands behind `key =` in a hook's file.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    lines.find_map(|(name, value)| (name.trim() == key).then_some(value))
}

/// Removes `hooks/name`, if it is there.
pub(super) fn remove(hooks: &Path, name: &str) -> Result<(), HookFileError> {
    let path = hooks.join(name);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(HookFileError::Write { path, source })
        }
        _ => Ok(()),
    }
}

/// Writes `hooks/name`, whole or not at all.
pub(super) fn write(hooks: &Path, name: &str, bytes: &[u8]) -> Result<(), HookFileError> {
    let path = hooks.join(name);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(hooks)?;
        let new = hooks.join(format!("{name}.new"));
        drop(std::fs::remove_file(&new));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().map_err(|source| HookFileError::Write {
        path: path.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(previous: &str) -> CoreHook {
        CoreHook {
            socket: PathBuf::from("/run/x.sock"),
            deadline_ms: 2000,
            spool: PathBuf::from("/var/spool"),
            spool_max: 1,
            keep_free: 2,
            previous: Pattern::parse(previous),
            previous_pipe_limit: 16,
        }
    }

    #[test]
    fn a_previous_pattern_is_kept_to_the_letter() {
        for previous in [
            "|/usr/share/apport/apport -p%p -s%s = -- %E",
            "",
            " |odd",
            "core ",
            "@@/run/systemd/coredump",
            "previous = x",
        ] {
            let hook = hook(previous);
            assert_eq!(CoreHook::parse(&hook.text()), Ok(hook), "{previous:?}");
        }
    }

    #[test]
    fn what_is_not_there_or_no_value_is_named() {
        let text = hook("core").text();
        for (line, key) in [
            ("socket = ", "socket"),
            ("deadline_ms = ", "deadline_ms"),
            ("previous = ", "previous"),
            ("previous_pipe_limit = ", "previous_pipe_limit"),
        ] {
            assert_eq!(CoreHook::parse(&text.replace(line, "x = ")), Err(key));
        }
        assert_eq!(
            CoreHook::parse(&text.replace("spool = /var", "spool = var")),
            Err("spool")
        );
        assert_eq!(
            CoreHook::parse(&text.replace("= 2000", "= soon")),
            Err("deadline_ms")
        );
    }

    #[test]
    fn what_is_written_is_read_again_and_can_be_what_it_was() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: the file must be root's");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let hooks = directory.path().join("hooks");
        assert!(CoreHook::read(&hooks).unwrap_err().is_absent());
        hook("core").write(&hooks).unwrap();
        assert_eq!(CoreHook::read(&hooks).unwrap(), hook("core"));
        let bytes = CoreHook::bytes(&hooks);
        hook("core.%p").write(&hooks).unwrap();
        CoreHook::put_back(&hooks, bytes.as_deref()).unwrap();
        assert_eq!(CoreHook::read(&hooks).unwrap(), hook("core"));
        std::fs::write(hooks.join("core"), "socket = /x\n").unwrap();
        let error = CoreHook::read(&hooks).unwrap_err();
        assert!(
            error.to_string().contains("`deadline_ms = …`") && !error.is_absent(),
            "{error}"
        );
        CoreHook::put_back(&hooks, None).unwrap();
        CoreHook::remove(&hooks).unwrap();
        assert!(CoreHook::read(&hooks).unwrap_err().is_absent());
    }
}
