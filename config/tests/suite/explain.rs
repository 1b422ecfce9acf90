//! Why a rule matched or did not, in words.

use std::fmt::Write as _;

use upcall_config::decide::decide;
use upcall_config::explain::{RuleExplanation, Shown, explain};
use upcall_config::facts::{Facts, UserNamespace};
use upcall_config::matcher::Truth;

use crate::given::{in_container, on_host, policy, rootless, segv, with_container};

const RULES: &str = r#"
[[rule]]
name   = "systemd's own crashes"
upcall = "core"
match.process.exe = "/usr/lib/systemd/*"
pass = {}

[[rule]]
upcall = "core"
match.container = { runtime = ["containerd", "cri-o"] }
match.pod.label.tier = "frontend"
store = {}

[[rule]]
name   = "shop: the rest"
upcall = "core"
match.pod.namespace = "shop"
match.core.signal = ["SEGV", "ABRT", "BUS"]
store = {}

[[rule]]
upcall = "core"
match.process = { uid = [0, "1000-1999"], kernel_thread = false, user_namespace = "other" }
match.container = { owner = 1000 }
store = {}
"#;

fn explained(facts: &Facts, all: bool) -> Vec<RuleExplanation> {
    let policy = policy(RULES);
    let decision = decide(&policy, &segv(), facts, "r");
    explain(&policy, &segv(), facts, &decision.trace, all)
}

fn drawn(rules: &[RuleExplanation]) -> String {
    let mut out = String::new();
    for rule in rules {
        let name = rule.rule.name.as_deref().unwrap_or("-");
        writeln!(out, "{} {} {name}", rule.result.as_str(), rule.rule).unwrap();
        for condition in &rule.conditions {
            let wants: Vec<_> = condition.wants.iter().map(Shown::to_string).collect();
            let hint = condition.hint.as_deref().unwrap_or_default();
            let line = format!(
                "    {} {} is {} wants {} {hint}",
                condition.result.as_str(),
                condition.key,
                condition.is,
                wants.join(" or ")
            );
            writeln!(out, "{}", line.trim_end()).unwrap();
        }
    }
    out
}

#[test]
fn a_decision_in_words() {
    let facts = with_container(|c| c.pod.as_mut().unwrap().labels = None);
    insta::assert_snapshot!(drawn(&explained(&facts, false)));
}

#[test]
fn all_rules_in_words_for_a_process_of_the_host() {
    insta::assert_snapshot!(drawn(&explained(&on_host(), true)));
}

#[test]
fn a_rootless_container_is_seen_by_the_rule_that_names_its_owner() {
    let mut facts = rootless();
    facts.process.user_namespace = Some(UserNamespace::Container);
    insta::assert_snapshot!(drawn(&explained(&facts, true)));
}

#[test]
fn only_what_was_looked_at_is_explained_unless_all_is_asked_for() {
    let facts = in_container();
    assert_eq!(explained(&facts, false).len(), 2);
    assert_eq!(explained(&facts, true).len(), 4);
}

#[test]
fn the_trace_agrees_with_the_words() {
    let policy = policy(RULES);
    for facts in [in_container(), on_host(), rootless(), Facts::default()] {
        let decision = decide(&policy, &segv(), &facts, "r");
        let rules = explain(&policy, &segv(), &facts, &decision.trace, false);
        assert_eq!(rules.len(), decision.trace.steps().len());
        for (rule, step) in rules.iter().zip(decision.trace.steps()) {
            assert_eq!((rule.index, rule.result), (step.rule, step.result));
            let position = rule.why_not().map(|why| {
                rule.conditions
                    .iter()
                    .position(|c| std::ptr::eq(c, why))
                    .unwrap()
            });
            assert_eq!(position, step.condition);
            assert_eq!(rule.why_not().is_none(), rule.result == Truth::Yes);
        }
    }
}

#[test]
fn tenants_text_is_escaped() {
    let mut facts = on_host();
    facts.process.exe = Some(b"/tmp/\x1b[2J\\x".to_vec());
    let rules = explained(&facts, true);
    let is = &rules[0].conditions[0].is;
    assert_eq!(is.to_string(), r#""/tmp/\x1b[2J\\x""#);
    assert_eq!(is.plain(), Some(r"/tmp/\x1b[2J\\x"));
}
