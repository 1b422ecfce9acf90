//! One `[[rule]]`: its own keys, and the order in which its parts are checked.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::table::{self, Item, Table, Value};
use super::{PolicyBuilder, Report, action, key, matching, program};
use crate::diagnostic::{Code, Diagnostic, Label};
use crate::field::Field;
use crate::keys::{self, Words};
use crate::plan::{Place, Program};
use crate::rule::{Action, HostProgram, Rule, RuleRef, RunRule};
use crate::template::Template;
use crate::upcall::Kind;

/// Checks one rule; if nothing is wrong with it, it goes to the policy.
pub(super) fn rule(report: &mut Report, value: &Value<'_>, policy: &mut PolicyBuilder) {
    let before = report.errors();
    let Some(entries) = value.get_ref().as_table() else {
        let message = format!("a rule is a table, and this is {}", table::type_of(value));
        report.mistake(Code::WrongType, value.span(), message, "");
        return;
    };
    let table = Table::open(report, "", entries, &keys::RULES, &[]);
    let name = table.item("name");
    let name = name.and_then(|item| Some((item.text(report)?, item)));
    let kind = kind(report, &table, value.span());
    let matched = table.item("match");
    let conditions = match &matched {
        Some(item) => matching::conditions(report, item, kind, &mut policy.costly),
        None => Vec::new(),
    };
    key::other_kinds(report, &table, kind);
    let done = action::action(report, &table, value.span(), kind);
    let post = table
        .item("post")
        .and_then(|item| program::argv(report, &item, kind));
    let limit = table
        .item("limit")
        .and_then(|item| action::limit(report, &item));
    if let (Some(limit), Some(deny)) = (table.item("limit"), table.item("deny")) {
        let label = report.label(limit.key, "counts nothing here");
        let message = "what is denied has no limit";
        let denied = report.label(deny.key, "denies them all");
        report.push(Diagnostic::at(Code::ConflictingActions, message, label).with(denied));
    }
    let Some((action, programs)) = done else {
        return;
    };
    if report.errors() != before {
        return;
    }
    let position = policy.rules.len();
    policy
        .host_programs
        .extend(host_program(report, &action, programs, position));
    let (post, post_place) = post.unzip();
    policy
        .host_programs
        .extend(after(report, post.as_deref(), post_place, position));
    policy.rules.push(Rule {
        source: RuleRef {
            file: Arc::clone(report.source.path()),
            line: u32::try_from(report.source.position(value.span().start).0).unwrap_or(u32::MAX),
            name: name.as_ref().map(|(name, _)| (*name).into()),
        },
        kind,
        names_owner: conditions.iter().any(|c| c.field == Field::ContainerOwner),
        conditions,
        action,
        post,
        limit,
        place: place(report, matched.as_ref(), value.span()),
        name_place: name.map(|(_, item)| report.label(item.value.span(), "")),
    });
}

/// The kind. With one that is missing or misspelt checking goes on as if it were the most usual one.
fn kind(report: &mut Report, table: &Table<'_>, header: Range<usize>) -> Kind {
    let known = Words::Kinds.list();
    let Some(item) = table.item("upcall") else {
        report.mistake_with_help(
            Code::MissingKey,
            header,
            "this rule does not say whose upcalls it is for",
            "add `upcall = \"core\"`",
        );
        return Kind::Core;
    };
    let kind = item.word(report, "a kind of upcall", &known, Kind::from_word);
    kind.unwrap_or(Kind::Core)
}

/// What to underline when the rule as a whole is meant: the first line of its `match`, else its header.
fn place(report: &Report, matched: Option<&Item<'_>>, header: Range<usize>) -> Label {
    let span = matched.map_or(header, |item| {
        let value = item.value.span();
        let text = report.source.text();
        let line_start = text
            .get(..item.key.start)
            .and_then(|t| t.rfind('\n'))
            .map_or(0, |at| at + 1);
        let line_end = text
            .get(item.key.start..)
            .and_then(|t| t.find('\n'))
            .map_or(text.len(), |at| item.key.start + at);
        let line = text.get(line_start..line_end).unwrap_or_default();
        // A table in several lines, or a `[rule.match.core]`: its name says enough.
        if value.end > line_end || value.start < line_start || line.trim_start().starts_with('[') {
            return item.key.clone();
        }
        let code = line.trim_end();
        item.key.start..(line_start + code.len()).max(item.key.end)
    });
    report.label(span, "")
}

fn host_program(
    report: &Report,
    action: &Action,
    programs: Option<Range<usize>>,
    rule: usize,
) -> Option<HostProgram> {
    let Action::Do(actions) = action else {
        return None;
    };
    let RunRule {
        place,
        program,
        argv,
        ..
    } = actions.run.as_ref()?;
    if *place == Place::Container && *program == Program::Path {
        return None;
    }
    Some(HostProgram {
        rule,
        program: *program,
        place: report.label(programs?, ""),
        path: Path::new(argv.first()?.fixed()?).into(),
    })
}

/// The program of `post`.
fn after(
    report: &Report,
    post: Option<&[Template]>,
    place: Option<Range<usize>>,
    rule: usize,
) -> Option<HostProgram> {
    Some(HostProgram {
        rule,
        program: Program::Path,
        place: report.label(place?, ""),
        path: Path::new(post?.first()?.fixed()?).into(),
    })
}
