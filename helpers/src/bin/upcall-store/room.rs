//! Room on the file system: asked before the first byte and while writing, for others write there too.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;

/// So much is taken as there without asking again. As many writers as there are go below the floor by this at most.
const STEP: u64 = 1 << 20;

/// Files that others may still make where a core is kept.
const FILES: u64 = 16;

/// What may be written.
#[derive(Debug)]
pub(crate) struct Room {
    directory: OwnedFd,
    keep_free: u64,
    /// Bytes that were found to be there and are not used.
    found: u64,
}

impl Room {
    /// Looks whether there is any.
    ///
    /// # Errors
    /// As fstatvfs(2); `ENOSPC` where less than `keep_free` bytes, or next to no files, would stay free.
    pub(crate) fn new(directory: OwnedFd, keep_free: u64) -> Result<Self, Errno> {
        let mut room = Self {
            directory,
            keep_free,
            found: 0,
        };
        room.take(1)?;
        Ok(room)
    }

    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Takes so many bytes, which will be written.
    ///
    /// # Errors
    /// As [`Room::new`].
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), Errno> {
        if bytes > self.found {
            let vfs = fstatvfs(&self.directory)?;
            let free = vfs.blocks_available().saturating_mul(vfs.fragment_size());
            let room = free.saturating_sub(self.keep_free);
            let no_files = vfs.files() != 0 && vfs.files_available() < FILES;
            if room < bytes || no_files {
                return Err(Errno::ENOSPC);
            }
            self.found = room.min(bytes.max(STEP));
        }
        self.found -= bytes;
        Ok(())
    }
}
