//! `unreachable-rule`: said only where no upcall can ever reach the rule.

use upcall_config::diagnostic::Code;
use upcall_config::file::load_texts;

use crate::given::{denies, keeps};

fn unreachable(earlier: &str, later: &str) -> bool {
    let text = format!("{earlier}{later}");
    let loaded = load_texts(None, &[("/50.toml".as_ref(), &text)]);
    assert_eq!(loaded.errors(), 0, "{text}");
    loaded
        .diagnostics
        .iter()
        .any(|d| d.code() == Code::UnreachableRule)
}

#[test]
fn a_wider_rule_hides_a_narrower_one() {
    for (wide, narrow) in [
        ("", ""),
        ("", "match.core.signal = \"SEGV\""),
        ("match.container = {}", "match.container.name = \"a\""),
        ("match.container = {}", "match.pod.name = \"a\""),
        ("match.pod = {}", "match.pod.name = \"a\""),
        (
            "match.process.uid = [1, \"10-20\"]",
            "match.process.uid = [\"11-12\", 1]",
        ),
        (
            "match.process.exe = [\"/usr/*\", \"x\"]",
            "match.process.exe = [\"x\", \"/usr/bin/[ab]\"]",
        ),
        (
            "match.container.label.a = \"*\"",
            "match.container.label = { a = \"x\", b = \"y\" }",
        ),
        (
            "match.container.runtime = [\"runc\", \"crun\"]",
            "match.container.runtime = \"crun\"",
        ),
        (
            "match.process.user_namespace = [\"other\", \"initial\"]",
            "match.process.user_namespace = \"other\"",
        ),
        (
            "match.process.kernel_thread = [true, false]",
            "match.process.kernel_thread = true",
        ),
        (
            "match.container.owner = \"0-9\"",
            "match.container = { owner = 5, name = \"x\" }",
        ),
    ] {
        assert!(
            unreachable(&keeps(wide), &keeps(narrow)),
            "{wide} hides {narrow}"
        );
        assert!(
            unreachable(&denies(wide), &keeps(narrow)),
            "denied {wide} hides {narrow}"
        );
        assert!(
            unreachable(&denies(wide), &denies(narrow)),
            "denied {wide} hides denied {narrow}"
        );
    }
}

#[test]
fn a_rule_that_something_can_reach_is_not_called_unreachable() {
    for (earlier, later) in [
        ("match.core.signal = \"SEGV\"", ""),
        (
            "match.core.signal = \"SEGV\"",
            "match.core.signal = [\"SEGV\", \"BUS\"]",
        ),
        ("match.container = {}", "match.process.uid = 0"),
        ("match.pod = {}", "match.container.name = \"a\""),
        (
            "match.process.exe = \"/usr/b*\"",
            "match.process.exe = \"/usr/*\"",
        ),
        (
            "match.container.label.a = \"*\"",
            "match.container.label.b = \"*\"",
        ),
        (
            "match.container.label.a = \"*\"",
            "match.pod.label.a = \"*\"",
        ),
        ("match.container.owner = 0", "match.container = {}"),
    ] {
        assert!(
            !unreachable(&keeps(earlier), &keeps(later)),
            "{earlier} and {later}"
        );
    }
}

#[test]
fn a_denial_matches_what_is_unknown_and_so_reaches_past_a_rule_that_grants() {
    let (wide, narrow) = ("match.container = {}", "match.container.name = \"a\"");
    assert!(
        !unreachable(&keeps(wide), &denies(narrow)),
        "it also sees rootless containers"
    );
    let (wide, narrow) = (
        "match.process.exe = \"/usr/*\"",
        "match.process.exe = \"/usr/a\"",
    );
    assert!(
        !unreachable(&keeps(wide), &denies(narrow)),
        "it also matches an unknown exe"
    );
    assert!(unreachable(&keeps(""), &denies(narrow)));
}

#[test]
fn a_rule_that_names_the_owner_sees_containers_that_others_do_not() {
    let wide = "match.container = {}";
    let narrow = "match.container = { owner = 1000, name = \"a\" }";
    assert!(!unreachable(&keeps(wide), &keeps(narrow)));
    assert!(unreachable(&denies(wide), &keeps(narrow)));
    let wide = "match.process.user_namespace = \"container\"";
    let narrow = "match = { process.user_namespace = \"container\", container.owner = 1000 }";
    assert!(!unreachable(&keeps(wide), &keeps(narrow)));
}

#[test]
fn rules_that_are_far_apart_are_both_shown_with_their_lines() {
    let between = "# nothing\n".repeat(100_000);
    let text = format!("{}{between}{}", keeps(""), keeps("match.container = {}"));
    let loaded = load_texts(None, &[("/50.toml".as_ref(), &text)]);
    let shown = loaded.diagnostics[0].render(false);
    assert!(shown.contains("--> /50.toml:100007:1\n"), "{shown}");
    assert!(shown.contains("/50.toml:1:1\n"), "{shown}");
    assert!(shown.lines().count() < 20, "{shown}");
}
