//! What holds for all policies and all facts.

use std::collections::BTreeMap;

use proptest::prelude::*;
use upcall_config::decide::{Decision, Verdict, decide};
use upcall_config::facts::{
    Confinement, ContainerFacts, Facts, PodFacts, ProcessFacts, Reason, Runtime, UserNamespace,
};
use upcall_config::matcher::Truth;
use upcall_config::plan::Place;
use upcall_config::upcall::{CoreUpcall, Signal, Upcall};

use crate::given::policy;

const SOME: [&str; 4] = ["a", "b", "ab", "ba"];

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(&SOME[..]).prop_map(|text| text.as_bytes().to_vec())
}

fn maybe_text() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(text())
}

fn labels() -> impl Strategy<Value = Option<BTreeMap<Vec<u8>, Vec<u8>>>> {
    prop::option::of(prop::collection::btree_map(text(), text(), 0..3))
}

fn process() -> impl Strategy<Value = ProcessFacts> {
    let namespace = prop::option::of(prop::sample::select(&UserNamespace::ALL[..]));
    let id = || prop::option::of(0..3u32);
    (
        id(),
        id(),
        id(),
        maybe_text(),
        maybe_text(),
        namespace,
        prop::option::of(any::<bool>()),
    )
        .prop_map(
            |(uid, uid_inside, gid_inside, comm, exe, user_namespace, kernel_thread)| {
                ProcessFacts {
                    uid,
                    uid_inside,
                    gid_inside,
                    comm,
                    exe,
                    user_namespace,
                    kernel_thread,
                    ..ProcessFacts::default()
                }
            },
        )
}

fn container() -> impl Strategy<Value = ContainerFacts> {
    let pod =
        (maybe_text(), maybe_text(), labels()).prop_map(|(namespace, name, labels)| PodFacts {
            namespace,
            name,
            uid: None,
            labels,
        });
    let confinement = prop::sample::select(vec![
        Confinement::UserNamespace,
        Confinement::Capabilities,
        Confinement::Privileged,
    ]);
    let runtime = prop::sample::select(&Runtime::ALL[..3]);
    let owner = prop::sample::select(vec![0, 0, 1000]);
    (
        runtime,
        text(),
        maybe_text(),
        labels(),
        owner,
        prop::option::of(pod),
        confinement,
        any::<bool>(),
    )
        .prop_map(
            |(runtime, id, name, labels, owner, pod, confinement, root_is_mapped)| ContainerFacts {
                runtime,
                id,
                name,
                image: None,
                labels,
                owner,
                pod,
                confinement,
                root_is_mapped,
            },
        )
}

fn facts() -> impl Strategy<Value = Facts> {
    let host_only = prop::option::weighted(0.3, prop::sample::select(&Reason::ALL[..]));
    (process(), prop::option::of(container()), host_only).prop_map(
        |(process, container, host_only)| Facts {
            process,
            container,
            host_only,
        },
    )
}

fn upcall() -> impl Strategy<Value = Upcall> {
    let signal = prop::option::of(prop::sample::select(vec!["SEGV", "ABRT"]));
    (signal, prop::option::of(0..3u8)).prop_map(|(signal, dumpable)| {
        Upcall::Core(CoreUpcall {
            signal: signal.and_then(Signal::from_name),
            dumpable,
            limit: None,
            time: None,
        })
    })
}

fn condition() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "match.process.uid = [0, 1]",
        "match.process.comm = \"a*\"",
        "match.process.exe = [\"*b\", \"a\"]",
        "match.process.kernel_thread = false",
        "match.process.user_namespace = \"container\"",
        "match.process.user_namespace = [\"initial\", \"other\"]",
        "match.container.runtime = [\"runc\", \"crun\"]",
        "match.container.name = \"?\"",
        "match.container.label.a = \"*\"",
        "match.pod.namespace = \"a\"",
        "match.pod.label.b = [\"a\", \"b\"]",
        "match.core.signal = \"SEGV\"",
        "match.core.dumpable = 1",
    ])
}

const GRANTS: [&str; 4] = [
    "store = {}",
    "pass = {}",
    "run = { in = \"container\", command = [\"/x\", \"{pid}\"] }",
    "run = { in = \"container\", command = [\"/x\"], user = \"origin\", without_user_namespace = true, trusted_container = true }",
];
const DENIES: &str = "deny = { reason = \"no\" }";

fn rule(
    owner: impl Strategy<Value = bool>,
    denies: impl Strategy<Value = bool>,
) -> impl Strategy<Value = String> {
    let conditions = prop::collection::btree_set(condition(), 0..4);
    (conditions, owner, denies, prop::sample::select(&GRANTS[..])).prop_map(
        |(mut conditions, owner, denies, grant)| {
            // The same key cannot be written twice.
            if conditions.contains("match.process.user_namespace = \"container\"") {
                conditions.remove("match.process.user_namespace = [\"initial\", \"other\"]");
            }
            let conditions: Vec<_> = conditions.into_iter().collect();
            let owner = if owner {
                "match.container.owner = [0, 1000]"
            } else {
                ""
            };
            let action = if denies { DENIES } else { grant };
            format!(
                "[[rule]]\nupcall = \"core\"\n{}\n{owner}\n{action}\n",
                conditions.join("\n")
            )
        },
    )
}

fn any_rule() -> impl Strategy<Value = String> {
    rule(any::<bool>(), any::<bool>())
}

fn rules(rule: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(rule, 0..7)
}

fn decided(rules: &[String], upcall: &Upcall, facts: &Facts) -> Decision {
    decide(&policy(&rules.concat()), upcall, facts, "r")
}

/// Whether a rule takes it when it stands alone.
fn takes(rule: &str, upcall: &Upcall, facts: &Facts) -> bool {
    decide(&policy(rule), upcall, facts, "r").rule.is_some()
}

fn denied(decision: &Decision) -> bool {
    matches!(decision.verdict, Verdict::Deny(_))
}

/// Verdicts without the place of the rule, which refusals cite.
fn same(a: &Verdict, b: &Verdict) -> bool {
    match (a, b) {
        (Verdict::Deny(a), Verdict::Deny(b)) => a == b,
        (Verdict::Do(a), Verdict::Do(b)) => {
            let reason =
                |plan: &upcall_config::plan::Plan| plan.refused().first().map(|r| r.reason);
            (a.run(), a.store(), a.pass(), reason(a)) == (b.run(), b.store(), b.pass(), reason(b))
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_first_rule_that_takes_it_alone_decides(rules in rules(any_rule()), upcall in upcall(), facts in facts()) {
        let first = rules.iter().position(|rule| takes(rule, &upcall, &facts));
        prop_assert_eq!(decided(&rules, &upcall, &facts).rule, first);
    }

    #[test]
    fn a_rule_after_the_one_that_decides_changes_nothing(
        rules in rules(any_rule()), more in any_rule(), at in 0..8usize, upcall in upcall(), facts in facts()
    ) {
        let before = decided(&rules, &upcall, &facts);
        let Some(decides) = before.rule else { return Ok(()) };
        let mut longer = rules;
        longer.insert((decides + 1 + at).min(longer.len()), more);
        let after = decided(&longer, &upcall, &facts);
        prop_assert_eq!((&after.verdict, after.rule, after.trace), (&before.verdict, before.rule, before.trace));
    }

    #[test]
    fn the_order_of_rules_that_do_not_match_does_not_matter(
        rules in rules(any_rule()).prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        upcall in upcall(), facts in facts()
    ) {
        let (rules, shuffled) = rules;
        // Those that match keep their order; the others go wherever the shuffle put them.
        let mut matching = rules.iter().filter(|rule| takes(rule, &upcall, &facts));
        let mixed: Vec<_> = shuffled.iter().map(|rule| {
            if takes(rule, &upcall, &facts) { matching.next().unwrap().clone() } else { rule.clone() }
        }).collect();
        let (one, other) = (decided(&rules, &upcall, &facts), decided(&mixed, &upcall, &facts));
        prop_assert_eq!(one.rule.map(|r| &rules[r]), other.rule.map(|r| &mixed[r]));
        prop_assert!(same(&one.verdict, &other.verdict));
    }

    #[test]
    fn the_unknown_never_grants(rule in rule(any::<bool>(), Just(false)), upcall in upcall(), facts in facts()) {
        let decision = decided(std::slice::from_ref(&rule), &upcall, &facts);
        if let Some(step) = decision.trace.steps().iter().find(|step| step.result == Truth::Unknown) {
            prop_assert_eq!(decision.rule, None, "{} took {:?}", rule, step);
        }
    }

    #[test]
    fn to_know_less_never_grants_more(rule in rule(any::<bool>(), Just(false)), upcall in upcall(), facts in facts()) {
        let mut less = facts.clone();
        less.process = ProcessFacts::default();
        if let Some(container) = &mut less.container {
            container.name = None;
            container.labels = None;
        }
        if takes(&rule, &upcall, &less) {
            prop_assert!(takes(&rule, &upcall, &facts), "{}", rule);
        }
    }

    #[test]
    fn to_know_less_never_denies_less(rule in rule(any::<bool>(), Just(true)), upcall in upcall(), facts in facts()) {
        let mut less = facts.clone();
        less.process = ProcessFacts::default();
        if let Some(container) = &mut less.container {
            container.name = None;
            container.labels = None;
        }
        if takes(&rule, &upcall, &facts) {
            prop_assert!(takes(&rule, &upcall, &less), "{}", rule);
        }
    }

    #[test]
    fn a_rootless_container_is_entered_only_by_rules_that_name_an_owner(
        rules in rules(rule(Just(false), any::<bool>())), upcall in upcall(), facts in facts()
    ) {
        let mut facts = facts;
        if let Some(container) = &mut facts.container {
            container.owner = 1000;
        }
        if let Verdict::Do(plan) = decided(&rules, &upcall, &facts).verdict {
            prop_assert!(plan.run().is_none_or(|run| run.place() == Place::Host));
        }
    }

    #[test]
    fn to_rules_that_grant_and_name_no_owner_a_rootless_container_is_none(
        rules in rules(rule(Just(false), Just(false))), upcall in upcall(), facts in facts()
    ) {
        let mut rootless = facts;
        if let Some(container) = &mut rootless.container {
            container.owner = 1000;
        }
        let mut none = rootless.clone();
        if none.container.take().is_some() && none.process.user_namespace == Some(UserNamespace::Container) {
            none.process.user_namespace = Some(UserNamespace::Other);
        }
        let (one, other) = (decided(&rules, &upcall, &rootless), decided(&rules, &upcall, &none));
        prop_assert_eq!(one.rule, other.rule);
        prop_assert!(same(&one.verdict, &other.verdict));
    }

    #[test]
    fn a_claim_of_a_user_evades_no_denial(
        rule in rule(Just(false), Just(true)), upcall in upcall(), facts in facts(), claim in container()
    ) {
        // Without the claim: a namespace of nobody.
        let mut honest = facts;
        // Of one that was lost there is neither a container nor a claim.
        honest.host_only = honest.host_only.filter(|reason| !reason.hides_container());
        honest.container = None;
        honest.process.user_namespace = Some(UserNamespace::Other);
        let mut claimed = honest.clone();
        claimed.container = Some(ContainerFacts { owner: 1000, ..claim });
        claimed.process.user_namespace = Some(UserNamespace::Container);
        if takes(&rule, &upcall, &honest) {
            prop_assert!(takes(&rule, &upcall, &claimed), "{}", rule);
        }
    }

    #[test]
    fn nothing_runs_inside_when_it_is_host_only(rules in rules(any_rule()), upcall in upcall(), facts in facts()) {
        let decision = decided(&rules, &upcall, &facts);
        let Verdict::Do(plan) = &decision.verdict else { return Ok(()) };
        let inside = plan.run().is_some_and(|run| run.place() == Place::Container);
        if facts.host_only.is_some() {
            prop_assert!(!inside);
        }
        if inside {
            prop_assert!(facts.container.is_some());
            prop_assert!(plan.refused().is_empty());
        }
    }

    #[test]
    fn deciding_is_a_function(rules in rules(any_rule()), upcall in upcall(), facts in facts()) {
        let (one, other) = (decided(&rules, &upcall, &facts), decided(&rules, &upcall, &facts));
        prop_assert_eq!(denied(&one), denied(&other));
        prop_assert_eq!((one.verdict, one.rule, one.trace), (other.verdict, other.rule, other.trace));
    }
}
