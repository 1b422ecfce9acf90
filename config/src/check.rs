//! From what was written to what is right: every mistake becomes a diagnostic, and checking goes on.
//!
//! The document is walked with its places, table by table, because a parser that stops at the first mistake would
//! make people fix a file one mistake at a time.

mod action;
mod container;
mod key;
mod matching;
mod placed;
mod program;
mod rule;
mod run;
mod settings;
mod table;
mod value;
mod whole;

pub(crate) use key::{ERRNO, FILES};

use std::ops::Range;
use std::sync::Arc;

use toml::de::DeTable;

use crate::diagnostic::{Code, Diagnostic, Label, Severity, Source};
use crate::keys::{MAX_CONTAINERS, MAX_RULES};
use crate::rule::{Declared, HostProgram, Policy, Rule};
use crate::{keys, suggest};

pub(crate) use settings::settings;

/// Most diagnostics of one severity for one file, and most warnings of one kind about all rules together.
const MAX_SHOWN: usize = 100;

/// The mistakes of one file.
#[derive(Debug)]
pub(crate) struct Report {
    source: Arc<Source>,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
}

impl Report {
    pub(crate) fn new(source: &Arc<Source>) -> Self {
        Self {
            source: Arc::clone(source),
            diagnostics: Vec::new(),
            errors: 0,
            warnings: 0,
        }
    }

    /// All that was found, cut to what a person can read.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        self.diagnostics
    }

    /// How many errors there are so far; unchanged over some work means that it found none.
    fn errors(&self) -> usize {
        self.errors
    }

    fn label(&self, span: Range<usize>, text: impl Into<String>) -> Label {
        Label::new(&self.source, span, text)
    }

    fn push(&mut self, diagnostic: Diagnostic) {
        let count = match diagnostic.severity() {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        match (*count).cmp(&MAX_SHOWN) {
            std::cmp::Ordering::Less => self.diagnostics.push(diagnostic),
            std::cmp::Ordering::Equal => {
                self.diagnostics
                    .push(diagnostic.note("what else is wrong in this file is not shown"));
            }
            std::cmp::Ordering::Greater => {}
        }
    }

    /// A mistake at a place; the label may be empty.
    fn mistake(
        &mut self,
        code: Code,
        span: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) {
        let label = self.label(span, label);
        self.push(Diagnostic::at(code, message, label));
    }

    /// As [`Report::mistake`], with what to do about it below.
    fn mistake_with_help(
        &mut self,
        code: Code,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let label = self.label(span, "");
        self.push(Diagnostic::at(code, message, label).help(help));
    }

    /// A word that is none of the known ones: the nearest in the label, else all of them as help.
    fn unknown_word(
        &mut self,
        code: Code,
        span: Range<usize>,
        message: impl Into<String>,
        word: &str,
        known: &[&str],
    ) {
        match suggest::nearest(word, known.iter().copied()) {
            Some(meant) => self.mistake(code, span, message, format!("did you mean `{meant}`?")),
            None if known.is_empty() => self.mistake_with_help(code, span, message, "remove it"),
            None => {
                self.mistake_with_help(code, span, message, format!("one of {}", listed(known)));
            }
        }
    }
}

/// Words for a message.
fn listed(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// The rules that were right, file by file.
#[derive(Debug, Default)]
pub(crate) struct PolicyBuilder {
    rules: Vec<Rule>,
    host_programs: Vec<HostProgram>,
    containers: Vec<Declared>,
    seen: usize,
    costly: usize,
}

impl PolicyBuilder {
    /// How many rules there were, right or wrong.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// What can only be said about all rules together, and the policy.
    pub(crate) fn finish(self, diagnostics: &mut Vec<Diagnostic>) -> Policy {
        for mut warnings in [
            whole::duplicate_names(&self.rules),
            whole::duplicate_containers(&self.containers),
            whole::unreachable(&self.rules),
            whole::unknown_labels(&self.rules),
        ] {
            if warnings.len() > MAX_SHOWN {
                warnings.truncate(MAX_SHOWN);
                let last = warnings.pop();
                warnings.extend(
                    last.map(|last| last.note("further warnings of this kind are not shown")),
                );
            }
            diagnostics.append(&mut warnings);
        }
        Policy {
            rules: self.rules,
            host_programs: self.host_programs,
            containers: self.containers,
        }
    }
}

/// Checks one rule file; what is right goes to the policy.
pub(crate) fn rules(report: &mut Report, document: &DeTable<'_>, policy: &mut PolicyBuilder) {
    for (key, value) in document {
        let name = key.get_ref().as_ref();
        match name {
            "rule" => each_rule(report, value, key.span(), policy),
            "container" => each_container(report, value, key.span(), policy),
            _ => unknown_top(report, key.span(), name),
        }
    }
}

/// A key of a rule file that is none; often it is one, in the wrong place.
fn unknown_top(report: &mut Report, span: Range<usize>, name: &str) {
    let message = format!("unknown key `{name}`");
    let help = if keys::RULES.find(name).is_some() {
        "it is part of a rule; begin every rule with `[[rule]]`"
    } else if keys::SETTINGS.find(name).is_some() {
        "settings are read from upcalld.toml, not from rules.d"
    } else {
        report.unknown_word(
            Code::UnknownKey,
            span,
            message,
            name,
            &["rule", "container"],
        );
        return;
    };
    report.mistake_with_help(Code::UnknownKey, span, message, help);
}

fn each_container(
    report: &mut Report,
    value: &table::Value<'_>,
    key: Range<usize>,
    policy: &mut PolicyBuilder,
) {
    let Some(list) = value.get_ref().as_array() else {
        let what = table::type_of(value);
        report.mistake_with_help(
            Code::WrongType,
            key,
            format!("`container` is {what}, and containers are a list of tables"),
            "begin every container with `[[container]]`",
        );
        return;
    };
    for value in list {
        if policy.containers.len() >= MAX_CONTAINERS {
            let message = format!("more than {MAX_CONTAINERS} containers");
            report.mistake(
                Code::BadRange,
                value.span(),
                message,
                "this one is too many",
            );
            return;
        }
        container::container(report, value, policy);
    }
}

fn each_rule(
    report: &mut Report,
    value: &table::Value<'_>,
    key: Range<usize>,
    policy: &mut PolicyBuilder,
) {
    let Some(list) = value.get_ref().as_array() else {
        let what = table::type_of(value);
        report.mistake_with_help(
            Code::WrongType,
            key,
            format!("`rule` is {what}, and rules are a list of tables"),
            "begin every rule with `[[rule]]`",
        );
        return;
    };
    for value in list {
        policy.seen += 1;
        if policy.seen > MAX_RULES {
            report.mistake(
                Code::BadRange,
                value.span(),
                format!("more than {MAX_RULES} rules"),
                "this one is too many",
            );
            return;
        }
        rule::rule(report, value, policy);
    }
}
