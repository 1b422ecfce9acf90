//! Facts, as a record says them.

use std::collections::BTreeMap;

use upcall_config::facts::Facts;
use upcall_config::matcher::Truth;
use upcall_config::rule::RuleRef;
use upcall_config::text::escape;

use crate::linux::namespace::Ns;
use crate::resolve::{self, Container, Resolution};
use crate::store::record::{self, Pod, Process, Record, Rule};

/// Of refused nominees so many are told.
const REFUSED_MAX: usize = 32;

pub(super) fn seccomp(mode: u32) -> String {
    let word = match mode {
        0 => "none",
        1 => "strict",
        _ => "filter",
    };
    word.to_owned()
}

pub(super) fn process(facts: &Facts) -> Process {
    let facts = &facts.process;
    let text = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(escape);
    Process {
        pid: facts.pid,
        tid: facts.tid,
        pid_inside: facts.pid_inside,
        tid_inside: facts.tid_inside,
        uid: facts.uid,
        gid: facts.gid,
        uid_inside: facts.uid_inside,
        gid_inside: facts.gid_inside,
        comm: text(&facts.comm),
        exe: text(&facts.exe),
        cgroup: text(&facts.cgroup),
        user_namespace: facts.user_namespace.map(|value| value.as_str().to_owned()),
        kernel_thread: facts.kernel_thread,
        ..Process::default()
    }
}

pub(super) fn container(container: &Container) -> record::Container {
    let facts = &container.facts;
    let text = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(escape);
    let own = Ns::ALL
        .into_iter()
        .filter(|kind| container.own_namespaces & kind.flag() != 0);
    record::Container {
        runtime: facts.runtime.to_string(),
        id: escape(&facts.id),
        name: text(&facts.name),
        image: text(&facts.image),
        labels: facts.labels.as_ref().map(resolve::escaped),
        owner_uid: facts.owner,
        leader_pid: container.leader.process.pid(),
        own_namespaces: own.map(|kind| kind.name().to_owned()).collect(),
        pod: facts.pod.as_ref().map(|pod| Pod {
            namespace: text(&pod.namespace),
            name: text(&pod.name),
            uid: text(&pod.uid),
            labels: pod.labels.as_ref().map(resolve::escaped),
        }),
    }
}

pub(super) fn cited(rule: &RuleRef) -> Rule {
    Rule {
        file: rule.file.display().to_string(),
        line: rule.line,
        name: rule
            .name
            .as_ref()
            .map(|name| upcall_config::text::printable(name)),
    }
}

pub(super) fn truth(truth: Truth) -> &'static str {
    truth.as_str()
}

pub(super) fn label(label: &[u8]) -> Option<String> {
    let at = label.iter().position(|byte| *byte == 0)?;
    label.get(at + 1..).map(escape)
}

/// By what the container was found, and what else claimed to be it.
pub(super) fn resolved(record: &mut Record, resolution: &Resolution) {
    let accepted = resolution.container.iter();
    let accepted = accepted.flat_map(|container| &container.accepted_by);
    record.evidence.container = accepted.map(|word| (*word).to_owned()).collect();
    let refused = resolution.refused.iter().take(REFUSED_MAX);
    record.evidence.refused_nominees = refused.cloned().collect();
}

/// Facts that should be there and are not, or not all of them.
pub(super) fn unknown(record: &Record, resolution: &Resolution) -> Vec<String> {
    let process = &record.process;
    let mut unknown = Vec::new();
    let mut note = |missing: bool, name: &str| {
        if missing {
            unknown.push(name.to_owned());
        }
    };
    note(process.exe.is_none(), "process.exe");
    note(process.comm.is_none(), "process.comm");
    note(process.user_namespace.is_none(), "process.user_namespace");
    note(process.cgroup.is_none(), "process.cgroup");
    if let Some(container) = &record.container {
        note(container.name.is_none(), "container.name");
        note(container.image.is_none(), "container.image");
        let known = resolution.container.as_ref();
        let known = known.and_then(|known| known.facts.labels.as_ref());
        let left_out = known.map(BTreeMap::len) != container.labels.as_ref().map(BTreeMap::len);
        note(container.labels.is_none() || left_out, "container.labels");
        if let Some(pod) = &container.pod {
            note(pod.name.is_none(), "container.pod.name");
            note(pod.labels.is_none(), "container.pod.labels");
        }
    }
    unknown
}
