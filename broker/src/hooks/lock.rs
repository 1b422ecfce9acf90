//! One writer at a time: whoever puts hooks in or takes them out, of whichever kind and whichever upcalld of a host.
//!
//! The lock is on a file that only root may open. On what is written itself, as kernel.core_pattern, it would be anybody's:
//! flock(2) asks for an open file and for no more, and everybody may read those.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::errno_name;

/// The host's.
const FILE: &str = "/run/upcalld.lock";

/// How long another one is waited for: longer than his self-test may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often he is looked for.
const EVERY: Duration = Duration::from_millis(20);

/// Where the lock is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneWriter(PathBuf);

/// Leave to write; given back when it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it unlocks")] File);

/// Why there is no leave to write.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// As open(2), flock(2).
    #[error("{}: {}", path.display(), errno_name(source))]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Somebody else of ours has been writing for a minute.
    #[error("another upcallctl is at work on the hooks, and does not end (fuser {})", .0.display())]
    Busy(PathBuf),
}

impl OneWriter {
    /// The host's.
    pub fn host() -> Self {
        Self(PathBuf::from(FILE))
    }

    /// One for files in a directory, which stand in the place of the host's: for tests.
    pub fn below(directory: &Path) -> Self {
        Self(directory.join("upcalld.lock"))
    }

    /// Waits until nobody else of ours writes, for a minute at most.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn wait(&self) -> Result<Lock, LockError> {
        self.wait_for(PATIENCE)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "an admin's command, or the daemon before it serves and after it has"
    )]
    fn wait_for(&self, patience: Duration) -> Result<Lock, LockError> {
        let start = Instant::now();
        loop {
            if let Some(lock) = self.now()? {
                return Ok(lock);
            }
            if start.elapsed() >= patience {
                return Err(LockError::Busy(self.0.clone()));
            }
            std::thread::sleep(EVERY);
        }
    }

    /// The same without waiting; `None` while somebody else of ours writes.
    ///
    /// # Errors
    /// As open(2), flock(2).
    pub fn now(&self) -> Result<Option<Lock>, LockError> {
        let io = |source| LockError::Io {
            path: self.0.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&self.0).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_writer_and_the_next_waits_for_him_and_not_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let writer = OneWriter::below(directory.path());
        let lock = writer.now().unwrap().unwrap();
        assert!(writer.now().unwrap().is_none());
        let busy = writer.wait_for(Duration::ZERO).unwrap_err();
        assert!(matches!(&busy, LockError::Busy(_)), "{busy}");
        drop(lock);
        drop(writer.wait().unwrap());
        let mode = std::fs::metadata(&writer.0).unwrap().permissions();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
            0o600
        );
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let writer = OneWriter::below(directory.path());
        std::os::unix::fs::symlink(directory.path().join("other"), &writer.0).unwrap();
        assert!(matches!(writer.now(), Err(LockError::Io { .. })));
        assert!(!directory.path().join("other").exists());
    }
}
