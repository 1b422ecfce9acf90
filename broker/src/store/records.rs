//! Records as files: the directory is the index.
//!
//! `records/TIME-ID.json` is a closed record, TIME in microseconds since the epoch, so names sort by time. An open one
//! is `open/ID`: the record so far on one line, and behind it, appended by the launcher's children, what became of it.
//! So a record survives the daemon, and whoever starts next closes it ([`super::unclosed`]).

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::id;
use super::record::Record;
use crate::linux::room::{self, noted};

/// The records of one state directory.
#[derive(Debug, Clone)]
pub struct Records {
    closed: PathBuf,
    pub(super) open: PathBuf,
}

/// Why records cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A directory cannot be made or read.
    #[error("{}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A record cannot be written.
    #[error("record {id} cannot be written: {source}")]
    Write {
        /// Which.
        id: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A record cannot be put into JSON.
    #[error("record {id}: {source}")]
    Encode {
        /// Which.
        id: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// More than one record starts so.
    #[error("{prefix} is not one record's alone: {first} and {second} start so")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// One.
        first: String,
        /// Another.
        second: String,
    },
}

impl RecordError {
    /// Whether nothing is wrong but that there was nothing left to look with.
    pub fn is_want(&self) -> bool {
        matches!(self, Self::Directory { source, .. } if room::is_want(source))
    }
}

/// A record that is not closed yet.
#[derive(Debug)]
pub struct Open {
    id: String,
    path: PathBuf,
    file: File,
}

/// A closed record's file, not read yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Microseconds since the epoch.
    pub micros: u64,
    /// The record's id.
    pub id: String,
}

impl Open {
    /// The record's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Takes it away: of this upcall there is another record.
    pub fn discard(self) {
        drop(std::fs::remove_file(self.path));
    }

    /// The file, for the launcher's children to append to.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Records {
    /// Makes the directories below `state`.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn create(state: &Path) -> Result<Self, RecordError> {
        let records = Self::at(state);
        for (path, mode) in [(&records.closed, 0o750), (&records.open, 0o700)] {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .map_err(|source| RecordError::Directory {
                    path: path.clone(),
                    source,
                })?;
        }
        Ok(records)
    }

    /// The records below `state`, for reading.
    pub fn at(state: &Path) -> Self {
        Self {
            closed: state.join("records"),
            open: state.join("open"),
        }
    }

    /// Opens a record: from here on it will be closed, whoever is there to do it.
    ///
    /// # Errors
    /// As open(2), write(2).
    pub fn open(&self, record: &Record) -> Result<Open, RecordError> {
        let error = |source| RecordError::Write {
            id: record.id.clone(),
            source,
        };
        let path = self.open.join(&record.id);
        let mut options = OpenOptions::new();
        let mut file = options
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(error)?;
        // Held by whoever has this description, so by the launcher's children too: `unclosed`. Where a file system has no
        // locks, the next daemon does not wait for them.
        drop(file.try_lock());
        let line = line(record)?;
        if let Err(source) = file.write_all(&line) {
            // A full disk: what is not whole is not open either.
            drop(std::fs::remove_file(&path));
            return Err(error(source));
        }
        Ok(Open {
            id: record.id.clone(),
            path,
            file,
        })
    }

    /// Whether a record is open.
    pub fn is_open(&self, id: &str) -> bool {
        id::is_prefix(id) && self.open.join(id).exists()
    }

    /// Writes the closed record and takes the open one away.
    ///
    /// # Errors
    /// As open(2), write(2), rename(2).
    pub fn close(&self, open: Open, record: &Record, micros: u64) -> Result<(), RecordError> {
        debug_assert_eq!(open.id, record.id, "a record closes itself");
        self.write(record, micros)?;
        drop(open.file);
        std::fs::remove_file(&open.path).map_err(|source| RecordError::Write {
            id: record.id.clone(),
            source,
        })
    }

    /// Writes a record that needs no opening: nothing irreversible was done for it.
    ///
    /// # Errors
    /// As open(2), write(2), rename(2).
    pub fn write(&self, record: &Record, micros: u64) -> Result<(), RecordError> {
        let error = |source| RecordError::Write {
            id: record.id.clone(),
            source,
        };
        // Written beside and renamed: a name in the directory is a whole record.
        // By its writer's own name: the daemon and an admin's command may write the same at once.
        let temporary = format!("{}.{}.closing", record.id, std::process::id());
        let temporary = self.open.join(temporary);
        let path = self.closed.join(format!("{micros:016}-{}.json", record.id));
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(&temporary)
            .map_err(error)?;
        // Whatever the umask of an admin's command says.
        let mode = Permissions::from_mode(0o640);
        file.set_permissions(mode).map_err(error)?;
        file.write_all(&line(record)?).map_err(error)?;
        std::fs::rename(&temporary, &path).map_err(error)
    }

    /// Changes a closed record, which keeps its place; nothing happens to one that is gone or damaged.
    ///
    /// # Errors
    /// As [`Records::write`].
    pub fn amend(
        &self,
        entry: &Entry,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), RecordError> {
        let Some(mut record) = self.read(entry) else {
            return Ok(());
        };
        change(&mut record);
        self.write(&record, entry.micros)
    }

    /// Closed records, oldest first.
    ///
    /// # Errors
    /// As readdir(3); a directory that is not there has no records.
    pub fn entries(&self) -> Result<Vec<Entry>, RecordError> {
        let names = match std::fs::read_dir(&self.closed) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(RecordError::Directory {
                    path: self.closed.clone(),
                    source,
                });
            }
        };
        let mut entries: Vec<Entry> = names
            .flatten()
            .filter_map(|name| Entry::parse(name.file_name().to_str()?))
            .collect();
        entries.sort_unstable();
        Ok(entries)
    }

    /// Reads one closed record; `None` for one that is gone or damaged.
    pub fn read(&self, entry: &Entry) -> Option<Record> {
        let path = self
            .closed
            .join(format!("{:016}-{}.json", entry.micros, entry.id));
        serde_json::from_slice(&std::fs::read(path).map_err(noted).ok()?).ok()
    }

    /// The closed record whose id starts so.
    ///
    /// # Errors
    /// [`RecordError::Ambiguous`]; as [`Records::entries`].
    pub fn find(&self, prefix: &str) -> Result<Option<Record>, RecordError> {
        let entries = self.entries()?;
        let mut found = entries.iter().filter(|entry| entry.id.starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(first), Some(second)) if first.id != prefix => Err(RecordError::Ambiguous {
                prefix: prefix.to_owned(),
                first: first.id.clone(),
                second: second.id.clone(),
            }),
            (Some(entry), _) => Ok(self.read(entry)),
            (None, _) => Ok(None),
        }
    }

    /// Removes a closed record.
    pub fn remove(&self, entry: &Entry) {
        let path = self
            .closed
            .join(format!("{:016}-{}.json", entry.micros, entry.id));
        drop(std::fs::remove_file(path));
    }

    /// Removes the oldest closed records beyond `keep`; says how many.
    ///
    /// # Errors
    /// As [`Records::entries`].
    pub fn trim(&self, keep: usize) -> Result<usize, RecordError> {
        let entries = self.entries()?;
        let over = entries.len().saturating_sub(keep);
        entries
            .iter()
            .take(over)
            .for_each(|entry| self.remove(entry));
        Ok(over)
    }

    /// When a closed record was last written or removed.
    pub fn changed(&self) -> Option<SystemTime> {
        self.closed.metadata().ok()?.modified().ok()
    }
}

impl Entry {
    fn parse(name: &str) -> Option<Self> {
        let (micros, rest) = name.split_once('-')?;
        let id = rest.strip_suffix(".json").filter(|id| id::is_prefix(id))?;
        Some(Self {
            micros: micros.parse().ok()?,
            id: id.to_owned(),
        })
    }
}

/// Microseconds since the epoch.
pub fn now_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn line(record: &Record) -> Result<Vec<u8>, RecordError> {
    let mut line = serde_json::to_vec(record).map_err(|source| RecordError::Encode {
        id: record.id.clone(),
        source,
    })?;
    line.push(b'\n');
    Ok(line)
}
