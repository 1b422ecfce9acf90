//! What would happen: the same identifying, resolving and deciding as for an upcall, of a process that is alive, or of
//! a record by today's rules. Nothing is changed and nothing is started.

pub mod find;
mod model;
mod plan;
mod record;

pub use model::{
    Check, ConditionText, Explanation, PlanText, Question, RuleText, SCHEMA, Subject, VERSION,
};
pub use plan::passed;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use upcall_config::decide::{Verdict, decide};
use upcall_config::explain::explain;
use upcall_config::facts::{Facts, Reason};
use upcall_config::matcher::Truth;
use upcall_config::rule::Policy;
use upcall_config::upcall::{CoreUpcall, Signal, Upcall};
use upcall_helpers::wire::CORE_WORDS;

use crate::admit::Admit;
use crate::broker::described;
use crate::hooks::pattern::Pattern;
use crate::identify::Origin;
use crate::identify::core::CoreWords;
use crate::linux::parse;
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
    /// What has been used of their limits; only the daemon knows.
    pub admit: Option<&'a Admit>,
    /// Where cores are kept.
    pub cores: &'a Path,
    /// What stood in core_pattern before us.
    pub previous: Option<&'a Pattern>,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
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
    #[error("record {id} is of kind {kind}, and this version explains cores")]
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
    upcall: CoreUpcall,
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
        let signal = || {
            Signal::from_name(&question.signal)
                .ok_or_else(|| ExplainError::NoSignal(question.signal.clone()))
        };
        match &question.of {
            Subject::Pid(pid) => self.process(*pid, signal()?, question.all),
            Subject::Container(name) => {
                let found = find::container(self.resolver, self.policy.containers(), name)?;
                self.process(found.leader, signal()?, question.all)
            }
            Subject::Record(prefix) => {
                let record = records.find(prefix)?;
                let record = record.ok_or_else(|| ExplainError::NoRecord(prefix.clone()))?;
                self.record(&record, question.all)
            }
        }
    }

    /// Explains a crash of process `pid` by this signal.
    ///
    /// # Errors
    /// See [`ExplainError`].
    pub fn process(
        &self,
        pid: u32,
        signal: Signal,
        all: bool,
    ) -> Result<Explanation, ExplainError> {
        let origin = crate::identify::core::look(pid).map_err(|errno| {
            if errno == Errno::ESRCH || errno == Errno::ENOENT {
                ExplainError::NoProcess(pid)
            } else {
                ExplainError::Unreadable { pid, errno }
            }
        })?;
        let (dumpable, mut taken_for) = (dumpable(&origin), Vec::new());
        if dumpable == Truth::Unknown {
            taken_for
                .push("dumpable is taken to be 1: of root's processes only a crash says".into());
        }
        let words = words(&origin, signal, dumpable);
        let resolution = self.resolver.resolve(&origin, self.policy.containers());
        let verified = origin.process.verify();
        verified.map_err(|_| ExplainError::Ended(pid))?;
        let upcall = words.upcall();
        let facts = crate::broker::facts_of_core(&words, &origin, &resolution);
        let (process, container) = described(&words, &origin, &resolution, &facts);
        let mut explanation = Explanation::new(process, container);
        explanation.checks = checks(&facts, &resolution, dumpable);
        explanation.refused_nominees.clone_from(&resolution.refused);
        explanation.taken_for = taken_for;
        let case = Case {
            upcall,
            facts,
            seen: plan::Seen::live(&resolution, &origin),
            explanation,
        };
        Ok(self.decided(case, all))
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
            upcall: core,
            facts,
            seen,
            mut explanation,
        } = case;
        let upcall = Upcall::Core(core);
        let decision = decide(self.policy, &upcall, &facts, "ID");
        let explained = explain(self.policy, &upcall, &facts, &decision.trace, all);
        let rules = self.policy.rules();
        let of_kind = rules.iter().filter(|rule| rule.kind() == upcall.kind());
        let of_kind = of_kind.count();
        let rule = decision.rule.and_then(|index| self.policy.rule(index));
        explanation.host_only = facts.host_only.map(|reason| reason.to_string());
        explanation.not_looked_at = of_kind - explained.len();
        explanation.rules = explained.into_iter().map(model::rule_text).collect();
        explanation.other_kinds = rules.len() - of_kind;
        explanation.rules_loaded = rules.len();
        explanation.plan = PlanText {
            rule: rule.map(|rule| rule.source().to_string()),
            lines: match &decision.verdict {
                Verdict::Deny(denial) => {
                    let reason = upcall_config::text::printable(&denial.reason);
                    vec![("deny".to_owned(), format!("\"{reason}\""))]
                }
                Verdict::Do(plan) => plan::text(self, plan, rule, &seen, &facts, core.limit),
            },
        };
        let post = decision.post.as_ref().map(plan::post);
        explanation.plan.lines.extend(post);
        explanation
    }
}

/// The facts of a core's record, for deciding again; `None` for a record of another kind.
pub(crate) fn facts_of_record(record: &Record) -> Option<Facts> {
    record::case(record).ok().map(|case| case.facts)
}

/// Where cores are kept below a state directory.
pub fn cores(state: &Path) -> PathBuf {
    state.join("cores")
}

/// Whether the process dumps as an ordinary one (prctl(2), PR_SET_DUMPABLE): only then its /proc directory is its own
/// user's and not root's (proc(5)). Of root's own processes that says nothing.
fn dumpable(origin: &Origin) -> Truth {
    let path = format!("/proc/{}", origin.process.pid());
    let [_, effective, ..] = origin.status.uids;
    let root = origin.directory.id_maps().ok();
    let root = root.and_then(|[uids, _]| uids.outside(0));
    match std::fs::metadata(path) {
        Ok(meta) if meta.uid() != effective => Truth::No,
        Ok(_) if effective != 0 && Some(effective) != root => Truth::Yes,
        _ => Truth::Unknown,
    }
}

/// The words that the kernel would say if the process crashed now.
fn words(origin: &Origin, signal: Signal, dumpable: Truth) -> CoreWords {
    let limits = origin
        .directory
        .read("limits")
        .ok()
        .and_then(|text| parse::limits(&text));
    let limit = limits
        .and_then(|limits| limits.get(4).map(|(soft, _)| *soft))
        .unwrap_or(u64::MAX);
    let ([uid, ..], [gid, ..]) = (origin.status.uids, origin.status.gids);
    let inside = |numbers: &[u32]| numbers.last().copied().unwrap_or_default().to_string();
    let word = |specifier: &&str| match *specifier {
        "%P" | "%I" => origin.process.pid().to_string(),
        "%p" => inside(&origin.status.pids),
        "%i" => inside(&origin.status.tids),
        "%u" => uid.to_string(),
        "%g" => gid.to_string(),
        "%d" if dumpable == Truth::No => "2".to_owned(),
        "%d" => "1".to_owned(),
        "%s" => signal.number().to_string(),
        "%c" => limit.to_string(),
        "%t" => (crate::store::records::now_micros() / 1_000_000).to_string(),
        _ => String::new(),
    };
    let words: Vec<Vec<u8>> = CORE_WORDS.iter().map(|s| word(s).into_bytes()).collect();
    // As many words as there are places: cannot fail.
    CoreWords::new(words).unwrap_or_default()
}

fn checks(facts: &Facts, resolution: &Resolution, dumpable: Truth) -> Vec<Check> {
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
        Check::dumpable(dumpable),
    ];
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
