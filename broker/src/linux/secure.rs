//! Opening files that decide something: only what root alone, or the one user that is meant, can have written is read.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstatat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::room::noted;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened or read.
    #[error("{0}")]
    Open(#[from] std::io::Error),
    /// Somebody else than its owner-to-be could have written it, or it is of another kind.
    #[error(
        "not a plain file or directory that only uid {owner} can write (owner {uid}, mode {mode:04o})"
    )]
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
        .open(path)
        .map_err(noted)?;
    let meta = file.metadata()?;
    trusted(&meta, meta.is_file(), 0)?;
    Ok(file)
}

fn trusted(meta: &Metadata, kind: bool, owner: u32) -> Result<(), OpenError> {
    if kind && meta.uid() == owner && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(OpenError::Untrusted {
        owner,
        uid: meta.uid(),
        mode: meta.mode() & 0o7777,
    })
}

/// Reads such a file whole, up to `max` bytes.
///
/// # Errors
/// See [`OpenError`]; a longer file is [`std::io::ErrorKind::FileTooLarge`].
pub fn read_file(path: &Path, max: u64) -> Result<Vec<u8>, OpenError> {
    read_all(open_file(path)?, max)
}

fn read_all(file: File, max: u64) -> Result<Vec<u8>, OpenError> {
    // Room for one byte more than it has: the read that finds the end needs no other.
    let length = usize::try_from(file.metadata()?.len().min(max)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(length + 1);
    file.take(max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge).into());
    }
    Ok(bytes)
}

impl OpenError {
    /// Whether there simply is no such thing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Open(error) if error.kind() == std::io::ErrorKind::NotFound)
    }
}

/// One version of a file: another file, or the same after a change, has another. The time is that of the last change
/// of anything (inode(7)), which nobody can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    file: (u64, u64),
    size: i64,
    changed: (i64, i64),
}

/// A directory in which only its owner can make entries, held: what is below it is found through it, one component at
/// a time, each checked like it and none of them a link.
#[derive(Debug)]
pub struct Directory {
    file: File,
    owner: u32,
}

impl Directory {
    /// A directory of root's. The last component is not followed if it is a link.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(noted)?;
        Self::checked(file, 0)
    }

    /// A directory of a user's, who can mount file systems of his own making, that answer late or never
    /// (fuse(4)): so it must be a tmpfs, as root makes /run/user/UID, and nothing below it may be another file system.
    ///
    /// # Errors
    /// See [`OpenError`]; `EXDEV` for another file system.
    pub fn open_of(path: &Path, owner: u32) -> Result<Self, OpenError> {
        // O_PATH asks nothing of the file system itself.
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let place = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(noted)?;
        let kind = fstatfs(&place).map_err(std::io::Error::from)?;
        if kind.filesystem_type() != TMPFS_MAGIC {
            return Err(std::io::Error::from(Errno::EXDEV).into());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        Self::checked(open_below(&place, OsStr::new("."), flags, true)?, owner)
    }

    fn checked(file: File, owner: u32) -> Result<Self, OpenError> {
        let meta = file.metadata()?;
        trusted(&meta, meta.is_dir(), owner)?;
        Ok(Self { file, owner })
    }

    /// The directory `name` in it; `name` is one component.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn child(&self, name: &OsStr) -> Result<Self, OpenError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let file = open_below(&self.file, name, flags, self.owner != 0)?;
        Self::checked(file, self.owner)
    }

    /// Whether there is an entry `name` in it, whatever it is.
    pub fn has(&self, name: &OsStr) -> bool {
        open_below(&self.file, name, OFlag::O_PATH, self.owner != 0).is_ok()
    }

    /// The plain file `name` in it, whole, up to `max` bytes; `name` is one component.
    ///
    /// # Errors
    /// See [`OpenError`]; a longer file is [`std::io::ErrorKind::FileTooLarge`].
    pub fn read(&self, name: &str, max: u64) -> Result<Vec<u8>, OpenError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let file = open_below(&self.file, OsStr::new(name), flags, self.owner != 0)?;
        let meta = file.metadata()?;
        trusted(&meta, meta.is_file(), self.owner)?;
        read_all(file, max)
    }

    /// Which version of a file below it there is now, without opening it: `None` where there is none.
    pub fn version(&self, path: &Path) -> Option<Version> {
        let stat = fstatat(&self.file, path, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        Some(Version {
            file: (stat.st_dev, stat.st_ino),
            size: stat.st_size,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    /// What the link `name` in it says; only root's own directories are asked.
    ///
    /// # Errors
    /// As readlink(2).
    pub fn link(&self, name: &OsStr) -> Result<OsString, Errno> {
        nix::fcntl::readlinkat(self.file.as_fd(), name)
    }

    /// Names of its entries, at most `max` of them.
    pub fn names(&self, max: usize) -> Vec<OsString> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let entries = std::fs::read_dir(path)
            .map_err(noted)
            .into_iter()
            .flatten()
            .flatten();
        entries.take(max).map(|entry| entry.file_name()).collect()
    }
}

fn open_below(
    directory: &File,
    name: &OsStr,
    flags: OFlag,
    one_mount: bool,
) -> Result<File, OpenError> {
    if name.as_bytes().contains(&b'/') {
        return Err(std::io::Error::from(Errno::EINVAL).into());
    }
    let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    if one_mount {
        resolve |= ResolveFlag::RESOLVE_NO_XDEV;
    }
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(resolve);
    let file = openat2(directory, Path::new(name), how).map_err(noted);
    let file = file.map_err(std::io::Error::from)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn what_others_could_have_made_and_what_leads_elsewhere_is_not_read() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root, whose files are read");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let inside = place.path().join("web");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("state"), "root").unwrap();
        symlink("state", inside.join("link")).unwrap();
        symlink("web", place.path().join("elsewhere")).unwrap();
        let top = Directory::open(place.path()).unwrap();
        let web = top.child(OsStr::new("web")).unwrap();
        assert_eq!(web.read("state", 100).unwrap(), b"root");
        assert_eq!(web.link(OsStr::new("link")).unwrap(), "state");
        assert!(web.read("state", 3).is_err(), "longer than allowed");
        assert!(web.read("link", 100).is_err());
        assert!(web.read("../web/state", 100).is_err());
        assert!(top.child(OsStr::new("elsewhere")).is_err());
        assert!(top.child(OsStr::new("..")).is_err());
        assert!(web.read("none", 1).unwrap_err().is_absent());
        std::fs::set_permissions(inside.join("state"), PermissionsExt::from_mode(0o664)).unwrap();
        assert!(matches!(
            web.read("state", 100),
            Err(OpenError::Untrusted { mode: 0o664, .. })
        ));
        std::fs::set_permissions(&inside, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(top.child(OsStr::new("web")).is_err());
        // A user's directory is believed to be that user's alone.
        std::os::unix::fs::chown(&inside, Some(1234), None).unwrap();
        std::fs::set_permissions(&inside, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Directory::open(&inside).is_err());
    }
}
