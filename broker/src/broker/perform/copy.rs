//! The copy on the host: whether there is room for it, who may read it, and the worker that keeps it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use upcall_config::facts::Reason;
use upcall_config::plan::Store;

use super::Work;
use super::outcome::fail;
use crate::broker::reason::{self, Explained};
use crate::launch::{Keep, Slot};
use crate::linux::namespace::Ns;
use crate::linux::stranger;
use crate::store::cores;
use crate::store::record::{Action, Outcome};
use crate::store::records::now_micros;

impl Work<'_> {
    /// Takes room for a copy; without any the record says so, and there is none.
    pub(super) fn room_for(&mut self, store: Store) -> Option<Store> {
        self.give_room_back();
        let (begun, gone) = self.broker.ledger.begin(&self.tenant.share());
        self.broker.told_gone(gone);
        match begun {
            Ok(tokens) => {
                self.tokens = Some(tokens);
                Some(store)
            }
            Err(full) => {
                let wrong = Explained {
                    reason: Reason::Quota,
                    message: full.to_string(),
                };
                let mut action = Action::new("store");
                fail(&mut action, &wrong);
                action.outcome = Outcome::Refused;
                self.actions.push(action);
                self.wrong(wrong);
                None
            }
        }
    }

    /// Gives back room for a copy that nobody has begun to keep.
    pub(super) fn give_room_back(&mut self) {
        if self.tokens.take().is_some() {
            let (id, share) = (self.open.id(), self.tenant.share());
            let gone = self.broker.ledger.end(id, &share, 0, None);
            self.broker.told_gone(gone);
        }
    }

    /// Keeps a copy, if there is one to be kept, and feeds the takers.
    pub(super) async fn store(&mut self, store: Option<Store>, feeds: Vec<OwnedFd>) {
        let tokens = self.tokens.take();
        let path = store.map(|store| {
            let directory = self.broker.places.state.join("cores");
            directory.join(cores::name(self.open.id(), store.compress()))
        });
        let mut action = path.as_ref().map(|path| {
            let mut action = Action::new("store");
            action.compress = Some(cores::compressed(path).to_owned());
            action.share = Some(self.tenant.share());
            action.path = Some(path.display().to_string());
            action
        });
        let keep = store.map(|store| Keep {
            store,
            tokens: tokens.as_ref(),
            reader: self.reader(),
        });
        let started = match &self.kernel {
            Some(kernel) => {
                let place = (&self.broker.cores, self.broker.settings.store.keep_free);
                let launcher = &self.broker.launcher;
                let stored = launcher.store(self.job(), keep, place, kernel, feeds);
                stored.await.map(|()| true)
            }
            None => Ok(false), // the shim has it
        };
        match started {
            Ok(false) => {}
            Ok(true) => {
                self.launched(Slot::Store, action);
                self.claimant = Some(Slot::Store);
            }
            Err(error) => {
                let wrong = reason::launch(&error, "the host");
                if let Some(action) = &mut action {
                    fail(action, &wrong);
                    action.path = None;
                }
                self.actions.extend(action);
                self.wrong(wrong);
            }
        }
        // What went wrong is in the actions already.
        drop(self.follow().await);
        if tokens.is_some() {
            self.settle(path);
        }
    }

    /// Tells the ledger what became of a copy.
    fn settle(&mut self, path: Option<PathBuf>) {
        let of = |action: &&mut Action| action.action == Slot::Store.as_str();
        let action = self.actions.iter_mut().rfind(of);
        let stored = action.as_ref().and_then(|action| action.stored_bytes);
        let stored = stored.unwrap_or(0);
        let path = path.filter(|_| stored > 0);
        if let Some(action) = action.filter(|_| path.is_some()) {
            action.state = Some("kept".to_owned());
        }
        let kept = path.as_deref().map(|path| (path, now_micros()));
        let (id, share) = (self.open.id(), self.tenant.share());
        let gone = self.broker.ledger.end(id, &share, stored, kept);
        self.broker.told_gone(gone);
        self.broker.kept.notify_one();
    }

    /// The user of the host who may read it beside root: who ran the process, all of whose ids are his, which changed
    /// no credentials and held no capability, and was nowhere but on the host. A number that merely looks like his
    /// does not count: in a container that has no user namespace, uid 1000 is whoever its image says.
    fn reader(&self) -> Option<u32> {
        let origin = self.origin.as_ref()?;
        let host = self.broker.resolver.host();
        let on_host = [Ns::User, Ns::Mnt, Ns::Pid]
            .into_iter()
            .all(|kind| origin.namespaces.id(kind) == host.id(kind));
        let ([uid, ..], [gid, ..]) = (origin.status.uids, origin.status.gids);
        let plain = origin.status.uids.iter().all(|id| *id == uid)
            && origin.status.gids.iter().all(|id| *id == gid)
            && origin.status.permitted | origin.status.effective == 0;
        let unchanged = self.words.upcall().dumpable == Some(1);
        let nowhere_else = self.container.is_none() && on_host;
        (plain && unchanged && nowhere_else && is_person(uid)).then_some(uid)
    }
}

/// Whether a user id is somebody's own: not of the system, not given to services as they come (systemd's range), and
/// not one of those that mean nobody.
fn is_person(uid: u32) -> bool {
    const SYSTEM: std::ops::RangeInclusive<u32> = 0..=999;
    const NOBODY: [u32; 3] = [65_534, 65_535, u32::MAX];
    !SYSTEM.contains(&uid) && !stranger::IDS.contains(&uid) && !NOBODY.contains(&uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_nobody_in_particular_gets_no_access() {
        for uid in [0, 33, 999, 61_184, 65_519, 65_534, 65_535, u32::MAX] {
            assert!(!is_person(uid), "{uid}");
        }
        assert!(is_person(1000) && is_person(100_000));
    }
}
