//! What the policy said, as a record remembers it.

use upcall_config::field::Field;
use upcall_config::text::printable;
use upcalld::store::record::{Record, TraceStep};

use crate::look::Look;
use crate::row;
use crate::table::length;

/// The rules that were looked at and the one that matched.
pub(super) fn lines(record: &Record, look: &Look) -> Vec<String> {
    let verdict = &record.verdict;
    if verdict.actions.iter().any(|action| action == "self_test") {
        return vec!["none: no rule is asked about a self-test".to_owned()];
    }
    if record.reason.as_deref() == Some("forged") {
        return vec!["none: refused before any rule was looked at".to_owned()];
    }
    let misses: Vec<&TraceStep> = verdict
        .trace
        .iter()
        .filter(|step| step.key.is_some())
        .collect();
    let cited = |file: &str, line: u32| format!("{}:{line}", printable(row::file_name(file)));
    let widest = |width: &dyn Fn(&TraceStep) -> usize| {
        misses.iter().map(|step| width(step)).max().unwrap_or(0)
    };
    let rule_name = verdict
        .rule
        .as_ref()
        .map(|rule| cited(&rule.file, rule.line));
    let rule_width = widest(&|step| length(&cited(&step.file, step.line)))
        .max(rule_name.as_deref().map_or(0, length));
    let key_width = widest(&|step| length(step.key.as_deref().unwrap_or_default()));
    let is_width = widest(&|step| length(&is(step)));
    let mut lines: Vec<String> = misses
        .iter()
        .map(|step| {
            format!(
                "{} {:rule_width$}  {:key_width$} is {:is_width$}  wants {}",
                look.mark(&step.result),
                cited(&step.file, step.line),
                step.key.as_deref().unwrap_or_default(),
                is(step),
                wants(step),
            )
        })
        .collect();
    match (&verdict.rule, rule_name) {
        (Some(rule), Some(cited)) => {
            let name = rule.name.as_ref().map(|name| format!("\"{name}\""));
            let denied = verdict.actions.iter().any(|action| action == "deny");
            let denied = record
                .message
                .as_ref()
                .filter(|_| denied)
                .map(|reason| format!("deny, \"{reason}\""));
            let text: Vec<String> = name.into_iter().chain(denied).collect();
            let line = format!(
                "{} {cited:rule_width$}  {}",
                look.mark("yes"),
                text.join(": ")
            );
            lines.push(line.trim_end().to_owned());
        }
        _ => lines.push("no rule matches: pass".to_owned()),
    }
    if let Some(host_only) = &verdict.host_only {
        lines.push(format!(
            "nothing may run in a container for it: {host_only}"
        ));
    }
    lines
}

/// What was found. A record has values without quotes; what is text is known by its key.
fn is(step: &TraceStep) -> String {
    match (&step.is, step.result.as_str()) {
        (Some(value), _) => quoted(step, value),
        (None, "unknown") => "unknown".to_owned(),
        (None, _) => "none".to_owned(),
    }
}

fn wants(step: &TraceStep) -> String {
    match step.wants.as_slice() {
        [] => "any".to_owned(),
        [one] => quoted(step, one),
        more => {
            let more: Vec<String> = more.iter().map(|value| quoted(step, value)).collect();
            format!("one of {}", more.join(", "))
        }
    }
}

fn quoted(step: &TraceStep, value: &str) -> String {
    let words = [
        Field::ProcessUid,
        Field::ProcessKernelThread,
        Field::Container,
        Field::ContainerOwner,
        Field::Pod,
        Field::CoreSignal,
        Field::CoreDumpable,
        Field::KeyCaller,
    ];
    let key = step.key.as_deref().unwrap_or_default();
    if words.iter().any(|field| field.key() == key) {
        value.to_owned()
    } else {
        format!("\"{value}\"")
    }
}
