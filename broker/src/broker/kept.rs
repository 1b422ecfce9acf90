//! Kept cores: what is there when the daemon starts, what has to go, and what records say about it then.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Broker;
use crate::store::cores;
use crate::store::ledger::{Gone, Why};
use crate::store::records::{Entry, Records, now_micros};

/// The timer runs on while a machine sleeps at the earliest after this.
const SOONEST: Duration = Duration::from_secs(1);

impl Broker {
    /// Learns which cores are kept, and whose: their records say so.
    pub fn know_kept(&self) {
        let entries = self.records.entries().unwrap_or_default();
        let entries: HashMap<&str, &Entry> =
            entries.iter().map(|entry| (&*entry.id, entry)).collect();
        let directory = self.places.state.join("cores");
        let mut gone = Gone::new();
        for file in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let (name, meta) = (file.file_name(), file.metadata());
            let id = name.to_str().and_then(cores::id_of);
            let (Some(id), Ok(meta)) = (id, meta) else {
                continue;
            };
            let record = entries.get(id).and_then(|entry| self.records.read(entry));
            let mut actions = record.iter().flat_map(|record| &record.actions);
            let share = actions.find_map(|action| action.share.clone());
            let share = share.unwrap_or_else(|| "unknown".to_owned());
            let micros = u64::try_from(meta.mtime()).unwrap_or(0) * 1_000_000;
            let bytes = meta.blocks() * 512;
            gone.extend(self.ledger.add(id, &share, &file.path(), bytes, micros));
        }
        self.told_gone(gone);
    }

    /// Notes a core that was kept otherwise than by upcall-store.
    pub(super) fn note_kept(&self, id: &str, share: &str, path: &std::path::Path, bytes: u64) {
        self.told_gone(self.ledger.add(id, share, path, bytes, now_micros()));
        self.kept.notify_one();
    }

    /// Removes cores that are older than `store.max_age`, for as long as the daemon runs; without cores nothing wakes
    /// it up.
    pub async fn expire_for_ever(self: Arc<Self>) {
        loop {
            let (gone, next) = self.ledger.expire(now_micros());
            self.told_gone(gone);
            match next {
                Some(next) => tokio::time::sleep(next.max(SOONEST)).await,
                None => self.kept.notified().await,
            }
        }
    }

    /// Writes into their records what became of cores that had to go.
    pub(super) fn told_gone(&self, gone: Gone) {
        if gone.is_empty() {
            return;
        }
        let records = self.records.clone();
        let write = move || write(&records, &gone);
        // It reads a directory of many names; upcalls need the threads that must not wait.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(write)),
            Err(_) => write(),
        }
    }
}

fn write(records: &Records, gone: &Gone) {
    let entries = records.entries().unwrap_or_default();
    for (id, why) in gone {
        let message = match why {
            Why::Evicted => {
                "to make room for a newer one of the same share (store.max_per_container, max_count)"
            }
            Why::Expired => "older than store.max_age",
        };
        info!("the core {id} is removed: {message}");
        let entry = entries.iter().find(|entry| entry.id == *id);
        let Some(entry) = entry else {
            continue; // forgotten meanwhile
        };
        if let Err(error) =
            records.amend(entry, |record| cores::gone(record, why.as_str(), message))
        {
            warn!("{error}");
        }
    }
}
