//! Kept cores as files: `cores/ID.core`, or `cores/ID.core.zst`. Found by the record's id below the state directory,
//! whatever a record says about paths.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use upcalld::store::id;

/// The names that a core can have, behind its id, and whether it is compressed.
const ENDINGS: [(&str, bool); 2] = [(".core", false), (".core.zst", true)];

/// A kept core.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its bytes, as they are on disk.
    pub(crate) file: File,
    /// Whether they are compressed (zstd).
    pub(crate) compressed: bool,
}

impl Stored {
    /// Opens the core of this record; `None` where none is kept.
    ///
    /// # Errors
    /// As open(2): `EACCES` for others than root. `EINVAL` for something else than a regular file.
    pub(crate) fn open(state: &Path, id: &str) -> io::Result<Option<Self>> {
        for (path, compressed) in paths(state, id) {
            let mut options = OpenOptions::new();
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            match options.read(true).custom_flags(flags).open(&path) {
                Ok(file) if file.metadata()?.is_file() => {
                    return Ok(Some(Self {
                        path,
                        file,
                        compressed,
                    }));
                }
                Ok(_) => return Err(ErrorKind::InvalidInput.into()),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The core itself, from its first byte.
    ///
    /// # Errors
    /// Without memory for a decoder.
    pub(crate) fn reader(self) -> io::Result<Box<dyn Read>> {
        Ok(if self.compressed {
            Box::new(zstd::stream::read::Decoder::new(self.file)?)
        } else {
            Box::new(self.file)
        })
    }
}

/// The file of a record's core and its bytes on disk; `Ok(None)`: there is none.
///
/// # Errors
/// As lstat(2): `EACCES` for others than root.
pub(crate) fn find(state: &Path, id: &str) -> io::Result<Option<(PathBuf, u64)>> {
    for (path, _) in paths(state, id) {
        match path.symlink_metadata() {
            Ok(meta) if meta.is_file() => return Ok(Some((path, meta.len()))),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn paths(state: &Path, id: &str) -> impl Iterator<Item = (PathBuf, bool)> {
    let is_id = id::is_prefix(id);
    let cores = state.join("cores");
    let id = id.to_owned();
    let endings = ENDINGS.into_iter().filter(move |_| is_id);
    endings.map(move |(ending, compressed)| (cores.join(format!("{id}{ending}")), compressed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_are_found_and_read_alike() {
        let state = tempfile::tempdir().unwrap();
        let cores = state.path().join("cores");
        std::fs::create_dir(&cores).unwrap();
        let packed = zstd::stream::encode_all(&b"two"[..], 1).unwrap();
        std::fs::write(cores.join("aaaaaaaa.core"), "one").unwrap();
        std::fs::write(cores.join("bbbbbbbb.core.zst"), &packed).unwrap();
        for (id, text, bytes) in [("aaaaaaaa", "one", 3), ("bbbbbbbb", "two", packed.len())] {
            let (path, found) = find(state.path(), id).unwrap().unwrap();
            let stored = Stored::open(state.path(), id).unwrap().unwrap();
            assert_eq!((&path, found), (&stored.path, bytes as u64));
            let mut core = String::new();
            stored.reader().unwrap().read_to_string(&mut core).unwrap();
            assert_eq!(core, text);
        }
        for none in ["cccccccc", "../cores/aaaaaaaa", ""] {
            assert!(Stored::open(state.path(), none).unwrap().is_none());
            assert_eq!(find(state.path(), none).unwrap(), None);
        }
    }

    #[test]
    fn what_is_no_plain_file_is_not_opened() {
        let state = tempfile::tempdir().unwrap();
        let cores = state.path().join("cores");
        std::fs::create_dir(&cores).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", cores.join("aaaaaaaa.core")).unwrap();
        assert!(Stored::open(state.path(), "aaaaaaaa").is_err());
        assert_eq!(find(state.path(), "aaaaaaaa").unwrap(), None);
    }
}
