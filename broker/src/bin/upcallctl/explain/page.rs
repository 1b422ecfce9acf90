//! An explanation as people see it.

use upcalld::explain::{Check, ConditionText, Explanation, KeyText, RuleText};

use super::Policy;
use crate::format;
use crate::look::{Look, Paint};
use crate::row;
use crate::show::container_line;
use crate::table::length;

/// The whole of it.
pub(super) fn text(explanation: &Explanation, policy: Policy, look: &Look) -> String {
    let mut lines = vec![
        headed("process", &subject(explanation, look), look),
        headed("policy", &policy_text(explanation, policy), look),
        headed("checks", &checks(explanation, look), look),
    ];
    if let Some(key) = &explanation.key {
        lines.insert(1, headed("key", &wanted(key), look));
    }
    if let Some(module) = &explanation.module {
        lines.insert(1, headed("module", &row::module_line(module), look));
    }
    if let Some(umh) = &explanation.umh {
        lines.insert(1, headed("helper", &umh.name, look));
    }
    let refused = &explanation.refused_nominees;
    lines.extend(
        refused
            .iter()
            .map(|refused| headed("", &format!("refused: {refused}"), look)),
    );
    let taken = &explanation.taken_for;
    lines.extend(
        taken
            .iter()
            .map(|taken| headed("", &format!("note: {taken}"), look)),
    );
    lines.extend(rules(explanation, look));
    lines.extend(plan(explanation, look));
    lines.push("nothing was run".to_owned());
    lines.join("\n") + "\n"
}

fn headed(heading: &str, text: &str, look: &Look) -> String {
    format!(
        "{}{text}",
        look.paint(Paint::Head, &format!("{heading:12}"))
    )
}

fn subject(explanation: &Explanation, look: &Look) -> String {
    let process = &explanation.process;
    let number = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let inside = process
        .uid_inside
        .map(|inside| format!(" ({inside} inside)"));
    let container = match &explanation.container {
        Some(container) => format!("container {}", container_line(container, look)),
        None => "in no registered container".to_owned(),
    };
    let record = explanation
        .record
        .as_ref()
        .map(|id| format!("; as record {id} has it"));
    format!(
        "{} {}, uid {}{}; {container}{}",
        number(process.pid),
        process.comm.as_deref().unwrap_or("?"),
        number(process.uid),
        inside.unwrap_or_default(),
        record.unwrap_or_default(),
    )
}

fn wanted(key: &KeyText) -> String {
    let callout = key.callout.as_deref();
    row::key_line(&key.kind, &key.description, callout, &key.caller)
}

fn policy_text(explanation: &Explanation, policy: Policy) -> String {
    let (files, whose) = match policy {
        Policy::Loaded {
            files,
            unchanged: true,
        } => (files, "as upcalld has them loaded (unchanged on disk)"),
        Policy::Loaded {
            files,
            unchanged: false,
        } => (
            files,
            "as upcalld has them loaded; those on disk are others (upcallctl reload)",
        ),
        Policy::Disk { files } => (files, "from disk: upcalld does not run"),
    };
    let rules = format::count(explanation.rules_loaded, "rule");
    let files = format::count(files, "file");
    let others = match explanation.other_kinds {
        0 => String::new(),
        others => format!("; {others} are for other kinds"),
    };
    format!("{rules} from {files}, {whose}{others}")
}

fn checks(explanation: &Explanation, look: &Look) -> String {
    let check = |check: &Check| {
        let why = check.why.as_ref().map(|why| format!(" ({why})"));
        format!(
            "{} {}{}",
            look.mark(&check.result),
            check.name,
            why.unwrap_or_default()
        )
    };
    let checks: Vec<String> = explanation.checks.iter().map(check).collect();
    if explanation.module.is_some() || explanation.umh.is_some() {
        let checks = checks.join("  ");
        let done = explanation.module.as_ref().map_or("run", |_| "loaded");
        return format!("{checks}: {done} or refused on the host, never inside");
    }
    let inside = explanation.container.is_some() && explanation.host_only.is_none();
    let so = if inside {
        "may be handled inside"
    } else {
        "on the host only"
    };
    format!("{}: {so}", checks.join("  "))
}

/// The widths that all rules' lines share.
struct Widths {
    rule: usize,
    key: usize,
    is: usize,
    wants: usize,
}

fn rules(explanation: &Explanation, look: &Look) -> Vec<String> {
    let conditions = || explanation.rules.iter().flat_map(|rule| &rule.conditions);
    let widest = |width: fn(&ConditionText) -> usize| conditions().map(width).max().unwrap_or(0);
    let widths = Widths {
        rule: explanation
            .rules
            .iter()
            .map(|rule| length(&rule.rule))
            .max()
            .unwrap_or(0),
        key: widest(|condition| length(&condition.key)),
        is: widest(|condition| length(&condition.is)),
        wants: widest(|condition| length(&wants(condition))),
    };
    let mut lines = Vec::new();
    let mut taken = false;
    for rule in &explanation.rules {
        lines.extend(rule_lines(rule, &widths, look));
        if rule.takes && !taken {
            taken = true;
            lines.extend(after_match(explanation, rule));
        }
    }
    if let Some(why) = &explanation.refused {
        lines.push(format!("  refused before any rule is looked at: {why}"));
    } else if !taken {
        lines.push("  no rule matches: pass".to_owned());
    }
    lines
}

fn rule_lines(rule: &RuleText, widths: &Widths, look: &Look) -> Vec<String> {
    let name = rule.name.as_ref().map(|name| format!("\"{name}\""));
    let title = format!(
        "{} {:width$}    {}",
        look.mark(&rule.result),
        rule.rule,
        name.unwrap_or_default(),
        width = widths.rule
    );
    let mut lines = vec![title.trim_end().to_owned()];
    for condition in &rule.conditions {
        let hint = condition.hint.as_deref().unwrap_or_default();
        let line = format!(
            "    {} {:key$}   is  {:is$}   wants  {:wants$}    {hint}",
            look.mark(&condition.result),
            condition.key,
            condition.is,
            wants(condition),
            key = widths.key,
            is = widths.is,
            wants = widths.wants,
        );
        lines.push(line.trim_end().to_owned());
    }
    if rule.conditions.is_empty() {
        lines.push("    no conditions: it takes all of its kind".to_owned());
    }
    lines
}

fn wants(condition: &ConditionText) -> String {
    match condition.wants.as_slice() {
        [] => "any".to_owned(),
        [one] => one.clone(),
        more => format!("one of {}", more.join(", ")),
    }
}

/// What is said behind the rule that matches.
fn after_match(explanation: &Explanation, rule: &RuleText) -> Vec<String> {
    let mut lines = Vec::new();
    if rule.result == "unknown" {
        lines.push("  it denies, so what is unknown counts as a match".to_owned());
    }
    let is_last = explanation
        .rules
        .last()
        .is_some_and(|last| last.rule == rule.rule);
    match explanation.not_looked_at {
        0 if is_last => {}
        0 => lines.push("  first match wins: the rules below would not be looked at".to_owned()),
        1 => lines
            .push("  first match wins: 1 later rule was not looked at (--all looks)".to_owned()),
        more => lines.push(format!(
            "  first match wins: {more} later rules were not looked at (--all looks)"
        )),
    }
    lines
}

fn plan(explanation: &Explanation, look: &Look) -> Vec<String> {
    let plan = &explanation.plan.lines;
    let width = plan
        .iter()
        .map(|(word, _)| length(word))
        .filter(|w| *w <= 6)
        .max();
    let width = width.unwrap_or(0).max(5);
    let mut lines: Vec<String> = Vec::new();
    let (mut heading, mut former) = ("plan", "");
    for (word, text) in plan {
        if let ("limit", "on failure", Some(last)) = (former, word.as_str(), lines.last_mut()) {
            // Short, both, and about the same: when it does not come to what is said above.
            *last += &["          on failure  ", text].concat();
            continue;
        }
        // Where and as whom belongs to what runs.
        let shown = match word.as_str() {
            "in" | "as" => format!("  {word}"),
            other => other.to_owned(),
        };
        lines.push(headed(heading, &format!("{shown:width$}  {text}"), look));
        (heading, former) = ("", word);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given;
    use upcalld::explain;

    fn condition(
        key: &str,
        is: &str,
        wants: &[&str],
        result: &str,
        hint: Option<&str>,
    ) -> ConditionText {
        ConditionText {
            key: key.into(),
            is: is.into(),
            wants: wants.iter().map(|want| (*want).to_owned()).collect(),
            result: result.into(),
            hint: hint.map(str::to_owned),
        }
    }

    fn check(name: &str, result: &str, why: Option<&str>) -> Check {
        Check {
            name: name.into(),
            result: result.into(),
            why: why.map(str::to_owned),
        }
    }

    fn rule(rule: &str, name: &str, result: &str, conditions: Vec<ConditionText>) -> RuleText {
        RuleText {
            rule: rule.into(),
            name: Some(name.into()).filter(|name: &String| !name.is_empty()),
            result: result.into(),
            takes: result == "yes",
            conditions,
        }
    }

    fn shop() -> Explanation {
        let record = given::shop();
        let lines = [
            (
                "run",
                "/usr/local/bin/on-crash \"7\" \"SEGV\" \"/usr/bin/shopd\"; stdin: the core; no progress for 30s ends it",
            ),
            (
                "in",
                "user mnt pid net ipc uts cgroup of leader 20391 (time is the host's), root /, cwd /, its cgroup's child upcall-ID",
            ),
            (
                "as",
                "33:33 (1245217:1245217 outside), its init's ids; 0 of 41 capabilities; no_new_privs; seccomp default",
            ),
            (
                "store",
                "/var/lib/upcalld/cores, at most 4GiB, core limit 0 ignored",
            ),
            ("limit", "10/min, 9 left; 2 at once, 0 running"),
            ("on failure", "store"),
        ];
        Explanation {
            schema: explain::SCHEMA.into(),
            version: 1,
            record: None,
            process: record.process,
            container: record.container,
            key: None,
            module: None,
            umh: None,
            refused: None,
            refused_nominees: Vec::new(),
            checks: vec![
                check("alive", "yes", None),
                check("registered", "yes", None),
                check("dumpable is 1", "yes", None),
                check("1245217:1245217 is mapped", "yes", None),
                check("did not come from outside", "yes", None),
            ],
            host_only: None,
            taken_for: Vec::new(),
            rules: vec![
                rule(
                    "10-host.toml:1",
                    "systemd's own crashes",
                    "no",
                    vec![condition(
                        "process.exe",
                        "\"/usr/bin/shopd\"",
                        &["\"/usr/lib/systemd/*\""],
                        "no",
                        None,
                    )],
                ),
                rule(
                    "50-shop.toml:1",
                    "shop: crashes go to the pod's own handler",
                    "unknown",
                    vec![
                        condition(
                            "container.runtime",
                            "\"containerd\"",
                            &["\"containerd\"", "\"cri-o\""],
                            "yes",
                            None,
                        ),
                        condition(
                            "pod.label.tier",
                            "unknown",
                            &["\"frontend\""],
                            "unknown",
                            Some("containerd keeps no pod labels on disk; match pod.name"),
                        ),
                    ],
                ),
                rule(
                    "50-shop.toml:12",
                    "shop: the rest",
                    "yes",
                    vec![
                        condition("pod.namespace", "\"shop\"", &["\"shop\""], "yes", None),
                        condition("core.signal", "SEGV", &["SEGV", "ABRT", "BUS"], "yes", None),
                    ],
                ),
            ],
            not_looked_at: 4,
            other_kinds: 10,
            rules_loaded: 17,
            plan: explain::PlanText {
                rule: Some("50-shop.toml:12".into()),
                lines: lines
                    .map(|(word, text)| (word.to_owned(), text.to_owned()))
                    .to_vec(),
            },
        }
    }

    const LOADED: Policy = Policy::Loaded {
        files: 6,
        unchanged: true,
    };

    #[test]
    fn a_process_in_a_pod() {
        insta::assert_snapshot!(text(&shop(), LOADED, &Look::given()));
    }

    #[test]
    fn without_utf8() {
        let look = Look {
            utf8: false,
            ..Look::given()
        };
        insta::assert_snapshot!(text(&shop(), LOADED, &look));
    }

    #[test]
    fn a_process_of_the_host_that_no_rule_takes() {
        let record = given::host();
        let mut explanation = shop();
        (explanation.process, explanation.container) = (record.process, None);
        explanation.checks = vec![
            check("alive", "yes", None),
            check(
                "registered",
                "no",
                Some("it lives in no container that root's state proves"),
            ),
            check("dumpable is 1", "unknown", None),
        ];
        explanation.taken_for = vec!["dumpable is taken to be 1".into()];
        explanation.refused_nominees = vec!["runc web: forged cgroup name".into()];
        explanation.rules.truncate(1);
        (explanation.not_looked_at, explanation.other_kinds) = (0, 0);
        explanation.plan = explain::PlanText {
            rule: None,
            lines: vec![(
                "pass".into(),
                "/usr/bin/handler, with its own arguments".into(),
            )],
        };
        let policy = Policy::Disk { files: 1 };
        insta::assert_snapshot!(text(&explanation, policy, &Look::given()));
    }

    #[test]
    fn all_rules_and_one_that_denies_what_is_unknown() {
        let mut explanation = shop();
        explanation.not_looked_at = 0;
        explanation.rules.swap(1, 2);
        let mut denies = rule("90-deny.toml:1", "", "unknown", vec![]);
        denies.takes = true;
        explanation.rules.push(denies);
        let policy = Policy::Loaded {
            files: 1,
            unchanged: false,
        };
        insta::assert_snapshot!(text(&explanation, policy, &Look::given()));
        explanation.rules.drain(..3);
        explanation.plan.lines = vec![("deny".into(), "\"not here\"".into())];
        insta::assert_snapshot!("denied", text(&explanation, policy, &Look::given()));
    }
}
