//! What would happen: the same identifying, resolving and deciding as for an upcall, of a process that is alive, or of
//! a record by today's rules. Nothing is changed and nothing is started.

mod core;
pub mod find;
mod helper;
mod key;
mod model;
mod plan;
mod record;

pub use model::{
    Check, ConditionText, Does, Explanation, KeyAsked, KeyText, PlanText, Question, RuleText,
    SCHEMA, Subject, VERSION,
};
pub use plan::passed;

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use upcall_config::decide::{Verdict, decide};
use upcall_config::explain::explain;
use upcall_config::facts::{Facts, Reason};
use upcall_config::matcher::Truth;
use upcall_config::rule::{Policy, Rule};
use upcall_config::upcall::Upcall;

use crate::admit::Admit;
use crate::broker::{described_asker, facts_of_asker};
use crate::hooks::pattern::Pattern;
use crate::identify::Origin;
use crate::resolve::{Resolution, Resolver};
use crate::store::record::Record;
use crate::store::records::Records;

/// What explaining needs.
#[derive(Debug, Clone, Copy)]
pub struct Explainer<'a> {
    /// Finds containers.
    pub resolver: &'a Resolver,
    /// The rules.
    pub policy: &'a Policy,
    /// What has been used of their limits, by cores, keys, modules and others; only the daemon knows.
    pub admit: Option<[&'a Admit; 4]>,
    /// Where cores are kept.
    pub cores: &'a Path,
    /// What stood in core_pattern before us.
    pub previous: Option<&'a Pattern>,
    /// The hooks' files.
    pub hooks: &'a Path,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// No text that a record could have.
    #[error("not text as a record has it: {0}")]
    NoText(String),
    /// The kernel never asks for it by itself.
    #[error("the kernel asks for no keys of type {0} on its own behalf")]
    NotTheKernels(String),
    /// Not the name of a signal.
    #[error("there is no signal {0}")]
    NoSignal(String),
    /// There is no such container.
    #[error(transparent)]
    Container(#[from] find::FindError),
    /// There is no such record.
    #[error("there is no record {0}")]
    NoRecord(String),
    /// Records cannot be read.
    #[error(transparent)]
    Records(#[from] crate::store::records::RecordError),
    /// There is no such process.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// It is there, and not even root may look at it.
    #[error("process {pid} cannot be looked at: {}; it may have capabilities that you lack", errno.desc())]
    Unreadable {
        /// Which.
        pid: u32,
        /// Why not.
        errno: Errno,
    },
    /// It ended while it was looked at.
    #[error("process {0} ended while it was looked at")]
    Ended(u32),
    /// A record of another kind.
    #[error("record {id} is of kind {kind}, which this version does not explain")]
    Kind {
        /// Which record.
        id: String,
        /// Its kind.
        kind: String,
    },
}

/// Everything that a decision needs, and what is said about it.
#[derive(Debug)]
struct Case {
    upcall: Upcall,
    facts: Facts,
    seen: plan::Seen,
    explanation: Explanation,
}

impl Explainer<'_> {
    /// Answers a question; `records`: where a record is looked for.
    ///
    /// # Errors
    /// See [`ExplainError`].
    pub fn answer(
        &self,
        question: &Question,
        records: &Records,
    ) -> Result<Explanation, ExplainError> {
        let process = |pid: u32| {
            let case = match &question.does {
                Does::Signal(signal) => core::case(self, pid, signal)?,
                Does::Key(key) => key::case(self, pid, key)?,
                Does::Module(alias) => helper::module(self, pid, alias)?,
                Does::Umh(name) => helper::umh(self, pid, name)?,
            };
            Ok(self.decided(case, question.all))
        };
        match &question.of {
            Subject::Pid(pid) => process(*pid),
            Subject::Container(name) => {
                let found = find::container(self.resolver, self.policy.containers(), name)?;
                process(found.leader.pid())
            }
            Subject::Record(prefix) => {
                let record = records.find(prefix)?;
                let record = record.ok_or_else(|| ExplainError::NoRecord(prefix.clone()))?;
                self.record(&record, question.all)
            }
        }
    }

    /// What it would be if a process that is alive waited for a helper of the kernel's.
    fn asker(&self, pid: u32, upcall: Upcall, own: Option<Check>) -> Result<Case, ExplainError> {
        let origin = looked_at(pid, crate::identify::key::look)?;
        let resolution = self.resolver.resolve(&origin, self.policy.containers());
        let verified = origin.process.verify();
        verified.map_err(|_| ExplainError::Ended(pid))?;
        let facts = facts_of_asker(&origin, &resolution);
        let (process, container) = described_asker(&origin, &resolution, &facts);
        let mut explanation = Explanation::new(process, container);
        explanation.checks = checks(&facts, &resolution, own);
        explanation.refused_nominees.clone_from(&resolution.refused);
        Ok(Case {
            upcall,
            facts,
            seen: plan::Seen::live(&resolution, &origin),
            explanation,
        })
    }

    /// Explains a record by the rules of now, as far as it has the facts.
    ///
    /// # Errors
    /// See [`ExplainError`].
    pub fn record(&self, record: &Record, all: bool) -> Result<Explanation, ExplainError> {
        Ok(self.decided(record::case(record)?, all))
    }

    fn decided(&self, case: Case, all: bool) -> Explanation {
        let Case {
            upcall,
            facts,
            seen,
            mut explanation,
        } = case;
        let kind = upcall.kind();
        let of_kind = |rule: &&Rule| rule.kind() == kind;
        let of_kind = self.policy.rules().iter().filter(of_kind).count();
        explanation.rules_loaded = self.policy.rules().len();
        explanation.other_kinds = explanation.rules_loaded - of_kind;
        explanation.host_only = facts.host_only.map(|reason| reason.to_string());
        if explanation.refused.is_some() {
            explanation.not_looked_at = of_kind;
            return explanation;
        }
        let decision = decide(self.policy, &upcall, &facts, "ID");
        let explained = explain(self.policy, &upcall, &facts, &decision.trace, all);
        let rule = decision.rule.and_then(|index| self.policy.rule(index));
        explanation.not_looked_at = of_kind - explained.len();
        explanation.rules = explained.into_iter().map(model::rule_text).collect();
        explanation.plan = PlanText {
            rule: rule.map(|rule| rule.source().to_string()),
            lines: match &decision.verdict {
                Verdict::Deny(denial) => vec![plan::denied(denial, kind)],
                Verdict::Do(plan) => {
                    let about = plan::About {
                        explainer: self,
                        rule,
                        seen: &seen,
                        facts: &facts,
                        upcall: &upcall,
                    };
                    about.text(plan)
                }
            },
        };
        let post = decision.post.as_ref().map(plan::post);
        explanation.plan.lines.extend(post);
        explanation
    }
}

/// The facts of a core's record, for deciding again; `None` for a record of another kind.
pub(crate) fn facts_of_record(record: &Record) -> Option<Facts> {
    let core = Some(record).filter(|record| record.kind == "core")?;
    record::case(core).ok().map(|case| case.facts)
}

/// Where cores are kept below a state directory.
pub fn cores(state: &Path) -> PathBuf {
    state.join("cores")
}

/// The process, held and read by this.
fn looked_at(
    pid: u32,
    look: impl FnOnce(u32) -> Result<Origin, Errno>,
) -> Result<Origin, ExplainError> {
    look(pid).map_err(|errno| {
        if errno == Errno::ESRCH || errno == Errno::ENOENT {
            ExplainError::NoProcess(pid)
        } else {
            ExplainError::Unreadable { pid, errno }
        }
    })
}

/// What must hold before anything may run in the container; `own`: what is particular to this kind of upcall.
fn checks(facts: &Facts, resolution: &Resolution, own: Option<Check>) -> Vec<Check> {
    let why = |reason: Reason| {
        let found = resolution
            .host_only
            .as_ref()
            .filter(|(found, _)| *found == reason);
        found.map(|(_, why)| why.clone())
    };
    let mut checks = vec![
        Check::new("alive", Truth::Yes, None),
        Check::registered(facts.container.is_some()),
    ];
    checks.extend(own);
    if facts.container.is_some() {
        let process = &facts.process;
        let number = |id: Option<u32>| id.map_or_else(|| "?".to_owned(), |id| id.to_string());
        let mapped = format!("{}:{} is mapped", number(process.uid), number(process.gid));
        checks.push(Check::unless(&mapped, why(Reason::UidNotMapped)));
        checks.push(Check::unless(
            "did not come from outside",
            why(Reason::FromOutside),
        ));
    }
    checks
}
