//! Rules for keys: what matches, what is done, what is refused.

use std::path::Path;
use std::time::Duration;

use upcall_config::decide::{Verdict, decide};
use upcall_config::facts::{Facts, Reason};
use upcall_config::file::load_texts;
use upcall_config::keytype::{Caller, KeyUpcall};
use upcall_config::plan::{Payload, Place, Plan};
use upcall_config::upcall::Upcall;

use crate::given::{in_container, on_host, policy};

fn key(kind: &str) -> KeyUpcall {
    KeyUpcall {
        serial: 77,
        kind: kind.as_bytes().to_vec(),
        description: b"host.example".to_vec(),
        callout: Some(b"srv=1\xff".to_vec()),
        caller: Caller::User,
    }
}

fn verdict(rules: &str, key: KeyUpcall, facts: &Facts) -> Verdict {
    decide(&policy(rules), &Upcall::Key(key), facts, "r").verdict
}

fn plan(rules: &str, kind: &str, facts: &Facts) -> Plan {
    match verdict(rules, key(kind), facts) {
        Verdict::Do(plan) => plan,
        Verdict::Deny(denial) => panic!("{denial:?}"),
    }
}

fn rule(lines: &str) -> String {
    format!("[[rule]]\nupcall = \"key\"\n{lines}\n")
}

#[test]
fn conditions_on_keys_hold_or_do_not() {
    let takes = |condition: &str, key: KeyUpcall| {
        let rules = rule(&format!("{condition}\nanswer = {{ payload = \"x\" }}"));
        matches!(verdict(&rules, key, &on_host()), Verdict::Do(plan) if plan.answer().is_some())
    };
    for (condition, holds) in [
        ("match.key = { type = [\"user\", \"dns_resolver\"] }", true),
        ("match.key = { type = \"user\" }", false),
        ("match.key = { description = \"*.example\" }", true),
        ("match.key = { description = \"*.example.org\" }", false),
        ("match.key = { callout = \"srv=1?\" }", true),
        ("match.key = { callout = \"\" }", false),
        ("match.key = { caller = \"user\" }", true),
        ("match.key = { caller = [\"kernel\"] }", false),
    ] {
        assert_eq!(takes(condition, key("dns_resolver")), holds, "{condition}");
    }
    let unread = KeyUpcall {
        callout: None,
        ..key("user")
    };
    assert!(!takes("match.key = { callout = \"*\" }", unread.clone()));
    let denies = rule("match.key = { callout = \"x\" }\ndeny = { reason = \"y\" }");
    assert!(matches!(
        verdict(&denies, unread, &on_host()),
        Verdict::Deny(_)
    ));
}

#[test]
fn nothing_that_matches_is_passed_on_and_cores_rules_are_for_cores() {
    let core = "[[rule]]\nupcall = \"core\"\ndeny = { reason = \"no\" }\n";
    assert!(plan(core, "user", &on_host()).pass());
}

#[test]
fn refusals_have_an_error_and_hold_for_a_while() {
    let denial = |deny: &str| match verdict(&rule(deny), key("user"), &on_host()) {
        Verdict::Deny(denial) => (denial.errno, denial.ttl),
        Verdict::Do(plan) => panic!("{plan:?}"),
    };
    let second = Duration::from_secs(1);
    assert_eq!(denial("deny = { reason = \"a\" }"), (13, second));
    assert_eq!(
        denial("deny = { reason = \"a\", errno = \"EKEYREVOKED\", ttl = \"5s\" }"),
        (128, 5 * second)
    );
}

#[test]
fn answers_are_the_admins() {
    let plan = plan(
        &rule("answer = { file = \"/etc/x\", ttl = \"1m\" }"),
        "user",
        &on_host(),
    );
    let answer = plan.answer().unwrap();
    assert_eq!(answer.payload(), &Payload::File(Path::new("/etc/x").into()));
    assert_eq!(answer.ttl(), Duration::from_mins(1));
    assert!(!plan.pass() && plan.run().is_none());
}

#[test]
fn whoever_could_answer_for_others_has_no_authority() {
    let inside = rule(
        "run = { in = \"container\", command = [\"/x\", \"{key}\", \"{type}:{description}\", \"{callout}\"] }",
    );
    for (kind, authority) in [
        ("user", true),
        ("cifs.spnego", true),
        ("dns_resolver", false),
    ] {
        let plan = plan(&inside, kind, &in_container());
        let run = plan.run().unwrap();
        assert_eq!(run.has_authority(), authority, "{kind}");
        assert_eq!(run.timeout(), Duration::from_secs(10));
        let words = ["/x", "77", &format!("{kind}:host.example")].map(|w| w.as_bytes().to_vec());
        assert_eq!(run.argv().get(..3), Some(words.as_slice()));
        assert_eq!(run.argv().get(3), Some(&b"srv=1\xff".to_vec()));
    }
    let beside = rule(
        "run = { in = \"host\", join = [\"net\"], command = [\"/x\"], files = [\"/etc/hosts\"] }",
    );
    let plan = plan(&beside, "dns_resolver", &in_container());
    let run = plan.run().unwrap();
    assert!(run.has_authority() && run.place() == Place::Beside);
    assert_eq!(run.files(), ["/etc/hosts"]);
}

#[test]
fn what_may_not_run_is_refused_or_passed_on() {
    for (place, more) in [
        ("in = \"container\"", ""),
        ("in = \"host\", join = [\"net\"]", ""),
        ("in = \"container\"", "on_failure = \"pass\""),
    ] {
        let rules = rule(&format!("run = {{ {place}, command = [\"/x\"] }}\n{more}"));
        let plan = plan(&rules, "user", &on_host());
        assert!(plan.run().is_none());
        let reason = plan.refused().first().map(|refusal| refusal.reason);
        assert_eq!(reason, Some(Reason::Unregistered));
        assert_eq!(plan.pass(), !more.is_empty());
        assert!(plan.store().is_none());
    }
}

#[test]
fn mistakes_are_shown() {
    for (lines, code) in [
        ("store = {}", "wrong-kind"),
        ("answer = {}", "missing-key"),
        ("answer = { payload = \"x\", file = \"/x\" }", "missing-key"),
        ("answer = { file = \"x\" }", "relative-path"),
        (
            "answer = { payload = \"x\", ttl = \"2s\" }\npass = {}",
            "conflicting-actions",
        ),
        (
            "deny = { reason = \"x\", errno = \"ENOKEY\" }",
            "unknown-value",
        ),
        ("deny = { reason = \"x\", ttl = \"1h\" }", "bad-range"),
        ("match.key.caller = \"forged\"\npass = {}", "unknown-value"),
        ("match.core.signal = \"SEGV\"\npass = {}", "wrong-kind"),
        (
            "run = { in = \"host\", command = [\"/x\"], timeout = \"10m\" }",
            "bad-range",
        ),
        (
            "run = { in = \"host\", command = [\"/x\"], files = [\"/etc/hosts\"] }",
            "missing-key",
        ),
        (
            "run = { in = \"host\", join = [\"pid\"], command = [\"/x\"] }",
            "unknown-value",
        ),
        (
            "run = { in = \"container\", join = [\"net\"], command = [\"/x\"] }",
            "wrong-place",
        ),
        (
            "run = { in = \"host\", join = [\"net\"], command = [\"/x\"], files = [\"/etc/shadow\"] }",
            "unknown-value",
        ),
        (
            "run = { in = \"host\", command = [\"/x\", \"{signal}\"] }",
            "unknown-placeholder",
        ),
        (
            "run = { in = \"host\", command = [\"/x\"] }\non_failure = \"store\"",
            "wrong-kind",
        ),
    ] {
        let text = rule(lines);
        let loaded = load_texts(None, &[(Path::new("/k.toml"), &text)]);
        let codes: Vec<_> = loaded
            .diagnostics
            .iter()
            .map(|diagnostic| diagnostic.plain().code.to_string())
            .collect();
        assert_eq!(codes, [code], "{lines}");
    }
}
