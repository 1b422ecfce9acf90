//! A helper's argv: a program and its words, with placeholders.

use std::ops::Range;

use super::Report;
use super::table::{Item, Value, place_in};
use crate::diagnostic::Code;
use crate::keys::MAX_ARGV;
use crate::template::{MAX_WORD, Placeholder, Template, TemplateError, TemplateMistake};
use crate::upcall::Kind;

/// The words, and the place of the first.
pub(super) fn argv(
    report: &mut Report,
    item: &Item<'_>,
    kind: Kind,
) -> Option<(Vec<Template>, Range<usize>)> {
    let mut first = None;
    let words = item.list(report, 1, MAX_ARGV, |report, value| {
        let is_first = first.is_none();
        first.get_or_insert(value.span());
        let (text, template) = word(report, item, value, kind)?;
        if is_first {
            program(report, value, text, &template)?;
        }
        Some(template)
    })?;
    Some((words, first?))
}

/// One word with placeholders, and its text.
pub(super) fn word<'v>(
    report: &mut Report,
    item: &Item<'_>,
    value: &'v Value<'v>,
    kind: Kind,
) -> Option<(&'v str, Template)> {
    let text = item.text_up_to(report, value, MAX_WORD)?;
    match Template::parse(text, kind) {
        Ok(template) => Some((text, template)),
        Err(mistakes) => {
            for mistake in &mistakes {
                placeholder(report, value, text, mistake, kind);
            }
            None
        }
    }
}

fn program(report: &mut Report, value: &Value<'_>, text: &str, template: &Template) -> Option<()> {
    if template.fixed().is_none() {
        report.mistake(
            Code::RelativePath,
            value.span(),
            format!("the program `{text}` depends on the upcall"),
            "write a path without placeholders",
        );
        return None;
    }
    if !text.starts_with('/') {
        report.mistake(
            Code::RelativePath,
            value.span(),
            format!("the program `{text}` is not named by an absolute path"),
            "there is no PATH and no shell; begin with `/`",
        );
        return None;
    }
    Some(())
}

fn placeholder(
    report: &mut Report,
    value: &Value<'_>,
    text: &str,
    mistake: &TemplateError,
    kind: Kind,
) {
    let span = place_in(report, value, text, &mistake.at);
    match &mistake.what {
        TemplateMistake::Brace => report.mistake(
            Code::UnknownPlaceholder,
            span,
            "a single brace in an argument",
            "for the brace itself write it twice",
        ),
        TemplateMistake::Unknown(word) => {
            let known: Vec<_> = Placeholder::for_kind(kind)
                .map(|p| format!("{{{}}}", p.as_str()))
                .collect();
            let known: Vec<_> = known.iter().map(String::as_str).collect();
            let written = format!("{{{word}}}");
            let message = format!("unknown placeholder `{written}`");
            report.unknown_word(Code::UnknownPlaceholder, span, message, &written, &known);
        }
    }
}
