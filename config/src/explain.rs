//! The trace in words: for every rule, every condition, what was found and what was wanted.
//!
//! Not for the hot path: nothing here is called unless somebody asks why.

use std::fmt;

use crate::decide::Trace;
use crate::facts::{Facts, Runtime};
use crate::field::Field;
use crate::matcher::{self, Fact, Truth, View};
use crate::rule::{Condition, Policy, Rule, RuleRef, Test};
use crate::text;
use crate::upcall::Upcall;

/// One rule, and why it matched or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleExplanation {
    /// The rule.
    pub rule: RuleRef,
    /// Its position in the policy.
    pub index: usize,
    /// Whether its conditions hold.
    pub result: Truth,
    /// Whether it takes the upcall, if it is reached: `Yes`, and for a rule that denies also `Unknown`.
    pub takes: bool,
    /// All its conditions, in the order in which they are looked at.
    pub conditions: Vec<ConditionExplanation>,
}

impl RuleExplanation {
    /// The condition that says why the rule does not match: the first that is no, else the first that is unknown.
    pub fn why_not(&self) -> Option<&ConditionExplanation> {
        let first = |truth| self.conditions.iter().find(move |c| c.result == truth);
        first(Truth::No).or_else(|| first(Truth::Unknown))
    }
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionExplanation {
    /// The key as rules write it, without `match.`.
    pub key: String,
    /// What was found.
    pub is: Shown,
    /// What would fit; one of them is enough. Empty: being there is all that is wanted.
    pub wants: Vec<Shown>,
    /// Whether it holds.
    pub result: Truth,
    /// For a fact that is unknown or hidden from the rule: why that is so and what to write instead.
    pub hint: Option<String>,
}

/// A value for people: escaped, and quoted where it is text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Nobody knows; displayed as `unknown`.
    Unknown,
    /// Known not to be there; displayed as `none`.
    None,
    /// A number or a word of ours.
    Word(String),
    /// Text of a tenant or a pattern, escaped by [`crate::text::escape`]; displayed in quotes.
    Text(String),
}

impl Shown {
    /// Without quotes, for JSON; `None` for what is unknown or not there.
    pub fn plain(&self) -> Option<&str> {
        match self {
            Self::Unknown | Self::None => None,
            Self::Word(text) | Self::Text(text) => Some(text),
        }
    }

    fn text(bytes: &[u8]) -> Self {
        Self::Text(text::escape(bytes))
    }

    fn word(word: &impl ToString) -> Self {
        Self::Word(word.to_string())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::None => f.write_str("none"),
            Self::Word(word) => f.write_str(word),
            Self::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// Explains the rules that a decision looked at, with the same upcall and facts; `all`: also the later ones of the
/// upcall's kind.
pub fn explain(
    policy: &Policy,
    upcall: &Upcall,
    facts: &Facts,
    trace: &Trace,
    all: bool,
) -> Vec<RuleExplanation> {
    let looked_at = trace.steps.last().map_or(0, |step| step.rule + 1);
    let end = if all { policy.rules.len() } else { looked_at };
    policy
        .rules
        .iter()
        .enumerate()
        .take(end)
        .filter(|(_, rule)| rule.kind == upcall.kind())
        .map(|(index, rule)| explain_rule(index, rule, upcall, facts))
        .collect()
}

fn explain_rule(index: usize, rule: &Rule, upcall: &Upcall, facts: &Facts) -> RuleExplanation {
    let view = View::new(rule, upcall, facts);
    let (result, _) = matcher::evaluate(rule, &view);
    RuleExplanation {
        rule: rule.source.clone(),
        index,
        result,
        takes: matcher::takes(rule, result),
        conditions: rule
            .conditions
            .iter()
            .map(|c| explain_condition(c, &view))
            .collect(),
    }
}

fn explain_condition(condition: &Condition, view: &View<'_>) -> ConditionExplanation {
    let fact = view.fact(condition);
    let result = matcher::holds(&condition.test, fact);
    ConditionExplanation {
        key: condition.key(),
        is: shown_fact(condition.field, fact),
        wants: shown_test(&condition.test),
        result,
        hint: hint_for(condition.field, fact, view),
    }
}

fn hint_for(field: Field, fact: Fact<'_>, view: &View<'_>) -> Option<String> {
    match (view.container(), view.hidden()) {
        (Some(container), _) if fact == Fact::Unknown => hint(field, container.runtime),
        (None, Some(claimed)) if field.is_of_container() => Some(format!(
            "{} is proven by nothing but files of uid {}; name container.owner",
            claimed.title(),
            claimed.owner
        )),
        _ => None,
    }
}

fn shown_fact(field: Field, fact: Fact<'_>) -> Shown {
    match fact {
        Fact::Unknown => Shown::Unknown,
        Fact::None => Shown::None,
        Fact::Present if field == Field::Pod => Shown::word(&"a pod"),
        Fact::Present => Shown::word(&"a container"),
        Fact::Number(number) => Shown::word(&number),
        Fact::Text(bytes) => Shown::text(bytes),
        Fact::Runtime(runtime) => Shown::text(runtime.as_str().as_bytes()),
        Fact::UserNamespace(whose) => Shown::text(whose.as_str().as_bytes()),
        Fact::ClaimedUserNamespace => Shown::word(&"container or other"),
        Fact::Signal(signal) => Shown::word(&signal),
        Fact::Caller(caller) => Shown::text(caller.as_str().as_bytes()),
        Fact::Flag(flag) => Shown::word(&flag),
    }
}

fn shown_test(test: &Test) -> Vec<Shown> {
    match test {
        Test::Present => Vec::new(),
        Test::Numbers(ranges) => ranges
            .iter()
            .map(|range| match (range.start(), range.end()) {
                (low, high) if low == high => Shown::word(low),
                (low, high) => Shown::Word(format!("{low}-{high}")),
            })
            .collect(),
        Test::Text(patterns) => patterns
            .iter()
            .map(|p| Shown::text(p.as_str().as_bytes()))
            .collect(),
        Test::Runtimes(list) => list
            .iter()
            .map(|r| Shown::text(r.as_str().as_bytes()))
            .collect(),
        Test::UserNamespaces(list) => list
            .iter()
            .map(|u| Shown::text(u.as_str().as_bytes()))
            .collect(),
        Test::Signals(list) => list.iter().map(Shown::word).collect(),
        Test::Callers(list) => list
            .iter()
            .map(|c| Shown::text(c.as_str().as_bytes()))
            .collect(),
        Test::Flags(list) => list.iter().map(Shown::word).collect(),
    }
}

/// Why a runtime leaves this fact unknown, and what to match instead.
pub(crate) fn hint(field: Field, runtime: Runtime) -> Option<String> {
    if !runtime.keeps_no(field) {
        return None;
    }
    let (what, instead) = match (field == Field::PodLabel, runtime == Runtime::Podman) {
        (true, false) => ("pod labels", "match pod.name"),
        // Where podman keeps its labels, the pod's name is kept as well.
        (true, true) => ("pod labels", "match container.name"),
        (false, _) => ("labels", "match container.name"),
    };
    Some(format!("{runtime} keeps no {what} on disk; {instead}"))
}
