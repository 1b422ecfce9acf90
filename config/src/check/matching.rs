//! `match`: what must hold.

use std::ops::RangeInclusive;

use super::table::{Item, Value};
use super::{Report, value};
use crate::diagnostic::Code;
use crate::facts::{Runtime, UserNamespace};
use crate::field::{Field, Shape};
use crate::keys::{MAX_COSTLY, Words};
use crate::keytype::Caller;
use crate::pattern::Pattern;
use crate::rule::{Condition, Test};
use crate::upcall::{Kind, Signal};

/// Most labels that one rule may name.
const MAX_LABELS: usize = 64;

/// All conditions that could be read, in the order in which they are looked at.
pub(super) fn conditions(
    report: &mut Report,
    item: &Item<'_>,
    kind: Kind,
    costly: &mut usize,
) -> Vec<Condition> {
    let Some(table) = item.rule_table(report) else {
        return Vec::new();
    };
    let mut conditions = Vec::new();
    for name in ["process", "container", "pod", "core", "key"] {
        let Some(item) = table.item(name) else {
            continue;
        };
        let fields = || {
            Field::ALL
                .into_iter()
                .filter(move |field| field.table() == name)
        };
        if let Some(only) = fields()
            .find_map(Field::only_in)
            .filter(|only| *only != kind)
        {
            other_kind(report, &item, only, kind);
            continue;
        }
        let Some(inner) = item.rule_table(report) else {
            continue;
        };
        let before = conditions.len();
        for field in fields() {
            if let Some(item) = inner.item(field.word()) {
                read(report, field, &item, &mut conditions);
            }
        }
        // To be there is a condition of its own only where nothing more is asked.
        let presence = fields().find(|field| field.shape() == Shape::Presence);
        if let Some(field) = presence.filter(|_| conditions.len() == before) {
            conditions.push(plain(field, Test::Present, &item));
        }
    }
    for (name, field, only) in [
        ("module", Field::Module, Kind::Module),
        ("umh", Field::Umh, Kind::Umh),
    ] {
        match table.item(name) {
            Some(item) if kind == only => read(report, field, &item, &mut conditions),
            Some(item) => other_kind(report, &item, only, kind),
            None => {}
        }
    }
    bound_patterns(report, item, &conditions, costly);
    conditions
}

fn other_kind(report: &mut Report, item: &Item<'_>, only: Kind, kind: Kind) {
    let message = format!("`{}` goes with `upcall = \"{only}\"` only", item.name);
    let label = format!("this rule is for {kind}");
    report.mistake(Code::WrongKind, item.key.clone(), message, label);
}

fn plain(field: Field, test: Test, item: &Item<'_>) -> Condition {
    Condition {
        field,
        label: None,
        test,
        span: item.key.clone(),
    }
}

fn read(report: &mut Report, field: Field, item: &Item<'_>, conditions: &mut Vec<Condition>) {
    let test = match field.shape() {
        Shape::Presence => Some(Test::Present),
        Shape::Numbers(most) => item
            .one_or_more(report, |report, value| numbers(report, item, value, most))
            .map(Test::Numbers),
        Shape::Globs => globs(report, item).map(Test::Text),
        Shape::Runtimes => words(
            report,
            item,
            "a runtime",
            Words::Runtimes,
            Runtime::from_word,
        )
        .map(Test::Runtimes),
        Shape::UserNamespaces => {
            let what = "a user namespace";
            words(
                report,
                item,
                what,
                Words::UserNamespaces,
                UserNamespace::from_word,
            )
            .map(Test::UserNamespaces)
        }
        Shape::Signals => item
            .one_or_more(report, |r, v| signal(r, item, v))
            .map(Test::Signals),
        Shape::Callers => {
            let what = "a caller";
            words(report, item, what, Words::Callers, Caller::from_word).map(Test::Callers)
        }
        Shape::Flag => item
            .one_or_more(report, |r, v| item.flag_of(r, v))
            .map(Test::Flags),
        Shape::Labels => {
            labels(report, field, item, conditions);
            return;
        }
    };
    conditions.extend(test.map(|test| plain(field, test, item)));
}

fn words<T>(
    report: &mut Report,
    item: &Item<'_>,
    what: &str,
    known: Words,
    find: impl Fn(&str) -> Option<T>,
) -> Option<Vec<T>> {
    let known = known.list();
    item.one_or_more(report, |report, value| {
        item.word_of(report, value, what, &known, &find)
    })
}

fn numbers(
    report: &mut Report,
    item: &Item<'_>,
    value: &Value<'_>,
    most: u32,
) -> Option<RangeInclusive<u32>> {
    let range = if let Some(text) = value.get_ref().as_str() {
        match value::range(text) {
            Ok(range) => range,
            Err(help) => {
                let message = format!("`{text}` is not a range of numbers");
                report.mistake(Code::BadRange, value.span(), message, help);
                return None;
            }
        }
    } else {
        let number = item.integer_of(report, value)?;
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        number..=number
    };
    if *range.end() > most || range.start() > range.end() {
        let message = format!("`{}` is a number from 0 to {most}", item.name);
        report.mistake(Code::BadRange, value.span(), message, "outside of that");
        return None;
    }
    Some(range)
}

fn signal(report: &mut Report, item: &Item<'_>, value: &Value<'_>) -> Option<Signal> {
    if let Some(signal) = value
        .get_ref()
        .as_integer()
        .and_then(|n| n.as_str().parse().ok())
    {
        let help = Signal::from_number(signal).map_or("write its name".to_owned(), |signal| {
            format!("write \"{signal}\"")
        });
        let message = "signals are named, because their numbers differ between machines";
        report.mistake(Code::WrongType, value.span(), message, help);
        return None;
    }
    let word = item.text_of(report, value)?;
    let found = Signal::from_name(word);
    if found.is_none() {
        let known: Vec<_> = Signal::names().collect();
        // People also write `SIGSEGV`, as in C.
        let upper = word.to_uppercase();
        let short = upper
            .strip_prefix("SIG")
            .filter(|short| known.contains(short));
        let message = format!("`{word}` is not a signal");
        let word = short.unwrap_or(word);
        report.unknown_word(Code::UnknownValue, value.span(), message, word, &known);
    }
    found
}

fn globs(report: &mut Report, item: &Item<'_>) -> Option<Vec<Pattern>> {
    item.one_or_more(report, |report, value| {
        let text = item.text_of(report, value)?;
        match Pattern::new(text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let message = format!("`{text}` is not a pattern");
                report.mistake(Code::BadGlob, value.span(), message, error.to_string());
                None
            }
        }
    })
}

fn labels(report: &mut Report, field: Field, item: &Item<'_>, conditions: &mut Vec<Condition>) {
    let Some(entries) = item.table(report) else {
        return;
    };
    if entries.is_empty() || entries.len() > MAX_LABELS {
        let message = format!("`{}` names {} labels", item.name, entries.len());
        let label = format!("name 1 to {MAX_LABELS}, or leave the key out");
        report.mistake(Code::BadRange, item.value.span(), message, label);
        return;
    }
    for (key, value) in entries {
        let item = Item {
            name: format!("{}.{}", item.name, key.get_ref()),
            key: key.span(),
            value,
        };
        if key.get_ref().contains('\0') {
            let message = format!("a key of `{}` holds a zero byte", item.name);
            report.mistake(Code::NulByte, item.key.clone(), message, "");
            continue;
        }
        // `label.app.kubernetes = "x"` is two tables to TOML.
        if value.get_ref().is_table() {
            let message = format!("`{}` is a table, and a label is a text", item.name);
            let help = "put quotes around a label's key that holds a point";
            report.mistake_with_help(Code::WrongType, item.key.clone(), message, help);
            continue;
        }
        if let Some(patterns) = globs(report, &item) {
            conditions.push(Condition {
                field,
                label: Some(key.get_ref().as_ref().into()),
                test: Test::Text(patterns),
                span: item.key,
            });
        }
    }
}

fn bound_patterns(
    report: &mut Report,
    item: &Item<'_>,
    conditions: &[Condition],
    costly: &mut usize,
) {
    let before = *costly;
    for condition in conditions {
        if let Test::Text(patterns) = &condition.test {
            *costly += patterns
                .iter()
                .filter(|pattern| pattern.is_costly())
                .count();
        }
    }
    if before <= MAX_COSTLY && *costly > MAX_COSTLY {
        let message = format!("more than {MAX_COSTLY} patterns with `?`, `[` or several `*`");
        report.mistake(
            Code::BadRange,
            item.key.clone(),
            message,
            "the one too many is here",
        );
    }
}
