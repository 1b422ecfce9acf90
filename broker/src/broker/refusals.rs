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

/// What is put together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    rule: Option<RuleRef>,
    tenant: Tenant,
    reason: Reason,
}

impl Key {
    pub(super) fn new(rule: Option<&RuleRef>, tenant: &Tenant, reason: Reason) -> Self {
        Self {
            rule: rule.cloned(),
            tenant: tenant.clone(),
            reason,
        }
    }
}

/// Refusals that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<Key, Draft>>);

impl Refusals {
    /// Adds one. The first of its kind is written after the window, with the number of all that came meanwhile.
    pub(super) fn add(&self, key: Key, draft: Draft, broker: &Arc<Broker>) {
        {
            let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(first) = pending.get_mut(&key) {
                first.count();
                return;
            }
            pending.insert(key.clone(), draft);
        }
        let broker = Arc::clone(broker);
        tokio::spawn(async move {
            tokio::time::sleep(WINDOW).await;
            let draft = broker
                .refusals
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&key);
            if let Some(draft) = draft {
                broker.written(draft);
            }
        });
    }

    /// Everything that is not written yet.
    pub(super) fn take_all(&self) -> Vec<Draft> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain()
            .map(|(_, draft)| draft)
            .collect()
    }
}
