//! Why something was not done as a rule asked.

use std::fmt;

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
    ContainerUnproven,
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
    SocketMissing,
    SocketRefused,
    FileRefused,
    JoinFailed,
    RateLimit,
    Concurrency,
    Quota,
    DiskFloor,
    TooLarge,
    CoreLimit,
    DaemonDown,
    Late,
    HandedBack,
    Resources,
    HookForeign,
    PipeLimit,
    ShimLost,
    Killed,
    Unanswered,
}

impl Reason {
    /// All reasons, in documentation order.
    pub const ALL: [Self; 36] = [
        Self::Rule,
        Self::Forged,
        Self::NotDumpable,
        Self::UidNotMapped,
        Self::FromOutside,
        Self::Unregistered,
        Self::ContainerUnproven,
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
        Self::SocketMissing,
        Self::SocketRefused,
        Self::FileRefused,
        Self::JoinFailed,
        Self::RateLimit,
        Self::Concurrency,
        Self::Quota,
        Self::DiskFloor,
        Self::TooLarge,
        Self::CoreLimit,
        Self::DaemonDown,
        Self::Late,
        Self::HandedBack,
        Self::Resources,
        Self::HookForeign,
        Self::PipeLimit,
        Self::ShimLost,
        Self::Killed,
        Self::Unanswered,
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
            Self::ContainerUnproven => {
                "the process may live in a container whose init has ended or has left its cgroup"
            }
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
            Self::HelperTimeout => "the helper made no progress within its `timeout`",
            Self::SocketMissing => "nobody listens at the socket of `deliver`",
            Self::SocketRefused => {
                "the socket of `deliver` may be somebody else's, or who listens there did not take the core"
            }
            Self::FileRefused => "the process's user could not write the file of `file`",
            Self::JoinFailed => "a step on the way into the container failed",
            Self::RateLimit => "there were more than `limit.rate` allows",
            Self::Concurrency => "more were running than `limit.concurrent` or `limits` allows",
            Self::Quota => "the container's share of the space for cores is used up",
            Self::DiskFloor => "less space is free than `store.keep_free` wants",
            Self::TooLarge => "the core is larger than `store.max_size`",
            Self::CoreLimit => {
                "the process's own core limit forbids a core, and `ignore_limit` is false"
            }
            Self::DaemonDown => "upcalld did not run",
            Self::Late => "the answer did not come before the deadline",
            Self::HandedBack => "upcalld was too busy and left it to the shim",
            Self::Resources => {
                "upcalld had too few descriptors to look at it, or had for a moment, or could not begin its record"
            }
            Self::HookForeign => "the kernel's hook belonged to somebody else",
            Self::PipeLimit => "the kernel had reached `kernel.core_pipe_limit` and skipped it",
            Self::ShimLost => {
                "the kernel announced a core and no request came; the shim was not started or was ended, or the socket was full"
            }
            Self::Killed => "the process was killed before the kernel had written its core",
            Self::Unanswered => "the key got no answer, or what was printed for it is none",
        }
    }

    /// Whether nobody knows in which container the process lived: a condition on it is neither met nor missed.
    pub fn hides_container(self) -> bool {
        matches!(self, Self::IdentityLost | Self::ContainerUnproven)
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
            Self::ContainerUnproven => "container_unproven",
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
            Self::SocketMissing => "socket_missing",
            Self::SocketRefused => "socket_refused",
            Self::FileRefused => "file_refused",
            Self::JoinFailed => "join_failed",
            Self::RateLimit => "rate_limit",
            Self::Concurrency => "concurrency",
            Self::Quota => "quota",
            Self::DiskFloor => "disk_floor",
            Self::TooLarge => "too_large",
            Self::CoreLimit => "core_limit",
            Self::DaemonDown => "daemon_down",
            Self::Late => "late",
            Self::HandedBack => "handed_back",
            Self::Resources => "resources",
            Self::HookForeign => "hook_foreign",
            Self::PipeLimit => "pipe_limit",
            Self::ShimLost => "shim_lost",
            Self::Killed => "killed",
            Self::Unanswered => "unanswered",
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

    #[test]
    fn the_list_of_reasons_is_complete_and_its_words_differ() {
        assert_eq!(Reason::ALL.len(), Reason::Unanswered as usize + 1);
        let mut words: Vec<_> = Reason::ALL.map(Reason::as_str).to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
