//! A record about a core from the spool: of a process that is gone.

use upcall_config::decide::Decision;
use upcall_config::facts::{Facts, Reason};
use upcall_config::rule::Policy;
use upcall_config::upcall::{Signal, Upcall};

use super::Draft;
use super::words::{container, process, resolved, seccomp, unknown};
use crate::identify::Lost;
use crate::identify::core::CoreWords;
use crate::identify::past::Past;
use crate::linux::namespace::Ns;
use crate::resolve::Resolution;
use crate::store::record::{Action, Core, Outcome, Record};

impl Draft {
    /// The process, the container, and how they are known.
    pub(in crate::broker) fn describe_past(
        &mut self,
        words: &CoreWords,
        known: Result<&Past, &Lost>,
        resolution: &Resolution,
        facts: &Facts,
    ) {
        let record = &mut self.record;
        record.process = process(facts);
        record.process.dumpable = words.upcall().dumpable;
        if let Ok(past) = known {
            record.evidence.process = Some(past.evidence.as_str().to_owned());
            record.evidence.candidates = 1;
            record.process.no_new_privs = past.status.no_new_privs;
            record.process.seccomp = past.status.seccomp.map(seccomp);
            let inodes = Ns::ALL
                .into_iter()
                .filter_map(|kind| Some((kind.name().to_owned(), past.namespace(kind)?)));
            record.process.namespaces = inodes.collect();
        }
        record.container = resolution.container.as_ref().map(container);
        resolved(record, resolution);
        let upcall = words.upcall();
        record.core = Some(Core {
            hook: "pipe".to_owned(),
            signal: upcall.signal.map(|signal| signal.to_string()),
            signal_number: upcall.signal.map(Signal::number),
            threads: known.ok().and_then(|past| past.status.threads),
            limit_bytes: upcall.limit.filter(|limit| *limit != u64::MAX),
        });
        record.unknown = unknown(record, resolution);
    }

    /// Takes over what a former daemon had found out while the process was there.
    pub(in crate::broker) fn describe_as(&mut self, former: &Record) {
        let record = &mut self.record;
        record.process.clone_from(&former.process);
        record.container.clone_from(&former.container);
        record.evidence.clone_from(&former.evidence);
        record.unknown.clone_from(&former.unknown);
        record.core.clone_from(&former.core);
        record.timings_us = former.timings_us;
    }

    /// What the policy said.
    pub(in crate::broker) fn decided_past(
        &mut self,
        policy: &Policy,
        upcall: &Upcall,
        facts: &Facts,
        decision: &Decision,
    ) {
        self.record.verdict.host_only = facts.host_only.map(|reason| reason.to_string());
        self.decided(policy, upcall, facts, decision);
    }

    /// The kernel announced it and nobody asked.
    pub(in crate::broker) fn missed(
        &mut self,
        facts: &Facts,
        limit: Option<u64>,
        reason: Reason,
        message: &str,
    ) {
        let record = &mut self.record;
        record.process = process(facts);
        record.core = Some(Core {
            hook: "pipe".to_owned(),
            limit_bytes: limit.filter(|limit| *limit != u64::MAX),
            ..Core::default()
        });
        record.unknown = unknown(record, &Resolution::default());
        record.outcome = Outcome::Missed;
        record.reason = Some(reason.to_string());
        record.message = Some(message.to_owned());
    }

    /// How it ended.
    pub(in crate::broker) fn taken_in(
        &mut self,
        actions: Vec<Action>,
        outcome: Outcome,
        reason: Reason,
        message: String,
    ) {
        self.record.actions = actions;
        self.record.outcome = outcome;
        self.record.reason = Some(reason.to_string());
        self.record.message = Some(message);
    }
}
