//! What would happen: the same identifying, resolving and deciding as for an upcall, of a process that is alive.

use serde::{Deserialize, Serialize};
use upcall_config::decide::{Verdict, decide};
use upcall_config::explain::{RuleExplanation, explain};
use upcall_config::facts::{Facts, Reason};
use upcall_config::plan::{Cgroup, OnFailure, Place, Plan, Run, User};
use upcall_config::rule::Policy;
use upcall_config::text::escape;
use upcall_config::upcall::{CoreUpcall, Signal, Upcall};
use upcall_helpers::wire::CORE_WORDS;

use crate::broker::described;
use crate::identify::Origin;
use crate::identify::core::CoreWords;
use crate::linux::namespace::Ns;
use crate::linux::parse;
use crate::resolve::{Resolution, Resolver};
use crate::store::record::{Container, Process};

/// The answer of `upcallctl explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The process, as a record would have it.
    pub process: Process,
    /// Its container.
    pub container: Option<Container>,
    /// Nominees that were not believed.
    pub refused_nominees: Vec<String>,
    /// What must hold before anything may run in the container, in order.
    pub checks: Vec<Check>,
    /// The rules that were looked at.
    pub rules: Vec<RuleText>,
    /// How many later rules were not.
    pub not_looked_at: usize,
    /// Rules of other kinds.
    pub other_kinds: usize,
    /// Files and rules in force.
    pub rules_loaded: usize,
    /// What would be done.
    pub plan: PlanText,
}

/// One check that comes before all rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is checked.
    pub name: String,
    /// Whether it holds.
    pub holds: bool,
    /// Why not.
    pub why: Option<String>,
}

/// A rule and its conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in upcall_config::explain")]
pub struct RuleText {
    pub rule: String,
    pub name: Option<String>,
    pub result: String,
    pub takes: bool,
    pub conditions: Vec<ConditionText>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in upcall_config::explain")]
pub struct ConditionText {
    pub key: String,
    pub is: String,
    pub wants: Vec<String>,
    pub result: String,
    pub hint: Option<String>,
}

/// The plan, a line each: a word and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanText {
    /// The rule that decides; `null`: none does, and the default holds.
    pub rule: Option<String>,
    /// `run`, `store`, `pass`, `deny` …, and the sentence.
    pub lines: Vec<(String, String)>,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// There is no such process.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// It ended while it was looked at.
    #[error("process {0} ended while it was looked at")]
    Ended(u32),
}

/// Explains a crash of process `pid` by this signal.
///
/// # Errors
/// See [`ExplainError`].
pub fn core(
    resolver: &Resolver,
    policy: &Policy,
    pid: u32,
    signal: Signal,
    all: bool,
) -> Result<Explanation, ExplainError> {
    let origin = crate::identify::core::look(pid).map_err(|_| ExplainError::NoProcess(pid))?;
    let words = words(&origin, signal);
    let resolution = resolver.resolve(&origin);
    origin
        .process
        .verify()
        .map_err(|_| ExplainError::Ended(pid))?;
    let facts = crate::broker::facts_of_core(&words, &origin, &resolution);
    let upcall = Upcall::Core(words.upcall());
    let decision = decide(policy, &upcall, &facts, "ID");
    let explained = explain(policy, &upcall, &facts, &decision.trace, all);
    let of_kind = policy
        .rules()
        .iter()
        .filter(|rule| rule.kind() == upcall.kind())
        .count();
    let (process, container) = described(&words, &origin, &resolution, &facts);
    let rule = decision.rule.and_then(|index| policy.rule(index));
    Ok(Explanation {
        process,
        container,
        refused_nominees: resolution.refused.clone(),
        checks: checks(&facts, &resolution, words.upcall()),
        not_looked_at: of_kind - explained.len(),
        rules: explained.into_iter().map(rule_text).collect(),
        other_kinds: policy.rules().len() - of_kind,
        rules_loaded: policy.rules().len(),
        plan: PlanText {
            rule: rule.map(|rule| rule.source().to_string()),
            lines: match &decision.verdict {
                Verdict::Deny(denial) => vec![("deny".to_owned(), denial.reason.to_string())],
                Verdict::Do(plan) => plan_text(plan, &resolution, &origin),
            },
        },
    })
}

/// The words that the kernel would say if the process crashed now.
fn words(origin: &Origin, signal: Signal) -> CoreWords {
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

fn checks(facts: &Facts, resolution: &Resolution, upcall: CoreUpcall) -> Vec<Check> {
    let why = |reason: Reason| {
        let found = resolution
            .host_only
            .as_ref()
            .filter(|(found, _)| *found == reason);
        found.map(|(_, why)| why.clone())
    };
    let check = |name: &str, reason: Reason| Check {
        name: name.to_owned(),
        holds: why(reason).is_none(),
        why: why(reason),
    };
    let mut checks = vec![Check {
        name: "alive".to_owned(),
        holds: true,
        why: None,
    }];
    let registered = facts.container.is_some();
    let nobody =
        (!registered).then(|| "it lives in no container that root's state proves".to_owned());
    checks.push(Check {
        name: "registered".to_owned(),
        holds: registered,
        why: nobody,
    });
    checks.push(Check {
        name: format!(
            "dumpable is {} (assumed: only a crash says)",
            upcall.dumpable.unwrap_or(1)
        ),
        holds: true,
        why: None,
    });
    if registered {
        checks.push(check("its ids are mapped", Reason::UidNotMapped));
        checks.push(check("did not come from outside", Reason::FromOutside));
    }
    checks
}

fn rule_text(explained: RuleExplanation) -> RuleText {
    RuleText {
        rule: explained.rule.to_string(),
        name: explained.rule.name.as_ref().map(ToString::to_string),
        result: explained.result.as_str().to_owned(),
        takes: explained.takes,
        conditions: explained
            .conditions
            .into_iter()
            .map(|condition| ConditionText {
                key: condition.key,
                is: condition.is.to_string(),
                wants: condition.wants.iter().map(ToString::to_string).collect(),
                result: condition.result.as_str().to_owned(),
                hint: condition.hint,
            })
            .collect(),
    }
}

fn plan_text(plan: &Plan, resolution: &Resolution, origin: &Origin) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut line = |word: &str, text: String| lines.push((word.to_owned(), text));
    if let Some(refusal) = plan.run_refused() {
        line(
            "run",
            format!("refused: {}: {}", refusal.reason, refusal.message),
        );
    }
    if let Some(run) = plan.run() {
        let words: Vec<String> = run.argv().iter().map(|word| escape(word)).collect();
        let words = words.iter().enumerate().map(|(place, word)| {
            if place == 0 {
                word.clone()
            } else {
                format!("\"{word}\"")
            }
        });
        let seconds = run.timeout().as_secs_f64();
        let text: Vec<String> = words.collect();
        line(
            "run",
            format!(
                "{}; stdin: the core; no progress for {seconds} s ends it",
                text.join(" ")
            ),
        );
        line("in", place_text(run, resolution));
        line("as", user_text(run, resolution, origin));
    }
    if let Some(store) = plan.store() {
        let limit = if store.ignore_limit() {
            "its core limit is ignored"
        } else {
            "within its core limit"
        };
        line(
            "store",
            format!(
                "a copy on the host, at most {} bytes, {limit}",
                store.max_size()
            ),
        );
    }
    if plan.pass() {
        line(
            "pass",
            "to what stood in core_pattern before us (upcallctl status)".to_owned(),
        );
    }
    if let Some(limit) = plan.limit() {
        let rate = limit
            .rate
            .map(|rate| format!("{} in {} s", rate.count, rate.per.as_secs()));
        let concurrent = limit.concurrent.map(|count| format!("{count} at once"));
        let text: Vec<String> = rate.into_iter().chain(concurrent).collect();
        line("limit", text.join("; "));
    }
    if plan.run().is_some() {
        line(
            "on failure",
            match plan.on_failure() {
                OnFailure::Store => "store".to_owned(),
                OnFailure::Pass => "pass".to_owned(),
                OnFailure::Drop => "drop".to_owned(),
            },
        );
    }
    lines
}

fn place_text(run: &Run, resolution: &Resolution) -> String {
    let container = resolution
        .container
        .as_ref()
        .filter(|_| run.place() == Place::Container);
    let Some(container) = container else {
        return "the host, as the kernel would start it".to_owned();
    };
    let own = Ns::ALL
        .into_iter()
        .filter(|kind| container.own_namespaces & kind.flag() != 0)
        .map(Ns::name);
    let cgroup = match run.cgroup() {
        Cgroup::Container => "its cgroup's child upcall-ID",
        Cgroup::Broker => "a cgroup of upcalld's",
    };
    let own: Vec<&str> = own.collect();
    format!(
        "{} of leader {}, its root, cwd /, {cgroup}",
        own.join(" "),
        container.leader.process.pid()
    )
}

fn user_text(run: &Run, resolution: &Resolution, origin: &Origin) -> String {
    let container = resolution
        .container
        .as_ref()
        .filter(|_| run.place() == Place::Container);
    let Some(container) = container else {
        return "root of the host".to_owned();
    };
    let leader = &container.leader;
    let ([uid, ..], [gid, ..]) = match run.user() {
        User::Init | User::Root => (leader.status.uids, leader.status.gids),
        User::Origin => (origin.status.uids, origin.status.gids),
    };
    let (uid, gid) = if run.user() == User::Root {
        (
            leader.uids.outside(0).unwrap_or(uid),
            leader.gids.outside(0).unwrap_or(gid),
        )
    } else {
        (uid, gid)
    };
    let inside = |id: Option<u32>| id.map_or_else(|| "?".to_owned(), |id| id.to_string());
    let root = leader.uids.inside(uid) == Some(0);
    let count = if root {
        leader.capabilities().count_ones()
    } else {
        0
    };
    format!(
        "{}:{} ({uid}:{gid} outside), {}; {count} of {} capabilities; no_new_privs; upcalld's seccomp filter",
        inside(leader.uids.inside(uid)),
        inside(leader.gids.inside(gid)),
        match run.user() {
            User::Init => "its init's ids",
            User::Root => "its root",
            User::Origin => "the process's own ids",
        },
        crate::linux::capability::COUNT,
    )
}
