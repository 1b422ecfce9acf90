//! Old records, forgotten: a tenant that crashes for ever must not fill the disk with what we remember of it.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::Broker;

/// How often they are counted. What comes in between is more than `records.keep` says, and goes then.
const PERIOD: Duration = Duration::from_mins(1);

impl Broker {
    /// Keeps the number of records at `records.keep`, for as long as the daemon runs.
    pub async fn forget_for_ever(self: Arc<Self>) {
        let mut seen = None;
        loop {
            let changed = self.records.changed();
            if changed != seen {
                let (records, keep) = (self.records.clone(), self.settings.records.keep);
                let keep = usize::try_from(keep).unwrap_or(usize::MAX);
                // It reads a directory of many names; upcalls need the threads that must not wait.
                let trimmed = tokio::task::spawn_blocking(move || records.trim(keep)).await;
                if let Ok(Err(error)) = trimmed {
                    warn!("{error}");
                }
                seen = changed;
            }
            tokio::time::sleep(PERIOD).await;
        }
    }
}
