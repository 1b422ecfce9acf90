//! What a verdict allows to be done, as plain data with private fields.
//!
//! Only [`crate::decide`] makes a [`Plan`]; the broker's `launch` takes nothing else. So nothing is ever started
//! that no rule asked for.

use std::time::Duration;

use crate::facts::Reason;

/// Everything that is to be done about one upcall.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    pub(crate) run: Option<Run>,
    pub(crate) run_refused: Option<Refusal>,
    pub(crate) store: Option<Store>,
    pub(crate) pass: bool,
    pub(crate) on_failure: OnFailure,
    pub(crate) limit: Option<Limit>,
}

/// One helper, inside the container or on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub(crate) place: Place,
    pub(crate) program: Program,
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) user: User,
    pub(crate) timeout: Duration,
    pub(crate) cgroup: Cgroup,
    pub(crate) memory: Option<u64>,
    pub(crate) address_space: Option<u64>,
}

/// Where a helper runs: `run.in`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In all the container's namespaces, as its init's ids.
    Container,
    /// Where the kernel would have started it.
    Host,
}

/// What `argv[0]` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `command`: a path in the place where it runs.
    Path,
    /// `host_program`: a static ELF of the host, executed by descriptor.
    HostElf,
}

/// `run.user`: as whom a helper runs inside a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The ids of the container's init.
    Init,
    /// Uid and gid 0 of the container.
    Root,
    /// The ids of the process that caused the upcall.
    Origin,
}

/// `run.cgroup`: whose cgroup pays for the helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroup {
    /// A child of the container's.
    Container,
    /// A child of upcalld's own.
    Broker,
}

/// A copy of the core kept on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store {
    pub(crate) max_size: u64,
    pub(crate) compress: Compress,
    pub(crate) ignore_limit: bool,
}

/// `store.compress`: how a copy is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// As the kernel gives it, with holes where it is zero.
    None,
    /// zstd at this level, 1 to 9: `store.level`.
    Zstd(u8),
}

/// What happens when `run` cannot be done or fails before the helper got anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Keep the core on the host.
    Store,
    /// Give it to what stood before us.
    Pass,
    /// Nothing; the record says so.
    Drop,
}

/// `limit`: how much of this one rule one container may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// At most this many upcalls in this time.
    pub rate: Option<Rate>,
    /// At most this many at once.
    pub concurrent: Option<u32>,
}

/// `limit.rate`, as in `"10/min"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}

/// Why a rule's `run` may not be done, although the rule matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The record's reason word.
    pub reason: Reason,
    /// One line for people: what is missing and what to write to allow it.
    pub message: String,
}

impl Plan {
    /// The helper to run, if the rule has one and it may run.
    pub fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// Why the rule's helper may not run; then [`Plan::run`] is `None` and what `on_failure` says is in the plan.
    pub fn run_refused(&self) -> Option<&Refusal> {
        self.run_refused.as_ref()
    }

    /// The copy to keep on the host.
    pub fn store(&self) -> Option<Store> {
        self.store
    }

    /// Whether the upcall goes to what stood before us.
    pub fn pass(&self) -> bool {
        self.pass
    }

    /// What the rule says should happen when its helper fails.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// The rule's limit.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// The plan that takes over when [`Plan::run`] failed before its helper got a byte: what `on_failure` says,
    /// unless a copy is kept anyway.
    pub fn after_failed_run(&self) -> Self {
        let stored = self.store.is_some();
        Self {
            run: None,
            run_refused: None,
            store: if stored || self.on_failure != OnFailure::Store {
                self.store
            } else {
                Some(Store::on_failure())
            },
            // `pass` stands alone: what a copy is kept of is not given away as well.
            pass: self.on_failure == OnFailure::Pass && !stored,
            on_failure: OnFailure::Drop,
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
}

impl Plan {
    /// The plan for a core that came when nothing could be started: `run` and `pass` are missed, and what `on_failure`
    /// says is done. `takes_all`: what stood before us is a program, which the kernel gives every core whatever its limit.
    pub fn after_missed(&self, takes_all: bool) -> Self {
        let plan = match self.run {
            Some(_) => self.after_failed_run(),
            None => self.clone(),
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

impl Run {
    /// Inside the container or on the host.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What the first word of [`Run::argv`] names.
    pub fn program(&self) -> Program {
        self.program
    }

    /// The words, placeholders already filled in; never empty, the first is an absolute path, no word holds a NUL.
    pub fn argv(&self) -> &[Vec<u8>] {
        &self.argv
    }

    /// As whom inside a container; on the host it says nothing.
    pub fn user(&self) -> User {
        self.user
    }

    /// For a core: how long without progress.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whose cgroup pays.
    pub fn cgroup(&self) -> Cgroup {
        self.cgroup
    }

    /// `memory.max` in bytes; only with [`Cgroup::Broker`].
    pub fn memory(&self) -> Option<u64> {
        self.memory
    }

    /// `RLIMIT_AS` in bytes.
    pub fn address_space(&self) -> Option<u64> {
        self.address_space
    }
}

impl Store {
    /// Default of `store.max_size`.
    pub const DEFAULT_MAX_SIZE: u64 = 32 << 30;
    /// Default of `store.compress` and `store.level`.
    pub const DEFAULT_COMPRESS: Compress = Compress::Zstd(1);

    /// What is kept when a helper failed and the rule says nothing about a copy.
    pub(crate) fn on_failure() -> Self {
        Self {
            max_size: Self::DEFAULT_MAX_SIZE,
            compress: Self::DEFAULT_COMPRESS,
            ignore_limit: true,
        }
    }

    /// Bytes of the core kept at most; what comes after is not.
    pub fn max_size(self) -> u64 {
        self.max_size
    }

    /// How it is kept.
    pub fn compress(self) -> Compress {
        self.compress
    }

    /// Whether the copy is kept although the process's own core limit forbids it.
    pub fn ignore_limit(self) -> bool {
        self.ignore_limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(store: Option<Store>, on_failure: OnFailure) -> Plan {
        Plan {
            run: None,
            run_refused: None,
            store,
            pass: false,
            on_failure,
            limit: None,
        }
    }

    #[test]
    fn after_a_failed_run_a_core_is_kept_or_passed_on_and_never_both() {
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
            let after = plan(store, on_failure).after_failed_run();
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
    fn what_nobody_takes_is_kept_within_its_own_limit() {
        let mut passing = plan(None, OnFailure::Store);
        passing.pass = true;
        let kept = passing.pass_as_store();
        assert!(!kept.pass());
        assert_eq!(kept.store().map(Store::ignore_limit), Some(false));
    }
}
