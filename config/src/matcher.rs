//! Whether a rule's conditions hold: yes, no, or nobody knows.
//!
//! Three decisions about trust are made here and nowhere else: a fact that is unknown holds only for a rule that
//! denies; a container whose state a user wrote exists only for rules that name `match.container.owner`, and for
//! those that deny; and a process in no registered container has none of a container's properties, known ones.

use std::collections::BTreeMap;

use crate::facts::{ContainerFacts, Facts, Reason, Runtime, UserNamespace};
use crate::field::Field;
use crate::keytype::Caller;
use crate::rule::{Condition, Rule, Test};
use crate::upcall::{Signal, Upcall};

/// Whether something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// The fact could not be found out.
    Unknown,
}

impl Truth {
    /// The word used in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }

    fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// The upcall as one rule sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    upcall: &'a Upcall,
    facts: &'a Facts,
    container: Option<&'a ContainerFacts>,
    /// A user claims the container, and this rule denies: it must hold whether or not the claim is believed.
    claimed: bool,
}

/// One fact, as a condition asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact<'a> {
    /// Nobody knows.
    Unknown,
    /// Known not to be: no container, no pod, no such label.
    None,
    /// It is there, and that was the question.
    Present,
    Number(u32),
    Text(&'a [u8]),
    Runtime(Runtime),
    UserNamespace(UserNamespace),
    /// [`UserNamespace::Container`] if a user's claim is believed, [`UserNamespace::Other`] if not.
    ClaimedUserNamespace,
    Signal(Signal),
    Caller(Caller),
    Flag(bool),
}

impl<'a> View<'a> {
    pub(crate) fn new(rule: &Rule, upcall: &'a Upcall, facts: &'a Facts) -> Self {
        let container = facts.container.as_ref();
        let rootless = container.is_some_and(|c| c.owner != 0);
        let visible = !rootless || rule.names_owner() || rule.denies();
        Self {
            upcall,
            facts,
            container: container.filter(|_| visible),
            claimed: rootless && rule.denies(),
        }
    }

    /// The registered container that exists for this rule.
    pub(crate) fn container(&self) -> Option<&'a ContainerFacts> {
        self.container
    }

    /// The container that does not exist for this rule, because a user wrote what proves it.
    pub(crate) fn hidden(&self) -> Option<&'a ContainerFacts> {
        self.facts
            .container
            .as_ref()
            .filter(|_| self.container.is_none())
    }

    /// What a condition looks at.
    pub(crate) fn fact(&self, condition: &Condition) -> Fact<'a> {
        let process = &self.facts.process;
        let (core, key) = (self.upcall.core(), self.upcall.key());
        match condition.field {
            Field::ProcessUid => known(process.uid.map(Fact::Number)),
            Field::ProcessExe => text(process.exe.as_ref()),
            Field::ProcessComm => text(process.comm.as_ref()),
            Field::ProcessCgroup => text(process.cgroup.as_ref()),
            Field::ProcessUserNamespace => self.user_namespace(),
            Field::ProcessKernelThread => known(process.kernel_thread.map(Fact::Flag)),
            Field::CoreSignal => known(core.and_then(|core| core.signal).map(Fact::Signal)),
            Field::CoreDumpable => known(
                core.and_then(|core| core.dumpable)
                    .map(|d| Fact::Number(d.into())),
            ),
            Field::KeyType => text(key.map(|key| &key.kind)),
            Field::KeyDescription => text(key.map(|key| &key.description)),
            Field::KeyCallout => text(key.and_then(|key| key.callout.as_ref())),
            Field::KeyCaller => known(key.map(|key| Fact::Caller(key.caller))),
            Field::Module => known(self.upcall.module().map(Fact::Text)),
            Field::Umh => known(self.upcall.umh().map(Fact::Text)),
            Field::Container
            | Field::ContainerRuntime
            | Field::ContainerName
            | Field::ContainerId
            | Field::ContainerImage
            | Field::ContainerLabel
            | Field::ContainerOwner
            | Field::Pod
            | Field::PodNamespace
            | Field::PodName
            | Field::PodUid
            | Field::PodLabel => match self.container {
                Some(container) => container_fact(condition, container),
                None if self.facts.host_only.is_some_and(Reason::hides_container) => Fact::Unknown,
                None => Fact::None,
            },
        }
    }

    fn user_namespace(&self) -> Fact<'a> {
        match self.facts.process.user_namespace {
            Some(UserNamespace::Container) if self.claimed => Fact::ClaimedUserNamespace,
            // For a rule that does not see the container, its namespace is one that nobody registered.
            Some(UserNamespace::Container) if self.hidden().is_some() => {
                Fact::UserNamespace(UserNamespace::Other)
            }
            other => known(other.map(Fact::UserNamespace)),
        }
    }
}

fn container_fact<'a>(condition: &Condition, container: &'a ContainerFacts) -> Fact<'a> {
    let pod = container.pod.as_ref();
    let of_pod = |get: fn(&'a crate::facts::PodFacts) -> Fact<'a>| pod.map_or(Fact::None, get);
    let key = condition.label.as_deref().unwrap_or_default();
    match condition.field {
        Field::ContainerRuntime => Fact::Runtime(container.runtime),
        Field::ContainerName => text(container.name.as_ref()),
        Field::ContainerId => Fact::Text(&container.id),
        Field::ContainerImage => text(container.image.as_ref()),
        Field::ContainerLabel => label(container.labels.as_ref(), key),
        Field::ContainerOwner => Fact::Number(container.owner),
        Field::Pod => of_pod(|_| Fact::Present),
        Field::PodNamespace => of_pod(|pod| text(pod.namespace.as_ref())),
        Field::PodName => of_pod(|pod| text(pod.name.as_ref())),
        Field::PodUid => of_pod(|pod| text(pod.uid.as_ref())),
        Field::PodLabel => pod.map_or(Fact::None, |pod| label(pod.labels.as_ref(), key)),
        Field::Container
        | Field::ProcessUid
        | Field::ProcessExe
        | Field::ProcessComm
        | Field::ProcessCgroup
        | Field::ProcessUserNamespace
        | Field::ProcessKernelThread
        | Field::CoreSignal
        | Field::CoreDumpable
        | Field::KeyType
        | Field::KeyDescription
        | Field::KeyCallout
        | Field::KeyCaller
        | Field::Module
        | Field::Umh => Fact::Present,
    }
}

fn known(fact: Option<Fact<'_>>) -> Fact<'_> {
    fact.unwrap_or(Fact::Unknown)
}

fn text(bytes: Option<&Vec<u8>>) -> Fact<'_> {
    bytes.map_or(Fact::Unknown, |bytes| Fact::Text(bytes))
}

fn label<'a>(labels: Option<&'a BTreeMap<Vec<u8>, Vec<u8>>>, key: &str) -> Fact<'a> {
    match labels {
        None => Fact::Unknown,
        Some(labels) => labels
            .get(key.as_bytes())
            .map_or(Fact::None, |v| Fact::Text(v)),
    }
}

/// Whether what was found is what the condition wants.
pub(crate) fn holds(test: &Test, fact: Fact<'_>) -> Truth {
    match (test, fact) {
        (_, Fact::Unknown) => Truth::Unknown,
        (Test::Present, fact) => Truth::of(fact != Fact::None),
        (Test::Numbers(ranges), Fact::Number(n)) => {
            Truth::of(ranges.iter().any(|r| r.contains(&n)))
        }
        (Test::Text(patterns), Fact::Text(t)) => Truth::of(patterns.iter().any(|p| p.matches(t))),
        (Test::Runtimes(list), Fact::Runtime(r)) => Truth::of(list.contains(&r)),
        (Test::UserNamespaces(list), Fact::UserNamespace(u)) => Truth::of(list.contains(&u)),
        (Test::UserNamespaces(list), Fact::ClaimedUserNamespace) => {
            Truth::of(list.iter().any(|u| *u != UserNamespace::Initial))
        }
        (Test::Signals(list), Fact::Signal(s)) => Truth::of(list.contains(&s)),
        (Test::Callers(list), Fact::Caller(c)) => Truth::of(list.contains(&c)),
        (Test::Flags(list), Fact::Flag(f)) => Truth::of(list.contains(&f)),
        // `Fact::None`, and a test of another type than its field's, which checking never makes.
        _ => Truth::No,
    }
}

/// Whether all conditions of a rule hold, and the position of the condition that says why not (the first that is
/// no, else the first that is unknown).
pub(crate) fn evaluate(rule: &Rule, view: &View<'_>) -> (Truth, Option<usize>) {
    let mut unknown = None;
    for (position, condition) in rule.conditions.iter().enumerate() {
        match holds(&condition.test, view.fact(condition)) {
            Truth::Yes => {}
            Truth::No => return (Truth::No, Some(position)),
            Truth::Unknown => unknown = unknown.or(Some(position)),
        }
    }
    match unknown {
        None => (Truth::Yes, None),
        position => (Truth::Unknown, position),
    }
}

/// Whether a rule with this result is the one that decides.
pub(crate) fn takes(rule: &Rule, result: Truth) -> bool {
    match result {
        Truth::Yes => true,
        Truth::No => false,
        Truth::Unknown => rule.denies(),
    }
}
