//! What a rule can look at: the one table behind matching, the trace, `explain` and the documentation.
//!
//! To add a match key: a variant here, its row in `Field::key` and `Field::shape`, the fact behind it in
//! `crate::matcher`, and its documentation in `crate::keys`.

use crate::upcall::Kind;

/// One thing that `match` can name. The order is the order of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "Field::key has the words")]
pub enum Field {
    ProcessUid,
    ProcessExe,
    ProcessComm,
    ProcessCgroup,
    ProcessUserNamespace,
    ProcessKernelThread,
    /// `match.container = {}`: any registered container.
    Container,
    ContainerRuntime,
    ContainerName,
    ContainerId,
    ContainerImage,
    /// One label; its key is beside the field in a [`crate::rule::Condition`].
    ContainerLabel,
    ContainerOwner,
    /// `match.pod = {}`: any pod.
    Pod,
    PodNamespace,
    PodName,
    PodUid,
    /// One label of the pod, as with [`Field::ContainerLabel`].
    PodLabel,
    CoreSignal,
    CoreDumpable,
    KeyType,
    KeyDescription,
    KeyCallout,
    KeyCaller,
    /// `match.module`: the alias.
    Module,
    /// `match.umh`: what the program goes by.
    Umh,
}

/// What may be written as the value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing: the table stands for itself, empty or not.
    Presence,
    /// Integers up to this one, and ranges of them as text.
    Numbers(u32),
    /// Globs.
    Globs,
    /// A table of globs.
    Labels,
    /// Words of [`crate::facts::Runtime`].
    Runtimes,
    /// Words of [`crate::facts::UserNamespace`].
    UserNamespaces,
    /// Names of [`crate::upcall::Signal`]s.
    Signals,
    /// Words of [`crate::keytype::Caller`].
    Callers,
    /// `true` or `false`.
    Flag,
}

impl Field {
    /// All fields, in the order in which they are looked at.
    pub const ALL: [Self; 26] = [
        Self::ProcessUid,
        Self::ProcessExe,
        Self::ProcessComm,
        Self::ProcessCgroup,
        Self::ProcessUserNamespace,
        Self::ProcessKernelThread,
        Self::Container,
        Self::ContainerRuntime,
        Self::ContainerName,
        Self::ContainerId,
        Self::ContainerImage,
        Self::ContainerLabel,
        Self::ContainerOwner,
        Self::Pod,
        Self::PodNamespace,
        Self::PodName,
        Self::PodUid,
        Self::PodLabel,
        Self::CoreSignal,
        Self::CoreDumpable,
        Self::KeyType,
        Self::KeyDescription,
        Self::KeyCallout,
        Self::KeyCaller,
        Self::Module,
        Self::Umh,
    ];

    /// The key as rules write it, without `match.` and without a label's own key.
    pub fn key(self) -> &'static str {
        match self {
            Self::ProcessUid => "process.uid",
            Self::ProcessExe => "process.exe",
            Self::ProcessComm => "process.comm",
            Self::ProcessCgroup => "process.cgroup",
            Self::ProcessUserNamespace => "process.user_namespace",
            Self::ProcessKernelThread => "process.kernel_thread",
            Self::Container => "container",
            Self::ContainerRuntime => "container.runtime",
            Self::ContainerName => "container.name",
            Self::ContainerId => "container.id",
            Self::ContainerImage => "container.image",
            Self::ContainerLabel => "container.label",
            Self::ContainerOwner => "container.owner",
            Self::Pod => "pod",
            Self::PodNamespace => "pod.namespace",
            Self::PodName => "pod.name",
            Self::PodUid => "pod.uid",
            Self::PodLabel => "pod.label",
            Self::CoreSignal => "core.signal",
            Self::CoreDumpable => "core.dumpable",
            Self::KeyType => "key.type",
            Self::KeyDescription => "key.description",
            Self::KeyCallout => "key.callout",
            Self::KeyCaller => "key.caller",
            Self::Module => "module",
            Self::Umh => "umh",
        }
    }

    /// What may be written as its value.
    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Container | Self::Pod => Shape::Presence,
            Self::ProcessUid | Self::ContainerOwner => Shape::Numbers(u32::MAX - 1),
            Self::CoreDumpable => Shape::Numbers(2),
            Self::ProcessExe
            | Self::ProcessComm
            | Self::ProcessCgroup
            | Self::ContainerName
            | Self::ContainerId
            | Self::ContainerImage
            | Self::PodNamespace
            | Self::PodName
            | Self::PodUid
            | Self::KeyType
            | Self::KeyDescription
            | Self::KeyCallout
            | Self::Module
            | Self::Umh => Shape::Globs,
            Self::ContainerLabel | Self::PodLabel => Shape::Labels,
            Self::ContainerRuntime => Shape::Runtimes,
            Self::ProcessUserNamespace => Shape::UserNamespaces,
            Self::ProcessKernelThread => Shape::Flag,
            Self::CoreSignal => Shape::Signals,
            Self::KeyCaller => Shape::Callers,
        }
    }

    /// The kind whose upcalls alone have it; `None`: all have.
    pub fn only_in(self) -> Option<Kind> {
        match self.table() {
            "core" => Some(Kind::Core),
            "key" => Some(Kind::Key),
            "module" => Some(Kind::Module),
            "umh" => Some(Kind::Umh),
            _ => None,
        }
    }

    /// The table below `match` that it is written in.
    pub(crate) fn table(self) -> &'static str {
        self.key()
            .split_once('.')
            .map_or(self.key(), |(table, _)| table)
    }

    /// Its key inside that table; empty for the table itself.
    pub(crate) fn word(self) -> &'static str {
        self.key().split_once('.').map_or("", |(_, word)| word)
    }

    /// Whether it is a property of a registered container.
    pub(crate) fn is_of_container(self) -> bool {
        matches!(self.table(), "container" | "pod")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_complete_and_in_order() {
        assert!(Field::ALL.is_sorted());
        let mut keys: Vec<_> = Field::ALL.map(Field::key).to_vec();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), Field::ALL.len());
        assert_eq!(Field::ALL.len(), Field::Umh as usize + 1);
    }

    #[test]
    fn a_key_is_a_table_and_a_word() {
        assert_eq!(Field::PodLabel.table(), "pod");
        assert_eq!(Field::PodLabel.word(), "label");
        assert_eq!(Field::Container.table(), "container");
        assert_eq!(Field::Container.word(), "");
        assert_eq!(Field::CoreSignal.only_in(), Some(Kind::Core));
        assert_eq!(Field::PodUid.only_in(), None);
    }
}
