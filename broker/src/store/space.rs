//! How many cores a directory holds: those that are kept, and those in the shim's spool.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use serde::Serialize;

/// Cores in a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// How many.
    pub cores: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// When the oldest was written, in microseconds since the epoch.
    pub oldest: Option<u64>,
}

/// Counts the cores in `directory`; `None` where it cannot be read. One that is not there is empty.
pub fn kept(directory: &Path) -> Option<Kept> {
    let mut kept = Kept::default();
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(kept),
        Err(_) => return None,
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(meta) = entry.metadata().ok().filter(std::fs::Metadata::is_file) else {
            continue;
        };
        let core = [b".core".as_slice(), b".core.zst"];
        if !core
            .iter()
            .any(|end| name.as_encoded_bytes().ends_with(end))
        {
            continue;
        }
        let written = meta.modified().ok();
        let written = written.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let written = written.and_then(|since| u64::try_from(since.as_micros()).ok());
        kept.cores += 1;
        kept.bytes = kept.bytes.saturating_add(meta.len());
        kept.oldest = match (kept.oldest, written) {
            (Some(oldest), Some(written)) => Some(oldest.min(written)),
            (oldest, written) => oldest.or(written),
        };
    }
    Some(kept)
}

/// Bytes that may be written where `directory` is; `None` where that cannot be said.
pub fn free(directory: &Path) -> Option<u64> {
    let vfs = statvfs(directory).ok()?;
    Some(vfs.blocks_available().saturating_mul(vfs.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_by_their_name() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(kept(&directory.path().join("none")), Some(Kept::default()));
        for (name, text) in [
            ("1-2.core", "abc"),
            ("1-2.words", "x"),
            ("k3m9q0tz.core.zst", "de"),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let kept = kept(directory.path()).unwrap();
        assert_eq!((kept.cores, kept.bytes), (2, 5));
        assert!(kept.oldest.is_some());
    }
}
