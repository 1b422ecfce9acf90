//! What a former daemon has left: records that it had opened. Its launcher may still work for one, and is not disturbed.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;
use upcall_config::text::unescape;

use super::{Broker, draft};
use crate::admit::Tenant;
use crate::explain::facts_of_record;
use crate::launch::Slot;
use crate::launch::former::Former;
use crate::linux::parse::CgroupLine;
use crate::linux::procdir::ProcDir;
use crate::store::cores;
use crate::store::record::Record;
use crate::store::records::{RecordError, now_micros};
use crate::store::unclosed::Unclosed;

/// How often records are looked at on which a former daemon's launcher works.
const LOOK: Duration = Duration::from_millis(500);

impl Broker {
    /// Closes the records that a former daemon left open, but those on which its launcher still works: these it returns.
    pub fn close_former(&self) -> Vec<Unclosed> {
        let mut left = self.records.unclosed();
        left.retain(|unclosed| !self.close_left(unclosed, |error| warn!("{error}")));
        left
    }

    /// Closes those as well, each as soon as nobody works on it any more. `former`: the launchers that may.
    pub async fn close_former_later(self: Arc<Self>, mut left: Vec<Unclosed>, mut former: Former) {
        while !left.is_empty() {
            tokio::time::sleep(LOOK).await;
            let broker = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || {
                if !former.is_any_there() {
                    for unclosed in &left {
                        broker.end_orphans(unclosed);
                    }
                }
                // What could not be written has been said, and may be possible now.
                left.retain(|unclosed| !broker.close_left(unclosed, drop));
                (left, former)
            });
            let Ok(looked) = look.await else { return };
            (left, former) = looked;
        }
    }

    /// Ends what nobody watches any more: a keeper that is held by something that it cannot leave outlives its launcher, and
    /// only its helper's end may free it. A key's is not the launcher's.
    fn end_orphans(&self, unclosed: &Unclosed) {
        if let Some(record) = unclosed.record().filter(|record| record.core.is_some()) {
            self.end_helpers(&record);
        }
    }

    /// Closes one; returns whether it was possible. `wrong`: who hears why it could not be written.
    fn close_left(&self, unclosed: &Unclosed, wrong: impl FnOnce(RecordError)) -> bool {
        unclosed.close(|record, reports| {
            self.end_helpers(&record);
            let mut record = draft::close_former(record, reports);
            self.know_core(&mut record);
            let micros = draft::micros_of(&record).unwrap_or_else(now_micros);
            {
                // What its shim has kept may be taken in at once.
                let mut late = self.late.hold();
                if let Err(error) = self.records.write(&record, micros) {
                    wrong(error);
                    return false;
                }
                late.note(&record.id, micros);
            }
            self.told(record, Ok(()));
            true
        })
    }

    /// Of its helpers something may be left where the launcher was killed too: below the cgroup of the container's init, or
    /// of the process.
    fn end_helpers(&self, record: &Record) {
        let of_leader = record.container.as_ref().and_then(|container| {
            // If the number is somebody else's now, nothing of this name is there.
            ProcDir::open(container.leader_pid).ok()?.cgroups().ok()
        });
        let path = record.process.cgroup.as_deref().and_then(unescape);
        let of_process = path.map(|path| {
            let controllers = Vec::new();
            vec![CgroupLine { controllers, path }]
        });
        for place in of_leader.iter().chain(&of_process) {
            for slot in Slot::KEPT {
                self.launcher.end_helper(&record.id, slot, place);
            }
        }
    }

    /// Says where the core is that was stored, and whose share it takes.
    fn know_core(&self, record: &mut Record) {
        let Some(core) = cores::find(&self.places.state.join("cores"), &record.id) else {
            return;
        };
        let share = facts_of_record(record).map(|facts| Tenant::of(&facts).share());
        for action in &mut record.actions {
            let Some(bytes) = action.stored_bytes.filter(|bytes| *bytes > 0) else {
                continue;
            };
            if action.path.is_none() {
                action.compress = Some(cores::compressed(&core).to_owned());
                action.path = Some(core.display().to_string());
                action.share.clone_from(&share);
                let share = share.as_deref().unwrap_or("unknown");
                self.note_kept(&record.id, share, &core, bytes);
            }
        }
    }
}
