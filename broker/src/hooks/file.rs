//! The hook's file: what the shim reads when the kernel starts it, and what `uninstall` needs to put things back.
//!
//! Lines of `key = value`. The shim has its own reader of the keys it needs; both know the same defaults.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
    /// It cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It lacks what only it knows.
    #[error("{}: no {key}; install the hook again (upcallctl install core)", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// What.
        key: &'static str,
    },
}

impl CoreHook {
    /// Reads `hooks/core`.
    ///
    /// # Errors
    /// See [`HookFileError`].
    pub fn read(hooks: &Path) -> Result<Self, HookFileError> {
        let path = hooks.join("core");
        let bytes = secure::read_file(&path, SIZE_MAX).map_err(|source| HookFileError::Read {
            path: path.clone(),
            source,
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find_map(|(name, value)| (name.trim() == key).then(|| value.trim()))
        };
        let need = |key: &'static str| {
            value(key).ok_or(HookFileError::Missing {
                path: path.clone(),
                key,
            })
        };
        let number = |key: &'static str| -> Result<u64, HookFileError> {
            need(key)?.parse().map_err(|_| HookFileError::Missing {
                path: path.clone(),
                key,
            })
        };
        Ok(Self {
            socket: PathBuf::from(need("socket")?),
            deadline_ms: number("deadline_ms")?,
            spool: PathBuf::from(need("spool")?),
            spool_max: number("spool_max")?,
            keep_free: number("keep_free")?,
            previous: Pattern::parse(need("previous")?),
            previous_pipe_limit: number("previous_pipe_limit")?,
        })
    }

    /// The file's text.
    pub fn text(&self) -> String {
        format!(
            "# Written by `upcallctl install core`; read by the shim that the kernel starts (upcall-shim(8)).\n\
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
        let path = hooks.join("core");
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(hooks)?;
            let new = hooks.join("core.new");
            drop(std::fs::remove_file(&new));
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&new)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|source| HookFileError::Write {
            path: path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: the file must be root's");
            return;
        }
        let directory =
            std::env::temp_dir().join(format!("upcalld-hookfile-{}", std::process::id()));
        let hook = CoreHook {
            socket: PathBuf::from("/run/x.sock"),
            deadline_ms: 2000,
            spool: PathBuf::from("/var/spool"),
            spool_max: 1,
            keep_free: 2,
            previous: Pattern::parse("|/usr/share/apport/apport -p%p -s%s = -- %E"),
            previous_pipe_limit: 16,
        };
        hook.write(&directory).unwrap();
        assert_eq!(CoreHook::read(&directory).unwrap(), hook);
        std::fs::write(directory.join("core"), "socket = /x\n").unwrap();
        assert!(matches!(
            CoreHook::read(&directory),
            Err(HookFileError::Missing {
                key: "deadline_ms",
                ..
            })
        ));
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(matches!(
            CoreHook::read(&directory),
            Err(HookFileError::Read { .. })
        ));
    }
}
