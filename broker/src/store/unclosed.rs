//! Records that a former daemon left open.
//!
//! Its launcher may still work on one, and appends to it. The lock that the daemon took when it opened the record belongs to
//! the open file description (flock(2)), which its launcher's children have as well: it is free when the last of them is
//! gone.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use upcall_helpers::wire::{self, Report};

use super::id;
use super::record::Record;
use super::records::Records;
use crate::linux::room::noted;

/// One of them.
#[derive(Debug)]
pub struct Unclosed {
    path: PathBuf,
}

impl Records {
    /// All of them, where none is open yet that is ours. What was to become a closed one, and did not, is removed.
    pub fn unclosed(&self) -> Vec<Unclosed> {
        let mut unclosed = Vec::new();
        for entry in std::fs::read_dir(&self.open)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if entry.file_name().to_str().is_some_and(id::is_prefix) {
                unclosed.push(Unclosed { path });
            } else {
                drop(std::fs::remove_file(path));
            }
        }
        unclosed
    }
}

impl Unclosed {
    /// The record as it was opened; `None` for one that is gone or damaged.
    pub fn record(&self) -> Option<Record> {
        let mut file = File::open(&self.path).map_err(noted).ok()?;
        Some(read(&mut file)?.0)
    }

    /// Has `close` close it, with what was reported about it, and takes it away if that says so. Returns whether there is
    /// nothing more to do: nobody appends to it any more, it could be read, and was closed.
    pub fn close(&self, close: impl FnOnce(Record, &[Report]) -> bool) -> bool {
        // Where a lock is only to be had of what may be written: flock(2), NFS.
        let mut options = File::options();
        let opened = options.read(true).write(true).open(&self.path);
        let mut file = match opened.map_err(noted) {
            Ok(file) => file,
            Err(error) => return error.kind() == ErrorKind::NotFound,
        };
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return false;
        }
        // One that is damaged says nothing to anybody.
        let closed = read(&mut file).is_none_or(|(record, reports)| close(record, &reports));
        if closed {
            drop(std::fs::remove_file(&self.path));
        }
        closed
    }
}

fn read(file: &mut File) -> Option<(Record, Vec<Report>)> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = bytes.split_at(end);
    Some((
        serde_json::from_slice(line).ok()?,
        wire::reports(rest.get(1..).unwrap_or_default()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::{Evidence, Process, SCHEMA, Timings, VERSION, Verdict};

    fn example() -> Record {
        let record = serde_json::json!({
            "schema": SCHEMA, "version": VERSION, "id": "k3m9q0tz", "kind": "core", "time": "",
            "node": "", "count": 1, "unknown": [], "process": Process::default(), "container": null,
            "evidence": Evidence::default(), "verdict": Verdict::default(), "outcome": "open",
            "reason": null, "message": null, "timings_us": Timings::default(), "actions": [],
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn what_somebody_appends_to_is_closed_when_nobody_does() {
        let state = tempfile::tempdir().unwrap();
        let records = Records::create(state.path()).unwrap();
        let record = example();
        let open = records.open(&record).unwrap();
        std::fs::write(
            state
                .path()
                .join("open")
                .join(format!("{}.7.closing", record.id)),
            "{",
        )
        .unwrap();
        // As a child of the launcher's has it.
        let appended = open.file().try_clone().unwrap();
        drop(open);
        let unclosed = records.unclosed();
        let [unclosed] = unclosed.as_slice() else {
            panic!("{unclosed:?}");
        };
        assert!(!unclosed.close(|_, _| panic!("it is not over")));
        assert_eq!(unclosed.record().unwrap().id, record.id);
        drop(appended);
        // A disk that is full takes no record, and this one stays.
        assert!(!unclosed.close(|_, _| false));
        let mut closed = 0;
        assert!(unclosed.close(|found, reports| {
            closed += usize::from(found.id == record.id && reports.is_empty());
            true
        }));
        assert!(unclosed.close(|_, _| panic!("it is gone")));
        assert_eq!(closed, 1);
        assert_eq!(
            std::fs::read_dir(state.path().join("open"))
                .unwrap()
                .count(),
            0
        );
    }
}
