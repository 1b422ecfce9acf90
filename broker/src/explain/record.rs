//! The facts of a record, for deciding again by the rules of now. What a record does not have is taken for what gives
//! a helper most room, and said: nothing is done with it.

use std::collections::BTreeMap;

use upcall_config::facts::{
    Confinement, ContainerFacts, Facts, PodFacts, ProcessFacts, Reason, Runtime, UserNamespace,
};
use upcall_config::matcher::Truth;
use upcall_config::text::unescape;
use upcall_config::upcall::{CoreUpcall, Signal};

use super::plan::Seen;
use super::{Case, Check, ExplainError, Explanation};
use crate::store::record::{self, Record};

/// What a record says, ready to be decided.
pub(super) fn case(record: &Record) -> Result<Case, ExplainError> {
    let core = record.core.as_ref().filter(|_| record.kind == "core");
    let core = core.ok_or_else(|| ExplainError::Kind {
        id: record.id.clone(),
        kind: record.kind.clone(),
    })?;
    let mut taken_for = Vec::new();
    let time: Option<jiff::Timestamp> = record.time.parse().ok();
    let upcall = CoreUpcall {
        signal: core
            .signal_number
            .and_then(|number| Signal::from_number(u32::from(number))),
        dumpable: record.process.dumpable,
        limit: Some(core.limit_bytes.unwrap_or(u64::MAX)),
        time: time.and_then(|time| time.as_second().try_into().ok()),
    };
    let known = record.container.as_ref().and_then(container);
    if let (Some(facts), Some(container)) = (&known, &record.container) {
        if facts.confinement == Confinement::Capabilities {
            taken_for.push(
                "its init is taken to be one that could not take over the host: no record says it"
                    .to_owned(),
            );
        }
        if container.own_namespaces.iter().any(|own| own == "user") {
            taken_for.push("uid 0 is taken to be mapped in it: no record says it".to_owned());
        }
    }
    let host_only = record.verdict.host_only.as_deref();
    let host_only = host_only.and_then(|word| Reason::ALL.into_iter().find(|r| r.as_str() == word));
    let facts = Facts {
        process: process(&record.process),
        container: known,
        host_only,
    };
    let mut explanation = Explanation::new(record.process.clone(), record.container.clone());
    explanation.record = Some(record.id.clone());
    explanation.checks = checks(record, &facts);
    let refused = &record.evidence.refused_nominees;
    explanation.refused_nominees.clone_from(refused);
    explanation.taken_for = taken_for;
    let seen = record.container.as_ref().map(|container| Seen {
        leader: Some(container.leader_pid),
        own: container.own_namespaces.clone(),
        ids: None,
    });
    Ok(Case {
        upcall,
        facts,
        seen: seen.unwrap_or_default(),
        explanation,
    })
}

fn checks(record: &Record, facts: &Facts) -> Vec<Check> {
    let dumpable = match record.process.dumpable {
        Some(1) => Truth::Yes,
        Some(_) => Truth::No,
        None => Truth::Unknown,
    };
    let mut checks = vec![
        Check::registered(facts.container.is_some()),
        Check::dumpable(dumpable),
    ];
    // These two are said above.
    let told = [Reason::NotDumpable, Reason::Unregistered];
    if let Some(reason) = facts.host_only.filter(|reason| !told.contains(reason)) {
        let why = Some(reason.meaning().to_owned());
        checks.push(Check::unless(reason.as_str(), why));
    }
    checks
}

fn bytes(text: Option<&String>) -> Option<Vec<u8>> {
    text.and_then(|text| unescape(text))
}

fn labels(labels: Option<&BTreeMap<String, String>>) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let labels = labels?.iter();
    Some(
        labels
            .filter_map(|(key, value)| Some((unescape(key)?, unescape(value)?)))
            .collect(),
    )
}

fn process(process: &record::Process) -> ProcessFacts {
    let whose = process.user_namespace.as_deref();
    ProcessFacts {
        pid: process.pid,
        tid: process.tid,
        pid_inside: process.pid_inside,
        tid_inside: process.tid_inside,
        uid: process.uid,
        gid: process.gid,
        uid_inside: process.uid_inside,
        gid_inside: process.gid_inside,
        comm: bytes(process.comm.as_ref()),
        exe: bytes(process.exe.as_ref()),
        cgroup: bytes(process.cgroup.as_ref()),
        user_namespace: whose.and_then(UserNamespace::from_word),
        namespace_owner: None,
        kernel_thread: process.kernel_thread,
    }
}

/// `None` for a container of a runtime that this version does not know.
fn container(container: &record::Container) -> Option<ContainerFacts> {
    let own_users = container.own_namespaces.iter().any(|own| own == "user");
    Some(ContainerFacts {
        runtime: Runtime::from_word(&container.runtime)?,
        id: unescape(&container.id)?,
        name: bytes(container.name.as_ref()),
        image: bytes(container.image.as_ref()),
        labels: labels(container.labels.as_ref()),
        owner: container.owner_uid,
        pod: container.pod.as_ref().map(|pod| PodFacts {
            namespace: bytes(pod.namespace.as_ref()),
            name: bytes(pod.name.as_ref()),
            uid: bytes(pod.uid.as_ref()),
            labels: labels(pod.labels.as_ref()),
        }),
        confinement: if own_users {
            Confinement::UserNamespace
        } else {
            Confinement::Capabilities
        },
        root_is_mapped: true,
    })
}
