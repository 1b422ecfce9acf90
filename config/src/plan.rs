//! What a verdict allows to be done, as plain data with private fields.
//!
//! Only [`crate::decide`] makes a [`Plan`]; the broker's `launch` takes nothing else. So nothing is ever started
//! that no rule asked for.

use std::time::Duration;

use crate::facts::{ProcessFacts, Reason};
use crate::placed::{self, Delivery, Protocol};
use crate::upcall::CoreUpcall;

mod answer;

pub use answer::{Answer, Payload};

/// Everything that is to be done about one upcall.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    pub(crate) run: Option<Run>,
    pub(crate) deliver: Option<Run>,
    pub(crate) file: Option<Run>,
    pub(crate) refused: Vec<Refusal>,
    pub(crate) store: Option<Store>,
    pub(crate) pass: bool,
    pub(crate) capabilities: u64,
    /// Where a program may act as the process that crashed; `None`: nowhere.
    pub(crate) own_place: Option<Place>,
    pub(crate) answer: Option<Answer>,
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
    pub(crate) core: bool,
    pub(crate) files: Vec<String>,
    pub(crate) authority: bool,
}

/// Where a helper runs: `run.in`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In all the container's namespaces, as its init's ids.
    Container,
    /// Where the kernel would have started it.
    Host,
    /// A program of the host, as nobody, in the container's network: `in = "host"` with `join`.
    Beside,
}

/// What `argv[0]` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `command`: a path in the place where it runs.
    Path,
    /// `host_program`: a static ELF of the host, executed by descriptor.
    HostElf,
    /// Our own upcall-place, by descriptor: what `deliver` and `file` are done by ([`crate::placed`]).
    Place,
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
    /// That process as a file system sees it: its file-system ids, its groups, its root and its working directory; no
    /// capability, whatever it had. Not only in a container.
    OriginItself,
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

/// What happens when none of `run`, `deliver` and `file` can be done, or all fail before they got anything.
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

/// Why one action of a rule may not be done, although the rule matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The action's word: `run`, `deliver` or `file`.
    pub action: &'static str,
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

    /// What hands the core to a socket in the container.
    pub fn deliver(&self) -> Option<&Run> {
        self.deliver.as_ref()
    }

    /// What writes the core to a file as the process that crashed.
    pub fn file(&self) -> Option<&Run> {
        self.file.as_ref()
    }

    /// The rule's actions that may not be done; they are not in the plan, and if none is left that would have taken the
    /// core, what `on_failure` says is.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }

    /// The copy to keep on the host.
    pub fn store(&self) -> Option<Store> {
        self.store
    }

    /// Whether the upcall goes to what stood before us.
    pub fn pass(&self) -> bool {
        self.pass
    }

    /// The most capabilities that whatever it passes to may have, by their bits.
    pub fn capabilities(&self) -> u64 {
        self.capabilities
    }

    /// The payload that a key gets.
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// What the rule says should happen when its helper fails.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// The rule's limit.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }

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
}

impl Plan {
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

impl Run {
    /// Our own program with these words, as rules that say no more about it get it.
    pub(crate) fn placing(place: Place, user: User, argv: Vec<Vec<u8>>) -> Self {
        Self {
            place,
            program: Program::Place,
            argv,
            user,
            timeout: Self::DEFAULT_TIMEOUT,
            cgroup: match place {
                Place::Container => Cgroup::Container,
                Place::Host | Place::Beside => Cgroup::Broker,
            },
            memory: None,
            address_space: None,
            core: true,
            files: Vec::new(),
            authority: false,
        }
    }

    /// How long a helper may make no progress, if nothing is written.
    pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

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

    /// Files of the container that it sees in the place of the host's; with [`Place::Beside`] only.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Of a key: whether it may answer itself; else it prints the payload.
    pub fn has_authority(&self) -> bool {
        self.authority
    }

    /// Whether its standard input is the core; else there is nothing in it, and the process is held while it runs.
    pub fn reads_core(&self) -> bool {
        self.core
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
