//! A record in the making.

pub(super) mod helper;
pub(super) mod key;
mod past;

use std::collections::BTreeMap;

use nix::errno::Errno;
use upcall_config::decide::{Decision, Verdict};
use upcall_config::explain::explain;
use upcall_config::facts::{Facts, Reason};
use upcall_config::matcher::Truth;
use upcall_config::plan::Run;
use upcall_config::rule::{Policy, RuleRef};
use upcall_config::text::escape;
use upcall_config::upcall::{Signal, Upcall};
use upcall_helpers::wire::{Event, Report};

use super::cmdline::Reading;
use super::perform::{Leftover, Performed};
use super::{Clock, new_id};
use crate::identify::core::CoreWords;
use crate::identify::{Lost, Origin};
use crate::launch::by_name;
use crate::linux::namespace::Ns;
use crate::resolve::{self, Container, Resolution};
use crate::store::record::{
    self, Action, Core, Outcome, Pod, Process, Record, Rule, Timings, TraceStep,
};
use crate::store::records::now_micros;

/// Rules that are remembered as looked at: the last ones before the match.
const TRACE_MAX: usize = 16;

/// Of refused nominees so many are told.
const REFUSED_MAX: usize = 32;

/// A record that is not finished.
#[derive(Debug)]
pub(super) struct Draft {
    record: Record,
    micros: u64,
    post: Option<Run>,
}

impl Draft {
    /// Of an upcall that comes now; its id is the one that the shim has drawn, else a new one.
    pub(super) fn new(node: &str, id: Option<String>) -> Result<Self, Errno> {
        let id = id.map_or_else(new_id, Ok)?;
        Ok(Self::at(node, id, now_micros()))
    }

    /// Of an upcall at this time, in microseconds since the epoch.
    pub(super) fn at(node: &str, id: String, micros: u64) -> Self {
        let record = Record {
            schema: record::SCHEMA.to_owned(),
            version: record::VERSION,
            id,
            kind: "core".to_owned(),
            time: rfc3339(micros),
            node: node.to_owned(),
            count: 1,
            unknown: Vec::new(),
            process: Process::default(),
            container: None,
            evidence: record::Evidence::default(),
            verdict: record::Verdict::default(),
            outcome: Outcome::Open,
            reason: None,
            message: None,
            timings_us: Timings::default(),
            actions: Vec::new(),
            core: None,
            key: None,
            module: None,
            umh: None,
        };
        Self {
            record,
            micros,
            post: None,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.record.id
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    pub(super) fn timings(&mut self) -> &mut Timings {
        &mut self.record.timings_us
    }

    /// The process, the container, and how they are known.
    pub(super) fn describe(
        &mut self,
        words: &CoreWords,
        known: Result<&Origin, &Lost>,
        resolution: &Resolution,
        facts: &Facts,
    ) {
        let described = described(words, known, resolution, facts);
        self.found(described, known, 1, resolution, facts);
        let upcall = words.upcall();
        self.record.core = Some(Core {
            hook: "pipe".to_owned(),
            signal: upcall.signal.map(|signal| signal.to_string()),
            signal_number: upcall.signal.map(Signal::number),
            threads: known.ok().and_then(|origin| origin.status.threads),
            limit_bytes: upcall.limit.filter(|limit| *limit != u64::MAX),
        });
        self.record.unknown = unknown(&self.record, resolution);
    }

    /// The process, one of so many candidates, the container, and how they are known.
    fn found(
        &mut self,
        described: (Process, Option<record::Container>),
        known: Result<&Origin, &Lost>,
        candidates: usize,
        resolution: &Resolution,
        facts: &Facts,
    ) {
        let record = &mut self.record;
        (record.process, record.container) = described;
        match known {
            Ok(origin) => {
                record.evidence.process = Some(origin.evidence.as_str().to_owned());
                record.evidence.candidates = u32::try_from(candidates).unwrap_or(u32::MAX);
            }
            Err(lost) => record.message = Some(lost.to_string()),
        }
        resolved(record, resolution);
        if let Some((_, why)) = &resolution.host_only {
            record.message = Some(why.clone());
        }
        record.verdict.host_only = facts.host_only.map(|reason| reason.to_string());
    }

    /// How the kernel asked: `pipe` or `socket`.
    pub(super) fn came_by(&mut self, hook: &str) {
        if let Some(core) = &mut self.record.core {
            hook.clone_into(&mut core.hook);
        }
    }

    /// What the policy said, and why.
    pub(super) fn decided(
        &mut self,
        policy: &Policy,
        upcall: &Upcall,
        facts: &Facts,
        decision: &Decision,
    ) {
        self.post.clone_from(&decision.post);
        let verdict = &mut self.record.verdict;
        let rule = decision.rule.and_then(|index| policy.rule(index));
        verdict.rule = rule.map(|rule| cited(rule.source()));
        verdict.actions = match &decision.verdict {
            Verdict::Deny(_) => vec!["deny".to_owned()],
            Verdict::Do(_) => match rule {
                Some(rule) => rule
                    .actions()
                    .iter()
                    .map(|word| (*word).to_owned())
                    .collect(),
                None => vec!["pass".to_owned()],
            },
        };
        let steps = explain(policy, upcall, facts, &decision.trace, false);
        let skip = steps.len().saturating_sub(TRACE_MAX);
        verdict.trace = steps
            .iter()
            .skip(skip)
            .map(|step| {
                let why_not = if step.takes { None } else { step.why_not() };
                TraceStep {
                    file: step.rule.file.display().to_string(),
                    line: step.rule.line,
                    result: truth(step.result).to_owned(),
                    key: why_not.map(|condition| condition.key.clone()),
                    is: why_not.and_then(|condition| condition.is.plain().map(str::to_owned)),
                    wants: why_not.map_or_else(Vec::new, |condition| {
                        condition
                            .wants
                            .iter()
                            .filter_map(|w| w.plain().map(str::to_owned))
                            .collect()
                    }),
                }
            })
            .collect();
    }

    /// Refused: nothing was done.
    pub(super) fn refused(&mut self, reason: Reason, message: &str) {
        self.record.outcome = Outcome::Refused;
        self.record.reason = Some(reason.to_string());
        self.record.message = Some(message.to_owned());
    }

    /// The shim was not answered in time, and did without us.
    pub(super) fn late(&mut self, kept: bool) {
        let (outcome, what) = if kept {
            (
                Outcome::Failed,
                "the shim tried to keep the core in the spool",
            )
        } else {
            (Outcome::Lost, "the shim was ended and nobody has the core")
        };
        self.record.outcome = outcome;
        self.record.reason = Some(Reason::Late.to_string());
        self.record.message = Some(format!("the shim's deadline was over; {what}"));
    }

    /// The kernel asked by its socket and got no answer; the process's number is all that is left of it.
    pub(super) fn unanswered(&mut self, pid: u32, reason: Reason, message: &str) {
        let record = &mut self.record;
        record.process.pid = Some(pid);
        record.outcome = Outcome::Lost;
        record.reason = Some(reason.to_string());
        record.message = Some(message.to_owned());
        record.core = Some(Core {
            hook: "socket".to_owned(),
            ..Core::default()
        });
    }

    /// The self-test of the hook: nothing is kept.
    pub(super) fn self_tested(&mut self, hook: &str) {
        self.record.outcome = Outcome::Done;
        self.record.verdict = record::Verdict {
            actions: vec!["self_test".to_owned()],
            ..record::Verdict::default()
        };
        let did = match hook {
            "key" => "asked for a key",
            "module" => "asked for a module",
            "umh" => "had a program started",
            _ => "crashed",
        };
        let message = format!("self-test of the {hook} hook: a child of upcallctl {did}");
        self.record.message = Some(message);
    }

    /// One more of the same.
    pub(super) fn count(&mut self) {
        self.record.count += 1;
    }

    /// What came of the plan; returns what is left to be reaped, and the command line that is being read.
    pub(super) fn performed(
        &mut self,
        performed: Performed,
        clock: &mut Clock,
    ) -> (Leftover, Option<Reading>) {
        let record = &mut self.record;
        record.actions = performed.actions;
        record.outcome = performed.outcome;
        record.reason = performed.reason.map(|reason| reason.to_string());
        if let Some(message) = performed.message {
            // What was found about the process, before what that means for its helper.
            let found = record.message.take();
            let found = found.filter(|_| record.reason == record.verdict.host_only);
            record.message =
                Some(found.map_or(message.clone(), |found| format!("{found}: {message}")));
        }
        record.timings_us.launch = performed.launched.and_then(|time| clock.since_step(time));
        record.timings_us.held = performed.released.and_then(|time| clock.since_start(time));
        record.timings_us.actions = clock.step();
        (performed.leftover, performed.cmdline)
    }

    pub(super) fn cmdline(&mut self, words: Option<Vec<Vec<u8>>>) {
        match words {
            Some(words) => {
                self.record.process.cmdline = Some(words.iter().map(|word| escape(word)).collect());
            }
            None => self.record.unknown.push("process.cmdline".to_owned()),
        }
    }

    /// What is to run when the record is closed.
    pub(super) fn take_post(&mut self) -> Option<Run> {
        self.post.take()
    }

    /// The record, and when its upcall was, in microseconds since the epoch.
    pub(super) fn finish(self) -> (Record, u64) {
        (self.record, self.micros)
    }
}

/// What a record says about a process and its container.
pub(super) fn described(
    words: &CoreWords,
    origin: Result<&Origin, &Lost>,
    resolution: &Resolution,
    facts: &Facts,
) -> (Process, Option<record::Container>) {
    let mut process = process(facts);
    process.dumpable = words.upcall().dumpable;
    if let Ok(origin) = origin {
        let status = &origin.status;
        process.no_new_privs = status.no_new_privs;
        process.seccomp = status.seccomp.map(seccomp);
        process.label = label(&origin.directory.label().unwrap_or_default());
        process.namespaces = by_name(&origin.namespaces.ids());
    }
    (process, resolution.container.as_ref().map(container))
}

fn seccomp(mode: u32) -> String {
    let word = match mode {
        0 => "none",
        1 => "strict",
        _ => "filter",
    };
    word.to_owned()
}

fn process(facts: &Facts) -> Process {
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

fn container(container: &Container) -> record::Container {
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

fn cited(rule: &RuleRef) -> Rule {
    Rule {
        file: rule.file.display().to_string(),
        line: rule.line,
        name: rule
            .name
            .as_ref()
            .map(|name| upcall_config::text::printable(name)),
    }
}

fn truth(truth: Truth) -> &'static str {
    truth.as_str()
}

fn label(label: &[u8]) -> Option<String> {
    let at = label.iter().position(|byte| *byte == 0)?;
    label.get(at + 1..).map(escape)
}

/// By what the container was found, and what else claimed to be it.
fn resolved(record: &mut Record, resolution: &Resolution) {
    let accepted = resolution.container.iter();
    let accepted = accepted.flat_map(|container| &container.accepted_by);
    record.evidence.container = accepted.map(|word| (*word).to_owned()).collect();
    let refused = resolution.refused.iter().take(REFUSED_MAX);
    record.evidence.refused_nominees = refused.cloned().collect();
}

/// Facts that should be there and are not, or not all of them.
fn unknown(record: &Record, resolution: &Resolution) -> Vec<String> {
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

/// Microseconds since the epoch as RFC 3339 in UTC.
pub(super) fn rfc3339(micros: u64) -> String {
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros)
        .map(|time| format!("{time:.6}"))
        .unwrap_or_default()
}

/// When a record's upcall was, in microseconds since the epoch.
pub(super) fn micros_of(record: &Record) -> Option<u64> {
    let time: jiff::Timestamp = record.time.parse().ok()?;
    u64::try_from(time.as_microsecond()).ok()
}

/// Closes a record that a former daemon left open, by what the launcher's children reported into it.
pub(super) fn close_former(mut record: Record, reports: &[Report]) -> Record {
    let ended = reports
        .iter()
        .any(|report| matches!(report.event, Event::Ended { .. }));
    let stored = reports.iter().find_map(|report| {
        let Event::Stored {
            size,
            stored,
            truncated,
            ..
        } = report.event
        else {
            return None;
        };
        Some((size, stored, truncated))
    });
    let claimed = reports
        .iter()
        .any(|report| matches!(report.event, Event::Started { .. }));
    if let Some((size, bytes, truncated)) = stored {
        let mut action = Action::new("store");
        action.outcome = Outcome::Done;
        (action.size_bytes, action.stored_bytes) = (Some(size), Some(bytes));
        action.truncated = Some(truncated);
        record.actions.push(action);
    }
    let by_socket = record
        .core
        .as_ref()
        .is_some_and(|core| core.hook == "socket");
    let (outcome, what) = match (ended || stored.is_some(), claimed) {
        (true, _) => (Outcome::Partial, "what had been started went on without it"),
        (false, _) if record.core.is_none() => (
            Outcome::Failed,
            "the shim did what it had been told by then, or refused",
        ),
        (false, true) => (Outcome::Lost, "what had been started left no word"),
        (false, false) if by_socket => (
            Outcome::Lost,
            "nothing had been started, and the kernel dumped nothing",
        ),
        // Nobody took the claim, so the shim did: the core is in the spool.
        (false, false) => (
            Outcome::Failed,
            "nothing had been started; the core went to the spool",
        ),
    };
    record.outcome = outcome;
    record.reason = Some(Reason::DaemonDown.to_string());
    record.message = Some(format!(
        "upcalld ended while this was being handled; {what}"
    ));
    record
}
