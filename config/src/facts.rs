//! What is known about the process that caused an upcall and about the container it lives in.
//!
//! Everything here was found by the broker, from the kernel and from root-owned state; nothing is read in this
//! crate. `None` always means *unknown*: a condition on an unknown fact never grants anything.
//! Tenants choose many of these texts (comm, exe, names, labels), so they are bytes and never more than that.

use std::collections::BTreeMap;
use std::fmt;

use crate::field::Field;
use crate::text::{Escaped, escape};

/// Facts that rules can look at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The process that caused the upcall (the origin).
    pub process: ProcessFacts,
    /// The registered container the origin lives in; `None`: it lives in none, or none could be proven.
    pub container: Option<ContainerFacts>,
    /// Why nothing may run inside a container for this upcall, whatever the rules say.
    pub host_only: Option<Reason>,
}

/// The origin. Numbers are the host's unless the name says `inside`, which is the registered container's view
/// (the leader's pid and user namespace) and `None` outside of one or where it is not mapped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessFacts {
    /// Thread-group id, in the initial pid namespace.
    pub pid: Option<u32>,
    /// Thread id of the thread that caused the upcall, in the initial pid namespace.
    pub tid: Option<u32>,
    /// Thread-group id as the container sees it.
    pub pid_inside: Option<u32>,
    /// Thread id as the container sees it.
    pub tid_inside: Option<u32>,
    /// Real user id.
    pub uid: Option<u32>,
    /// Real group id.
    pub gid: Option<u32>,
    /// Real user id as the container sees it.
    pub uid_inside: Option<u32>,
    /// Real group id as the container sees it.
    pub gid_inside: Option<u32>,
    /// The thread's name, at most 15 bytes, the tenant's own words.
    pub comm: Option<Vec<u8>>,
    /// What /proc/PID/exe links to, the tenant's own words.
    pub exe: Option<Vec<u8>>,
    /// Path of the cgroup (cgroup2, else the named or first v1 hierarchy), seen from the host.
    pub cgroup: Option<Vec<u8>>,
    /// Whose user namespace the process lives in.
    pub user_namespace: Option<UserNamespace>,
    /// Whether it is a thread of the kernel itself.
    pub kernel_thread: Option<bool>,
}

/// The value of `match.process.user_namespace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UserNamespace {
    /// The host's.
    Initial,
    /// A registered container's own, or one below it.
    Container,
    /// Anybody's: made by unshare(2) or by something that nobody registered.
    Other,
}

impl UserNamespace {
    /// All values, in documentation order.
    pub const ALL: [Self; 3] = [Self::Initial, Self::Container, Self::Other];

    /// The word used in rules and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Container => "container",
            Self::Other => "other",
        }
    }

    /// The value with this word, if there is one.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|whose| whose.as_str() == word)
    }
}

/// Which program made the container, as rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of the runtimes say it")]
pub enum Runtime {
    Runc,
    Crun,
    Containerd,
    Docker,
    Podman,
    CriO,
    Lxc,
    Incus,
    Nspawn,
    /// Declared by the admin, `[[container]]`.
    Admin,
}

impl Runtime {
    /// All runtimes, in documentation order.
    pub const ALL: [Self; 10] = [
        Self::Runc,
        Self::Crun,
        Self::Containerd,
        Self::Docker,
        Self::Podman,
        Self::CriO,
        Self::Lxc,
        Self::Incus,
        Self::Nspawn,
        Self::Admin,
    ];

    /// The word used in rules and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::CriO => "cri-o",
            Self::Lxc => "lxc",
            Self::Incus => "incus",
            Self::Nspawn => "nspawn",
            Self::Admin => "admin",
        }
    }
}

impl Runtime {
    /// The runtime with this word, if there is one.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|runtime| runtime.as_str() == word)
    }

    /// Whether the runtime keeps the labels that this field looks at nowhere on disk, so that they are always unknown.
    pub(crate) fn keeps_no(self, field: Field) -> bool {
        if field == Field::PodLabel {
            // containerd copies none of a pod's labels into the bundle, and what is podman's is said below.
            matches!(self, Self::Containerd | Self::Docker | Self::Podman)
        } else if field == Field::ContainerLabel {
            // podman has labels only in its database, which is no format for others to read.
            matches!(self, Self::Podman | Self::Lxc | Self::Nspawn | Self::Admin)
        } else {
            false
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A registered container: proven, at the moment of the upcall, by root-owned state of a runtime and by the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// What made it.
    pub runtime: Runtime,
    /// The runtime's id.
    pub id: Vec<u8>,
    /// The name people gave it.
    pub name: Option<Vec<u8>>,
    /// The image it was made from.
    pub image: Option<Vec<u8>>,
    /// Labels and annotations; `None` where the runtime keeps none on disk.
    pub labels: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Host uid that owns the state this was proven by. Not 0: a user wrote it, and only rules that name
    /// `match.container.owner` see the container (denials see it always).
    pub owner: u32,
    /// The Kubernetes or podman pod it belongs to.
    pub pod: Option<PodFacts>,
    /// What stands between its init and the host.
    pub confinement: Confinement,
    /// Whether uid 0 and gid 0 exist in its user namespace.
    pub root_is_mapped: bool,
}

impl ContainerFacts {
    /// What people call it, escaped: name and the first 12 characters of the id, `web 3f9c1e0a77d2`; one of them
    /// where they are the same or there is no name.
    pub fn title(&self) -> String {
        let short = self.id.get(..12).unwrap_or(&self.id);
        match &self.name {
            Some(name) if *name != self.id => {
                format!("{} {}", Escaped(name), Escaped(short))
            }
            Some(name) => escape(name),
            None => escape(short),
        }
    }
}

/// The pod of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodFacts {
    /// Kubernetes namespace.
    pub namespace: Option<Vec<u8>>,
    /// Name of the pod.
    pub name: Option<Vec<u8>>,
    /// Kubernetes uid, or podman's pod id.
    pub uid: Option<Vec<u8>>,
    /// Labels; `None` where the runtime keeps none on disk.
    pub labels: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// How far a container's init is from being the host's root; decides what a rule must allow before a helper enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confinement {
    /// A user namespace of its own: root inside is nobody outside.
    UserNamespace,
    /// Shares the host's user namespace; root inside is root outside, with fewer capabilities.
    Capabilities,
    /// Shares the host's user namespace and holds a capability that is the host's root in all but name
    /// (`SYS_PTRACE`, `SYS_ADMIN`, `SYS_MODULE`, `SYS_RAWIO`, `BPF`, `DAC_READ_SEARCH`).
    Privileged,
}

/// Why something was not done as a rule asked; the `reason` of a record. Stable words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the word is the explanation; docs/rules.md has a line for each"
)]
pub enum Reason {
    Rule,
    Forged,
    NotDumpable,
    UidNotMapped,
    FromOutside,
    Unregistered,
    UntrustedContainer,
    IdentityLost,
    Ambiguous,
    ContainerGone,
    ContainerFrozen,
    HelperMissing,
    HelperNotExecutable,
    HelperExit,
    HelperSignal,
    HelperTimeout,
    JoinFailed,
    RateLimit,
    Concurrency,
    Quota,
    DiskFloor,
    TooLarge,
    CoreLimit,
    DaemonDown,
    Late,
    HookForeign,
    PipeLimit,
}

impl Reason {
    /// All reasons, in documentation order.
    pub const ALL: [Self; 27] = [
        Self::Rule,
        Self::Forged,
        Self::NotDumpable,
        Self::UidNotMapped,
        Self::FromOutside,
        Self::Unregistered,
        Self::UntrustedContainer,
        Self::IdentityLost,
        Self::Ambiguous,
        Self::ContainerGone,
        Self::ContainerFrozen,
        Self::HelperMissing,
        Self::HelperNotExecutable,
        Self::HelperExit,
        Self::HelperSignal,
        Self::HelperTimeout,
        Self::JoinFailed,
        Self::RateLimit,
        Self::Concurrency,
        Self::Quota,
        Self::DiskFloor,
        Self::TooLarge,
        Self::CoreLimit,
        Self::DaemonDown,
        Self::Late,
        Self::HookForeign,
        Self::PipeLimit,
    ];

    /// What the word means, as a clause.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Rule => "a rule refuses it",
            Self::Forged => "the request does not come from the kernel",
            Self::NotDumpable => {
                "the process changed its credentials (dumpable is not 1), so its core is root's alone"
            }
            Self::UidNotMapped => "an id is not mapped in the container's user namespace",
            Self::FromOutside => {
                "the process came into the container from outside, so it may hold what the container may not have"
            }
            Self::Unregistered => "the process lives in no registered container",
            Self::UntrustedContainer => {
                "the container is too close to the host for what its rule allows"
            }
            Self::IdentityLost => "the process was gone before it could be proven which one it was",
            Self::Ambiguous => "more than one process may have caused it",
            Self::ContainerGone => "the container ended before its helper was in it",
            Self::ContainerFrozen => "the container is frozen, its helper would never run",
            Self::HelperMissing => "the helper is not there",
            Self::HelperNotExecutable => "the helper is there and cannot be executed",
            Self::HelperExit => "the helper ended with an exit code other than 0",
            Self::HelperSignal => "the helper was killed by a signal",
            Self::HelperTimeout => "the helper made no progress within `run.timeout`",
            Self::JoinFailed => "a step on the way into the container failed",
            Self::RateLimit => "there were more than `limit.rate` allows",
            Self::Concurrency => "more were running than `limit.concurrent` or `limits` allows",
            Self::Quota => "the container's share of the space for cores is used up",
            Self::DiskFloor => "less space is free than `store.keep_free` wants",
            Self::TooLarge => "the core is larger than `store.max_size`",
            Self::CoreLimit => {
                "the process's own core limit forbids a core, and `store.ignore_limit` is false"
            }
            Self::DaemonDown => "upcalld did not run",
            Self::Late => "the answer did not come before the deadline",
            Self::HookForeign => "the kernel's hook belonged to somebody else",
            Self::PipeLimit => "the kernel had reached `kernel.core_pipe_limit` and skipped it",
        }
    }

    /// The word used in records and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Forged => "forged",
            Self::NotDumpable => "not_dumpable",
            Self::UidNotMapped => "uid_not_mapped",
            Self::FromOutside => "from_outside",
            Self::Unregistered => "unregistered",
            Self::UntrustedContainer => "untrusted_container",
            Self::IdentityLost => "identity_lost",
            Self::Ambiguous => "ambiguous",
            Self::ContainerGone => "container_gone",
            Self::ContainerFrozen => "container_frozen",
            Self::HelperMissing => "helper_missing",
            Self::HelperNotExecutable => "helper_not_executable",
            Self::HelperExit => "helper_exit",
            Self::HelperSignal => "helper_signal",
            Self::HelperTimeout => "helper_timeout",
            Self::JoinFailed => "join_failed",
            Self::RateLimit => "rate_limit",
            Self::Concurrency => "concurrency",
            Self::Quota => "quota",
            Self::DiskFloor => "disk_floor",
            Self::TooLarge => "too_large",
            Self::CoreLimit => "core_limit",
            Self::DaemonDown => "daemon_down",
            Self::Late => "late",
            Self::HookForeign => "hook_foreign",
            Self::PipeLimit => "pipe_limit",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &[u8], name: Option<&[u8]>) -> ContainerFacts {
        ContainerFacts {
            runtime: Runtime::Runc,
            id: id.to_vec(),
            name: name.map(<[u8]>::to_vec),
            image: None,
            labels: None,
            owner: 0,
            pod: None,
            confinement: Confinement::UserNamespace,
            root_is_mapped: true,
        }
    }

    #[test]
    fn a_container_is_called_by_name_and_short_id() {
        let long = b"3f9c1e0a77d2ffffffffffffffff";
        assert_eq!(container(long, Some(b"web")).title(), "web 3f9c1e0a77d2");
        assert_eq!(container(long, None).title(), "3f9c1e0a77d2");
        assert_eq!(container(b"box-3", Some(b"box-3")).title(), "box-3");
        assert_eq!(container(b"x", Some(b"\x1b[2J")).title(), "\\x1b[2J x");
    }

    #[test]
    fn the_list_of_reasons_is_complete_and_its_words_differ() {
        assert_eq!(Reason::ALL.len(), Reason::PipeLimit as usize + 1);
        let mut words: Vec<_> = Reason::ALL.map(Reason::as_str).to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    #[test]
    fn words_lead_back_to_their_values() {
        for runtime in Runtime::ALL {
            assert_eq!(Runtime::from_word(runtime.as_str()), Some(runtime));
        }
        for whose in UserNamespace::ALL {
            assert_eq!(UserNamespace::from_word(whose.as_str()), Some(whose));
        }
    }
}
