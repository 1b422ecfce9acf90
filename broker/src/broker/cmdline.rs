//! Command lines of processes, read beside everything else.
//!
//! /proc/PID/cmdline is read out of the process's own memory, under a lock that the process's own doings can hold for
//! ever. So it is read on a thread that may hang, one per tenant, few in all, and waited for a moment only.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::admit::Tenant;
use crate::linux::pidref::PidRef;
use crate::linux::procdir::ProcDir;

/// How long a reader is waited for.
const PATIENCE: Duration = Duration::from_millis(50);

/// Readers at once, hanging ones included.
const READERS_MAX: usize = 8;

/// Words and bytes of a command line that are kept.
const WORDS_MAX: usize = 64;
const BYTES_MAX: usize = 4096;

/// The readers that are at work.
#[derive(Debug, Clone, Default)]
pub(super) struct Cmdlines(Arc<Mutex<HashSet<Tenant>>>);

impl Cmdlines {
    /// Starts reading; `None` where it would be one reader too many.
    pub(super) fn start(&self, tenant: &Tenant, process: PidRef) -> Option<Reading> {
        let mut working = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if working.len() >= READERS_MAX || !working.insert(tenant.clone()) {
            return None;
        }
        let (readers, tenant) = (Arc::clone(&self.0), tenant.clone());
        Some(Reading(tokio::task::spawn_blocking(move || {
            let words = || {
                let bytes = ProcDir::open(process.pid()).ok()?.read("cmdline").ok()?;
                process.verify().ok()?;
                Some(split(&bytes))
            };
            let words = words();
            readers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&tenant);
            words
        })))
    }
}

/// A command line that is being read.
#[derive(Debug)]
pub(super) struct Reading(JoinHandle<Option<Vec<Vec<u8>>>>);

impl Reading {
    /// The words; `None` for what could not be read in time.
    pub(super) async fn words(self) -> Option<Vec<Vec<u8>>> {
        tokio::time::timeout(PATIENCE, self.0).await.ok()?.ok()?
    }
}

fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    let bytes = bytes.get(..BYTES_MAX).unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes
        .split(|byte| *byte == 0)
        .take(WORDS_MAX)
        .map(<[u8]>::to_vec)
        .collect()
}
