//! Reading files that decide what root does: only those that nobody but root could have written.
//!
//! Everything is checked on an open descriptor, never on a name: what was checked is what is read. Names below a
//! directory are looked up through its descriptor.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Largest file, in bytes.
pub(crate) const MAX_FILE: u64 = 1 << 20;

/// Bits of the mode that let others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why a file or directory is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// Its owner or its mode let somebody else write it.
    #[error(
        "somebody else than uid {wanted} can write it: its owner is uid {uid}, its mode {mode:04o}"
    )]
    Untrusted { uid: u32, mode: u32, wanted: u32 },
    #[error("it is a symbolic link")]
    Link,
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it is larger than 1 MiB")]
    TooLarge,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A directory that only its wanted owner can write.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    handle: File,
    owner: u32,
}

impl Directory {
    /// Opens and checks a directory; `None` if there is none.
    pub(crate) fn open(path: &Path, owner: u32) -> Result<Option<Self>, ReadError> {
        Self::open_as(path, path.to_owned(), owner)
    }

    /// A directory in this one.
    pub(crate) fn below(&self, name: &str) -> Result<Option<Self>, ReadError> {
        Self::open_as(
            &self.by_descriptor(name.as_ref()),
            self.path.join(name),
            self.owner,
        )
    }

    fn open_as(place: &Path, path: PathBuf, owner: u32) -> Result<Option<Self>, ReadError> {
        let Some(handle) = open(place, libc::O_DIRECTORY)? else {
            return Ok(None);
        };
        check_writers(&handle.metadata()?, owner)?;
        Ok(Some(Self {
            path,
            handle,
            owner,
        }))
    }

    /// The path of a name in it, for people.
    pub(crate) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    /// The names of its rule files: `*.toml` that do not begin with a dot, in no order.
    pub(crate) fn rule_files(&self) -> Result<Vec<OsString>, ReadError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.by_descriptor("".as_ref()))? {
            let name = entry?.file_name();
            let bytes = name.as_encoded_bytes();
            if bytes.ends_with(b".toml") && !bytes.starts_with(b".") {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Whether there is something by this name, whatever it is.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_descriptor(name.as_ref()).symlink_metadata().is_ok()
    }

    /// What a file in it says; `None` if it is not there.
    pub(crate) fn read(&self, name: &OsStr) -> Result<Option<Vec<u8>>, ReadError> {
        // Not blocking: opening a FIFO would wait for its writer.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let Some(file) = open(&self.by_descriptor(name), flags)? else {
            return Ok(None);
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ReadError::NotAFile);
        }
        check_writers(&metadata, self.owner)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(ReadError::TooLarge);
        }
        Ok(Some(bytes))
    }

    fn by_descriptor(&self, name: &OsStr) -> PathBuf {
        Path::new("/proc/self/fd")
            .join(self.handle.as_raw_fd().to_string())
            .join(name)
    }
}

fn open(path: &Path, flags: i32) -> Result<Option<File>, ReadError> {
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Err(ReadError::Link),
        Err(error) => Err(error.into()),
    }
}

fn check_writers(metadata: &Metadata, wanted: u32) -> Result<(), ReadError> {
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if uid != wanted || mode & WRITABLE_BY_OTHERS != 0 {
        return Err(ReadError::Untrusted { uid, mode, wanted });
    }
    Ok(())
}
