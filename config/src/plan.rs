//! What a verdict allows to be done, as plain data with private fields.
//!
//! Only [`crate::decide`] makes a [`Plan`]; the broker's `launch` takes nothing else. So nothing is ever started
//! that no rule asked for.

use std::time::Duration;

use crate::facts::Reason;

mod answer;
mod instead;

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
