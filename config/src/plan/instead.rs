//! What a plan becomes where it cannot be done, or where `pass` has to be something else than a program.

use super::{OnFailure, Place, Plan, Run, Store, User};
use crate::facts::ProcessFacts;
use crate::placed::{self, Delivery, Protocol};
use crate::upcall::CoreUpcall;

impl Plan {
    /// The plan that takes over when `run`, `deliver` and `file` all failed before they got a byte: what `on_failure`
    /// says, unless a copy is kept anyway.
    pub fn after_failure(&self) -> Self {
        let stored = self.store.is_some();
        Self {
            run: None,
            deliver: None,
            file: None,
            refused: Vec::new(),
            store: if stored || self.on_failure != OnFailure::Store {
                self.store
            } else {
                Some(Store::on_failure())
            },
            // `pass` stands alone: what a copy is kept of is not given away as well.
            pass: self.on_failure == OnFailure::Pass && !stored,
            capabilities: self.capabilities,
            answer: None,
            on_failure: OnFailure::Drop,
            own_place: self.own_place,
            limit: self.limit,
        }
    }

    /// The plan for an upcall whose `pass` has nobody to go to: a previous file pattern becomes a copy on the host.
    pub fn pass_as_store(&self) -> Self {
        Self {
            pass: false,
            store: Some(self.store.unwrap_or(Store {
                ignore_limit: false,
                ..Store::on_failure()
            })),
            ..self.clone()
        }
    }

    /// The plan for an upcall whose `pass` goes to a file by a name, within the process's own core limit. `None` where it
    /// is not certain whose file that would be, or where it can have no such name.
    pub fn pass_as_file(&self, path: Vec<u8>, limit: Option<u64>) -> Option<Self> {
        let place = self.own_place.filter(|_| placed::is_path(&path))?;
        let plan = Self {
            pass: false,
            ..self.clone()
        };
        if let Some(refused) = placed::unwanted(limit) {
            return Some(Self {
                refused: vec![refused],
                ..plan
            });
        }
        let argv = placed::file_argv(path, limit);
        Some(Self {
            file: Some(Run::placing(place, User::OriginItself, argv)),
            ..plan
        })
    }

    /// The plan for an upcall whose `pass` goes to systemd-coredump's socket on the host.
    pub fn pass_as_delivery(&self, core: &CoreUpcall, process: &ProcessFacts, id: &str) -> Self {
        let protocol = Protocol::Systemd;
        let delivery = Delivery {
            protocol,
            socket: protocol.socket(),
            timeout: Run::DEFAULT_TIMEOUT,
            core,
            process,
            inside: false,
            id,
        };
        Self {
            pass: false,
            deliver: Some(Run::placing(Place::Host, User::Init, delivery.argv())),
            ..self.clone()
        }
    }

    /// The plan for a core that came when nothing could be started: all but `store` is missed, and what `on_failure`
    /// says is done. `takes_all`: what stood before us is a program, which the kernel gives every core whatever its limit.
    pub fn after_missed(&self, takes_all: bool) -> Self {
        let missed = self.run.is_some() || self.deliver.is_some() || self.file.is_some();
        let plan = if missed {
            self.after_failure()
        } else {
            self.clone()
        };
        match (plan.pass, takes_all) {
            (false, _) => plan,
            (true, false) => plan.pass_as_store(),
            (true, true) => Self {
                pass: false,
                store: Some(Store::on_failure()),
                ..plan
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Reason;
    use crate::plan::Compress;

    fn plan(store: Option<Store>, on_failure: OnFailure) -> Plan {
        Plan {
            capabilities: crate::capability::ALL,
            run: None,
            deliver: None,
            file: None,
            refused: Vec::new(),
            store,
            pass: false,
            own_place: None,
            answer: None,
            on_failure,
            limit: None,
        }
    }

    #[test]
    fn after_a_failure_a_core_is_kept_or_passed_on_and_never_both() {
        let small = Store {
            max_size: 4096,
            compress: Compress::None,
            ignore_limit: false,
        };
        for (store, on_failure, kept, passed) in [
            (None, OnFailure::Store, Some(Store::on_failure()), false),
            (None, OnFailure::Pass, None, true),
            (None, OnFailure::Drop, None, false),
            (Some(small), OnFailure::Store, Some(small), false),
            (Some(small), OnFailure::Pass, Some(small), false),
            (Some(small), OnFailure::Drop, Some(small), false),
        ] {
            let after = plan(store, on_failure).after_failure();
            assert_eq!(
                (after.store(), after.pass()),
                (kept, passed),
                "{store:?} {on_failure:?}"
            );
        }
    }

    #[test]
    fn what_comes_while_nothing_can_be_started_is_kept() {
        let mut passing = plan(None, OnFailure::Store);
        passing.pass = true;
        let ignores = |plan: &Plan| plan.store().map(Store::ignore_limit);
        assert_eq!(ignores(&passing.after_missed(true)), Some(true));
        assert_eq!(ignores(&passing.after_missed(false)), Some(false));
        assert!(!passing.after_missed(true).pass());
        // Neither a run nor a pass: as the rule says.
        assert_eq!(
            plan(None, OnFailure::Store).after_missed(true).store(),
            None
        );
    }

    #[test]
    fn what_is_passed_to_a_file_is_the_processs_own_or_not_written() {
        let mut passing = plan(None, OnFailure::Store);
        passing.pass = true;
        let file = |plan: &Plan, path: &str, limit| plan.pass_as_file(path.into(), limit);
        assert_eq!(file(&passing, "core", None), None);
        passing.own_place = Some(Place::Host);
        assert_eq!(file(&passing, "../core", None), None);
        let written = file(&passing, "core.1", Some(4096)).unwrap();
        let run = written.file().unwrap();
        assert_eq!((run.place(), run.user()), (Place::Host, User::OriginItself));
        assert_eq!(run.argv()[2..], [b"core.1".to_vec(), b"4096".to_vec()]);
        assert!(!written.pass());
        let none = file(&passing, "core", Some(0)).unwrap();
        assert!(none.file().is_none() && none.store().is_none() && !none.pass());
        assert_eq!(none.refused()[0].reason, Reason::CoreLimit);
    }

    #[test]
    fn what_nobody_takes_is_kept_within_its_own_limit() {
        let mut passing = plan(None, OnFailure::Store);
        passing.pass = true;
        let kept = passing.pass_as_store();
        assert!(!kept.pass());
        assert_eq!(kept.store().map(Store::ignore_limit), Some(false));
    }
}
