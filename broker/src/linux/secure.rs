//! Opening files that decide something: only what root alone can have written is read.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened or read.
    #[error("{0}")]
    Open(#[from] std::io::Error),
    /// Somebody else than its owner-to-be could have written it, or it is no plain file.
    #[error("not a plain file that only uid {owner} can write (owner {uid}, mode {mode:04o})")]
    Untrusted {
        /// Who had to own it.
        owner: u32,
        /// Who owns it.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
}

/// Opens a plain file of root's that nobody else can write. The last component is not followed if it is a link.
///
/// # Errors
/// See [`OpenError`].
pub fn open_file(path: &Path) -> Result<File, OpenError> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() && meta.uid() == 0 && meta.mode() & 0o022 == 0 {
        Ok(file)
    } else {
        Err(OpenError::Untrusted {
            owner: 0,
            uid: meta.uid(),
            mode: meta.mode() & 0o7777,
        })
    }
}

/// Reads such a file whole, up to `max` bytes.
///
/// # Errors
/// See [`OpenError`]; a longer file is [`std::io::ErrorKind::FileTooLarge`].
pub fn read_file(path: &Path, max: u64) -> Result<Vec<u8>, OpenError> {
    let file = open_file(path)?;
    // Room for one byte more than it has: the read that finds the end needs no other.
    let length = usize::try_from(file.metadata()?.len().min(max)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(length + 1);
    file.take(max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge).into());
    }
    Ok(bytes)
}
