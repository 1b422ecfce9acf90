//! What was done, and what the records say of it.

use std::collections::BTreeMap;

use upcalld::store::record::{Outcome, Record};

/// Who asked for a key, and what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// The key.
    Key,
    /// A refusal.
    Nothing,
}

/// Everything that was done, by its own name.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Crashes by the name of the thread, how often, and whether the kernel called by its socket.
    crashes: BTreeMap<String, (u64, bool)>,
    /// Keys by their description.
    keys: BTreeMap<String, Got>,
    next: u64,
    /// What else happened.
    pub(crate) restarts: u64,
    pub(crate) kills: u64,
    pub(crate) reloads: u64,
    pub(crate) containers: u64,
}

/// How ledger and records compare.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Upcalls that are told in another number of records than they should be.
    pub(crate) difference: u64,
    /// Keys over which a daemon was killed.
    pub(crate) unsure: u64,
    /// Which ones, for people.
    pub(crate) which: Vec<String>,
    /// Records by their outcome.
    pub(crate) outcomes: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// A name that nothing else had.
    pub(crate) fn name(&mut self) -> String {
        self.next += 1;
        format!("soak-{}", self.next)
    }

    pub(crate) fn crash(&mut self, name: &str, times: u64, by_socket: bool) {
        self.crashes.insert(name.to_owned(), (times, by_socket));
    }

    pub(crate) fn key(&mut self, name: &str, got: Got) {
        self.keys.insert(name.to_owned(), got);
    }

    /// How many upcalls the kernel has made for cores.
    pub(crate) fn cores(&self) -> u64 {
        self.crashes.values().map(|(times, _)| times).sum()
    }

    pub(crate) fn summary(&self) -> String {
        let refused = self.keys.values().filter(|got| **got == Got::Nothing);
        format!(
            "{} crashes, {} keys ({} not given), {} restarts, {} kills, {} reloads, {} containers",
            self.cores(),
            self.keys.len(),
            refused.count(),
            self.restarts,
            self.kills,
            self.reloads,
            self.containers
        )
    }

    /// Compares. A crash is told once; a key that was given too, and one that was not given never as given. A key that a
    /// daemon was killed over says only that, and one that was asked for while there was none may be the shim's secret.
    pub(crate) fn compare(&self, records: &[Record]) -> Comparison {
        let mut found = Comparison::default();
        let (mut cores, mut keys) = (BTreeMap::<&str, u64>::new(), BTreeMap::new());
        for record in records {
            *found.outcomes.entry(record.outcome.as_str()).or_default() += record.count;
            if let Some(key) = &record.key {
                keys.entry(&*key.description)
                    .or_insert_with(Vec::new)
                    .push((record.outcome, record.reason.as_deref()));
            } else {
                let comm = record.process.comm.as_deref();
                *cores.entry(comm.unwrap_or_default()).or_default() += record.count;
            }
        }
        // A daemon that is killed between the two writes of a note has told the next one of a process, not of its name.
        let mut nameless = cores.remove("").unwrap_or(0);
        for (name, (times, by_socket)) in &self.crashes {
            let mut told = cores.remove(name.as_str()).unwrap_or(0);
            let one_of_them = times.saturating_sub(told).min(nameless);
            nameless -= one_of_them;
            told += one_of_them;
            found.note(told.abs_diff(*times), || {
                let way = if *by_socket { "socket" } else { "pipe" };
                format!("{name} crashed {times} times by the {way}, told of {told}")
            });
        }
        for (name, got) in &self.keys {
            let told = keys.remove(name.as_str()).unwrap_or_default();
            let well = match (got, told.as_slice()) {
                (_, [(Outcome::Failed, Some("daemon_down"))]) => {
                    found.unsure += 1;
                    true
                }
                (Got::Key, [(Outcome::Done, _)]) | (Got::Nothing, []) => true,
                (Got::Nothing, [(outcome, _)]) => *outcome != Outcome::Done,
                _ => false,
            };
            found.note(u64::from(!well), || {
                format!("{name} was {got:?}, told as {told:?}")
            });
        }
        found.note(nameless, || {
            format!("{nameless} without a name are told and were not")
        });
        let unknown = cores.iter().filter(|(name, _)| name.starts_with("soak-"));
        let unknown: Vec<_> = unknown.collect();
        for (name, told) in unknown {
            found.note(*told, || format!("{name} is told and was not"));
        }
        for name in keys.keys() {
            found.note(1, || format!("{name} is told and was not"));
        }
        found
    }
}

impl Comparison {
    fn note(&mut self, difference: u64, what: impl FnOnce() -> String) {
        self.difference += difference;
        if difference > 0 {
            self.which.push(what());
        }
    }
}
