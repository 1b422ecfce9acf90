//! A record in the making.

mod former;
pub(super) mod helper;
pub(super) mod key;
mod past;
mod words;

use nix::errno::Errno;
use upcall_config::decide::{Decision, Verdict};
use upcall_config::explain::explain;
use upcall_config::facts::{Facts, Reason};
use upcall_config::plan::Run;
use upcall_config::rule::Policy;
use upcall_config::text::escape;
use upcall_config::upcall::{Signal, Upcall};

use super::cmdline::Reading;
use super::perform::{Leftover, Performed};
use super::{Clock, new_id};
use crate::identify::core::CoreWords;
use crate::identify::{Lost, Origin};
use crate::launch::by_name;
use crate::resolve::Resolution;
use crate::store::record::{self, Core, Outcome, Process, Record, Timings, TraceStep};
use crate::store::records::now_micros;
use words::{cited, container, label, process, resolved, seccomp, truth, unknown};

pub(super) use former::close_former;

/// Rules that are remembered as looked at: the last ones before the match.
const TRACE_MAX: usize = 16;

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
    pub(super) fn unanswered(&mut self, pid: Option<u32>, reason: Reason, message: &str) {
        let record = &mut self.record;
        record.process.pid = pid;
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
