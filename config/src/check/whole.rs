//! What can only be said about all rules together. Warnings, all of them: the policy does what it says.

use std::collections::HashMap;

use super::listed;
use crate::diagnostic::{Code, Diagnostic, Label};
use crate::explain;
use crate::facts::Runtime;
use crate::field::Field;
use crate::rule::{Condition, Declared, Rule, Test};

/// Two rules with one name: messages would not say which is meant.
pub(super) fn duplicate_names(rules: &[Rule]) -> Vec<Diagnostic> {
    let mut first: HashMap<&str, &Label> = HashMap::new();
    let mut diagnostics = Vec::new();
    for rule in rules {
        let (Some(name), Some(place)) = (rule.source.name.as_deref(), &rule.name_place) else {
            continue;
        };
        if let Some(other) = first.get(name) {
            let message = format!("a second rule is named `{name}`");
            diagnostics.push(
                Diagnostic::at(Code::DuplicateName, message, place.saying(""))
                    .with(other.saying("the first"))
                    .help("give each rule a name of its own, because messages cite it"),
            );
        } else {
            first.insert(name, place);
        }
    }
    diagnostics
}

/// Two containers with one name: rules could not tell them apart.
pub(super) fn duplicate_containers(containers: &[Declared]) -> Vec<Diagnostic> {
    let mut first: HashMap<&str, &Label> = HashMap::new();
    let mut diagnostics = Vec::new();
    for container in containers {
        if let Some(other) = first.get(container.name()) {
            let message = format!("a second container is named `{}`", container.name());
            diagnostics.push(
                Diagnostic::at(Code::DuplicateName, message, container.place.saying(""))
                    .with(other.saying("the first")),
            );
        } else {
            first.insert(container.name(), &container.place);
        }
    }
    diagnostics
}

/// Rules that can never be the first to match.
pub(super) fn unreachable(rules: &[Rule]) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    for (position, later) in rules.iter().enumerate() {
        let earlier = rules
            .iter()
            .take(position)
            .find(|earlier| takes_all_of(earlier, later));
        if let Some(earlier) = earlier {
            let here = later.place.saying("... this could match");
            let there = "first match wins: this takes every upcall that ...";
            diagnostics.push(
                Diagnostic::at(Code::UnreachableRule, "this rule is never reached", here)
                    .with(earlier.place.saying(there)),
            );
        }
    }
    diagnostics
}

/// Whether the earlier rule provably takes every upcall that the later one could match.
///
/// Every condition of the earlier one must follow from one of the later's. For two rules that grant that is enough,
/// if they see the same containers: what the later one matches is known, so it is known to the earlier one. A rule
/// that denies also matches what is unknown; so an earlier one that grants takes all of it only if it asks nothing,
/// while an earlier one that denies takes what is unknown just the same.
fn takes_all_of(earlier: &Rule, later: &Rule) -> bool {
    if earlier.kind != later.kind {
        return false;
    }
    if later.denies() && !earlier.denies() && !earlier.conditions.is_empty() {
        return false;
    }
    let sees_less =
        !earlier.denies() && !earlier.names_owner && (later.names_owner || later.denies());
    earlier.conditions.iter().all(|wanted| {
        let of_container =
            wanted.field.is_of_container() || wanted.field == Field::ProcessUserNamespace;
        !(of_container && sees_less) && later.conditions.iter().any(|given| follows(given, wanted))
    })
}

/// Whether `wanted` holds wherever `given` does.
fn follows(given: &Condition, wanted: &Condition) -> bool {
    match (wanted.field, &wanted.test) {
        (Field::Container, _) => given.field.is_of_container(),
        (Field::Pod, _) => given.field.table() == "pod",
        _ => {
            given.field == wanted.field
                && given.label == wanted.label
                && is_within(&given.test, &wanted.test)
        }
    }
}

fn is_within(inner: &Test, outer: &Test) -> bool {
    fn all_in<T: PartialEq>(inner: &[T], outer: &[T]) -> bool {
        inner.iter().all(|value| outer.contains(value))
    }
    match (inner, outer) {
        (Test::Present, Test::Present) => true,
        (Test::Numbers(inner), Test::Numbers(outer)) => inner.iter().all(|i| {
            outer
                .iter()
                .any(|o| o.contains(i.start()) && o.contains(i.end()))
        }),
        (Test::Text(inner), Test::Text(outer)) => {
            inner.iter().all(|i| outer.iter().any(|o| i.is_within(o)))
        }
        (Test::Runtimes(inner), Test::Runtimes(outer)) => all_in(inner, outer),
        (Test::UserNamespaces(inner), Test::UserNamespaces(outer)) => all_in(inner, outer),
        (Test::Signals(inner), Test::Signals(outer)) => all_in(inner, outer),
        (Test::Callers(inner), Test::Callers(outer)) => all_in(inner, outer),
        (Test::Flags(inner), Test::Flags(outer)) => all_in(inner, outer),
        _ => false,
    }
}

/// Rules that look at labels which a runtime they name keeps nowhere on disk.
pub(super) fn unknown_labels(rules: &[Rule]) -> Vec<Diagnostic> {
    let of = |rule| {
        [Field::ContainerLabel, Field::PodLabel]
            .into_iter()
            .filter_map(move |field| unknown_label(rule, field))
    };
    rules.iter().flat_map(of).collect()
}

fn unknown_label(rule: &Rule, field: Field) -> Option<Diagnostic> {
    let label = rule
        .conditions
        .iter()
        .find(|condition| condition.field == field)?;
    let runtimes = rule.conditions.iter().find_map(|condition| {
        if let Test::Runtimes(list) = &condition.test {
            Some(list)
        } else {
            None
        }
    });
    let without: Vec<Runtime> = runtimes?
        .iter()
        .copied()
        .filter(|runtime| runtime.keeps_no(field))
        .collect();
    let first = without.first()?;
    let effect = if rule.denies() {
        "so this rule denies there, whatever they are"
    } else {
        "so this rule never matches there"
    };
    let names: Vec<_> = without.iter().map(|runtime| runtime.as_str()).collect();
    let message = format!(
        "`{}` is unknown in containers of {}",
        label.key(),
        listed(&names)
    );
    let place = Label {
        span: label.span.clone(),
        ..rule.place.saying(effect)
    };
    let diagnostic = Diagnostic::at(Code::LabelUnknown, message, place);
    Some(match explain::hint(field, *first) {
        Some(hint) => diagnostic.help(hint),
        None => diagnostic,
    })
}
