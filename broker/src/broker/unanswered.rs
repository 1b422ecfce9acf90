//! Core dumps that a former daemon was killed over before it had a record of them: those of the kernel's socket.

use tracing::warn;
use upcall_config::facts::Reason;
use upcall_config::text::escape;

use super::Broker;
use super::draft::{self, Draft};
use crate::intake::accepted::Left;
use crate::store::records::Entry;
use crate::store::unclosed::Unclosed;

impl Broker {
    /// Writes a record of each that has none, with what was noted when it was accepted. After [`Broker::close_former`],
    /// which closes those that had one, or returned it as `kept`.
    pub fn close_unanswered(&self, left: &[Left], kept: &[Unclosed]) {
        let Some(first) = left.iter().map(|left| left.micros).min() else {
            return;
        };
        let entries = self.records.entries().unwrap_or_default();
        let since = |entry: &&Entry| entry.micros >= first;
        let told = entries.iter().rev().take_while(since);
        let told =
            told.filter_map(|entry| Some((entry.micros, self.records.read(entry)?.process.pid?)));
        let kept = kept.iter().filter_map(|unclosed| {
            let record = unclosed.record()?;
            Some((draft::micros_of(&record)?, record.process.pid?))
        });
        let told: Vec<(u64, u32)> = told.chain(kept).collect();
        for left in left {
            if told
                .iter()
                .any(|(micros, pid)| *pid == left.pid && *micros >= left.micros)
            {
                continue;
            }
            let Ok(mut draft) = Draft::new(&self.node, None) else {
                return warn!("the core dump of process {} has no record", left.pid);
            };
            let message = "upcalld ended before the kernel was told what to do; it dumped nothing";
            draft.unanswered(Some(left.pid), Reason::DaemonDown, message);
            let mut record = draft.finish().0;
            record.time = draft::rfc3339(left.micros);
            record.process.comm = Some(escape(&left.comm)).filter(|comm| !comm.is_empty());
            let result = self.records.write(&record, left.micros);
            self.told(record, result);
        }
    }
}
