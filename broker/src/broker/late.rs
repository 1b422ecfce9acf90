//! Records whose cores a shim has kept: what comes from the spool of them replaces them, and is no second record.
//!
//! Both sides hold this while they write, so that the one that comes second finds what the first has written.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many are remembered, the newest.
const MAX: usize = 4096;

/// When the upcalls were, in microseconds since the epoch, by their ids.
#[derive(Debug, Default)]
pub(super) struct Late(Mutex<HashMap<String, u64>>);

impl Late {
    /// Nobody else writes of one until this is dropped.
    pub(super) fn hold(&self) -> Held<'_> {
        Held(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The right to write.
#[derive(Debug)]
pub(super) struct Held<'a>(MutexGuard<'a, HashMap<String, u64>>);

impl Held<'_> {
    /// Of when the record of this upcall is, where there is one or what its shim has kept was taken in.
    pub(super) fn time(&self, id: &str) -> Option<u64> {
        self.0.get(id).copied()
    }

    /// There is now.
    pub(super) fn note(&mut self, id: &str, micros: u64) {
        if self.0.len() >= MAX
            && let Some((oldest, _)) = self.0.iter().min_by_key(|(_, micros)| **micros)
        {
            let oldest = oldest.clone();
            self.0.remove(&oldest);
        }
        self.0.insert(id.to_owned(), micros);
    }

    /// What was kept is taken in: of when its record is, `micros` where there is none yet.
    pub(super) fn taken_in(&mut self, id: &str, micros: u64) -> u64 {
        let micros = self.time(id).unwrap_or(micros);
        self.note(id, micros);
        micros
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_has_the_time_of_its_record_and_the_newest_are_remembered() {
        let late = Late::default();
        let mut held = late.hold();
        for micros in 0..=4096 {
            held.note(&format!("id{micros}"), micros);
        }
        assert_eq!((held.time("id0"), held.time("id1")), (None, Some(1)));
        assert_eq!(held.taken_in("id7", 9999), 7);
        assert_eq!(held.taken_in("another", 9999), 9999);
        assert_eq!((held.time("another"), held.time("id1")), (Some(9999), None));
    }
}
