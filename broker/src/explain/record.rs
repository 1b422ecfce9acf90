//! The facts of a record, for deciding again by the rules of now. What a record does not have is taken for what gives
//! a helper most room, and said: nothing is done with it.

use std::collections::BTreeMap;

use upcall_config::facts::{
    Confinement, ContainerFacts, Facts, PodFacts, ProcessFacts, Reason, Runtime, UserNamespace,
};
use upcall_config::keytype::{Caller, KeyUpcall};
use upcall_config::matcher::Truth;
use upcall_config::text::unescape;
use upcall_config::upcall::{CoreUpcall, Signal, Upcall};

use super::plan::Seen;
use super::{Case, Check, ExplainError, Explanation, KeyText, key};
use crate::broker::module_text;
use crate::store::record::{self, Record};

/// What a record says, ready to be decided.
pub(super) fn case(record: &Record) -> Result<Case, ExplainError> {
    let wanted = || ExplainError::Kind {
        id: record.id.clone(),
        kind: record.kind.clone(),
    };
    let upcall = upcall(record).ok_or_else(wanted)?;
    let mut taken_for = Vec::new();
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
    if let Some(wanted) = upcall.key() {
        let forged = is_forged(record);
        explanation.key = Some(KeyText::new(wanted, forged));
        explanation.refused = forged.then(|| key::FORGED.to_owned());
    }
    explanation.module = upcall.module().map(module_text);
    explanation.umh.clone_from(&record.umh);
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

/// What the kernel said; `None` of a kind that is not explained.
fn upcall(record: &Record) -> Option<Upcall> {
    match (record.kind.as_str(), &record.core, &record.key) {
        ("core", Some(core), _) => {
            let time: Option<jiff::Timestamp> = record.time.parse().ok();
            let signal = core.signal_number.map(u32::from);
            Some(Upcall::Core(CoreUpcall {
                signal: signal.and_then(Signal::from_number),
                dumpable: record.process.dumpable,
                limit: Some(core.limit_bytes.unwrap_or(u64::MAX)),
                time: time.and_then(|time| time.as_second().try_into().ok()),
            }))
        }
        ("key", _, Some(key)) => Some(Upcall::Key(KeyUpcall {
            serial: key.serial,
            kind: unescape(&key.kind)?,
            description: unescape(&key.description)?,
            callout: key.callout.as_deref().and_then(unescape),
            caller: Caller::from_word(&key.caller).unwrap_or(Caller::User),
        })),
        ("module", _, None) => {
            let alias = unescape(&record.module.as_ref()?.alias)?;
            Some(Upcall::Module(alias))
        }
        ("umh", _, None) => Some(Upcall::Umh(unescape(&record.umh.as_ref()?.name)?)),
        _ => None,
    }
}

fn is_forged(record: &Record) -> bool {
    let key = record.key.as_ref();
    key.is_some_and(|key| key.caller == "forged")
}

fn checks(record: &Record, facts: &Facts) -> Vec<Check> {
    let dumpable = match record.process.dumpable {
        Some(1) => Truth::Yes,
        Some(_) => Truth::No,
        None => Truth::Unknown,
    };
    let mut checks = vec![Check::registered(facts.container.is_some())];
    match record.kind.as_str() {
        "key" => checks.push(Check::claims(is_forged(record))),
        "module" | "umh" => {}
        _ => checks.push(Check::dumpable(dumpable)),
    }
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
