//! Room on the file system: asked before the first byte and while writing, for others write there too.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;

/// So much is taken as there without asking again. As many writers as there are go below the floor by this at most.
const STEP: u64 = 1 << 20;

/// What a token is for.
const TOKEN: u64 = 1 << 20;

/// Files that others may still make where a core is kept.
const FILES: u64 = 16;

/// What may be written.
#[derive(Debug)]
pub(crate) struct Room {
    directory: OwnedFd,
    keep_free: u64,
    /// Bytes that were found to be there and are not used.
    found: u64,
    /// The tenant's, and everybody's.
    tokens: Option<(OwnedFd, OwnedFd)>,
    /// Bytes that tokens were taken for and that are not used.
    paid: u64,
}

impl Room {
    /// Looks whether there is any.
    ///
    /// # Errors
    /// As fstatvfs(2); `ENOSPC` where less than `keep_free` bytes, or next to no files, would stay free.
    pub(crate) fn new(
        directory: OwnedFd,
        keep_free: u64,
        tokens: Option<(OwnedFd, OwnedFd)>,
    ) -> Result<Self, Errno> {
        let mut room = Self {
            directory,
            keep_free,
            found: 0,
            tokens,
            paid: 0,
        };
        room.find(1)?;
        Ok(room)
    }

    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Takes so many bytes, which will be written.
    ///
    /// # Errors
    /// As [`Room::new`]; `EDQUOT` where no token is left.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), Errno> {
        self.find(bytes)?;
        if let Some((own, all)) = &self.tokens {
            while self.paid < bytes {
                token(own)?;
                // One that is of no use is the next one's.
                if let Err(error) = token(all) {
                    let _ = nix::unistd::write(own, &1_u64.to_ne_bytes());
                    return Err(error);
                }
                self.paid += TOKEN;
            }
            self.paid -= bytes;
        }
        self.found -= bytes;
        Ok(())
    }

    /// Looks whether so many bytes are there.
    fn find(&mut self, bytes: u64) -> Result<(), Errno> {
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
        Ok(())
    }
}

/// Takes one (eventfd(2), `EFD_SEMAPHORE`).
fn token(tokens: &OwnedFd) -> Result<(), Errno> {
    match nix::unistd::read(tokens, &mut [0; 8]) {
        Ok(8) => Ok(()),
        Ok(_) | Err(_) => Err(Errno::EDQUOT),
    }
}
