//! Refusals by a limit, put together: a storm is one record with its exact number, not a storm of records.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use upcall_config::facts::Reason;
use upcall_config::rule::RuleRef;

use super::Broker;
use super::draft::Draft;
use crate::admit::Tenant;

/// How long refusals are put together.
const WINDOW: Duration = Duration::from_secs(10);

/// Of one tenant so many different things that are refused have records of their own within it; the rest share one.
const APART_MAX: usize = 16;

/// What is put together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    rule: Option<RuleRef>,
    tenant: Tenant,
    reason: Reason,
    /// What was asked for, where that is kept apart.
    about: Vec<u8>,
}

impl Key {
    pub(super) fn new(rule: Option<&RuleRef>, tenant: &Tenant, reason: Reason) -> Self {
        Self {
            rule: rule.cloned(),
            tenant: tenant.clone(),
            reason,
            about: Vec::new(),
        }
    }
}

/// Refusals that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<Key, Option<Draft>>>);

impl Refusals {
    /// Adds one. The first of its kind is written after the window, with the number of all that came meanwhile.
    pub(super) fn add(&self, key: Key, draft: Draft, broker: &Arc<Broker>) {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !more(&mut pending, &key, draft) {
            write_later(key, broker);
        }
    }

    /// Adds one that is kept apart by what was asked for, up to [`APART_MAX`] of one tenant, rule and reason. The first of
    /// its kind is given back, to be written now; the rest of the window is one record. What is refused for want of
    /// resources is added as any: after the window there may be some to write it with.
    pub(super) fn first(
        &self,
        mut key: Key,
        about: &[u8],
        draft: Draft,
        broker: &Arc<Broker>,
    ) -> Option<Draft> {
        if key.reason == Reason::Resources {
            self.add(key, draft, broker);
            return None;
        }
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let apart = pending.keys().filter(|other| {
            let same = other.rule == key.rule && other.tenant == key.tenant;
            same && other.reason == key.reason && other.about != about
        });
        if apart.count() < APART_MAX {
            about.clone_into(&mut key.about);
        }
        if let Some(more) = pending.get_mut(&key) {
            match more {
                Some(first) => first.count(),
                None => *more = Some(draft),
            }
            return None;
        }
        pending.insert(key.clone(), None);
        write_later(key, broker);
        Some(draft)
    }

    /// Everything that is not written yet.
    pub(super) fn take_all(&self) -> Vec<Draft> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain()
            .filter_map(|(_, draft)| draft)
            .collect()
    }
}

/// Counts one more of the same; else it is the first.
fn more(pending: &mut HashMap<Key, Option<Draft>>, key: &Key, draft: Draft) -> bool {
    if let Some(Some(first)) = pending.get_mut(key) {
        first.count();
        return true;
    }
    pending.insert(key.clone(), Some(draft)).is_some()
}

fn write_later(key: Key, broker: &Arc<Broker>) {
    let broker = Arc::clone(broker);
    tokio::spawn(async move {
        tokio::time::sleep(WINDOW).await;
        let pending = &broker.refusals.0;
        let draft = pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        if let Some(draft) = draft.flatten() {
            broker.written(draft);
        }
    });
}
