//! `run`: which helper, where, as whom, with what.

use std::ops::Range;
use std::time::Duration;

use super::table::{Item, Table, wrong_type};
use super::{Report, action, key, program, value};
use crate::diagnostic::{Code, Diagnostic};
use crate::keys::{self, Keys};
use crate::plan::{Cgroup, Place, Program, Run, User};
use crate::rule::RunRule;
use crate::template::Template;
use crate::upcall::Kind;

/// How long a helper for a key may take, if nothing is written.
const KEY_TIMEOUT: Duration = Duration::from_secs(10);

/// Keys that say how a container is entered, so that they mean nothing on the host.
const INSIDE_ONLY: [&str; 4] = [
    "host_program",
    "user",
    "without_user_namespace",
    "trusted_container",
];

/// `run`, and the place of its program's name.
pub(super) fn run(
    report: &mut Report,
    item: &Item<'_>,
    kind: Kind,
) -> Option<(RunRule, Range<usize>)> {
    let before = report.errors();
    let table = item.rule_table(report)?;
    let place = place(report, &table, item);
    if place == Some(Place::Host) {
        inside_only(report, &table);
    }
    let beside = key::beside(report, &table, place, kind);
    let argv = argv(report, &table, item, kind);
    let user = user(report, &table);
    let timeout = table.item("timeout").map(|item| {
        let timeout = duration(report, &item, &keys::RULES)?;
        if kind == Kind::Key {
            key::timeout(report, timeout, item.value.span());
        }
        Some(timeout)
    });
    let cgroup = cgroup(report, &table, place);
    let memory = table
        .item("memory")
        .map(|item| action::size(report, &item, &keys::RULES));
    if let Some(memory) = table
        .item("memory")
        .filter(|_| cgroup == Some(Cgroup::Container))
    {
        report.mistake_with_help(
            Code::NeedsBrokerCgroup,
            memory.key,
            "`run.memory` cannot limit the container's own cgroup",
            "add `cgroup = \"broker\"` to `run`, or remove `memory`; `address_space` works in both",
        );
    }
    let address_space = table
        .item("address_space")
        .map(|item| action::size(report, &item, &keys::RULES));
    let mut flag = |word| {
        table
            .item(word)
            .and_then(|item| item.flag(report))
            .unwrap_or(false)
    };
    let without_user_namespace = flag("without_user_namespace");
    let trusted_container = flag("trusted_container");
    let core = table.item("core").map(|item| {
        if kind != Kind::Core {
            let message = "`run.core` goes with `upcall = \"core\"` only";
            let label = "there is no core";
            report.mistake(Code::WrongKind, item.key.clone(), message, label);
        }
        item.flag(report).unwrap_or(true)
    });
    if report.errors() != before {
        return None;
    }
    let (program, argv, span) = argv?;
    let (place, files) = beside?;
    let default = match kind {
        Kind::Key => KEY_TIMEOUT,
        Kind::Core | Kind::Module | Kind::Umh => Run::DEFAULT_TIMEOUT,
    };
    let run = RunRule {
        place: place?,
        program,
        argv,
        user: user?,
        timeout: timeout.flatten().unwrap_or(default),
        cgroup: cgroup?,
        memory: memory.flatten(),
        address_space: address_space.flatten(),
        without_user_namespace,
        trusted_container,
        core: core.unwrap_or(true),
        files,
    };
    Some((run, span))
}

fn place(report: &mut Report, table: &Table<'_>, run: &Item<'_>) -> Option<Place> {
    let Some(item) = table.item("in") else {
        report.mistake_with_help(
            Code::MissingKey,
            run.key.clone(),
            "`run` does not say where",
            "add `in = \"container\"` or `in = \"host\"`",
        );
        return None;
    };
    item.word(
        report,
        "a place",
        &["container", "host"],
        |word| match word {
            "container" => Some(Place::Container),
            "host" => Some(Place::Host),
            _ => None,
        },
    )
}

fn inside_only(report: &mut Report, table: &Table<'_>) {
    for word in INSIDE_ONLY {
        if let Some(item) = table.item(word) {
            let message = format!("`{}` goes with `in = \"container\"` only", item.name);
            let label = if word == "host_program" {
                "on the host every program is one of the host's; write `command`"
            } else {
                "no container is entered here"
            };
            report.mistake(Code::WrongPlace, item.key, message, label);
        }
    }
}

type Argv = (Program, Vec<Template>, Range<usize>);

fn argv(report: &mut Report, table: &Table<'_>, run: &Item<'_>, kind: Kind) -> Option<Argv> {
    let (item, program) = match (table.item("command"), table.item("host_program")) {
        (Some(item), None) => (item, Program::Path),
        (None, Some(item)) => (item, Program::HostElf),
        (None, None) => {
            report.mistake_with_help(
                Code::CommandAndHostProgram,
                run.key.clone(),
                "`run` does not say what to run",
                "add `command = [\"/path\", \"{pid}\"]`, or `host_program`",
            );
            return None;
        }
        (Some(command), Some(host_program)) => {
            let first = report.label(command.key.clone(), "a program of the place where it runs");
            let second = report.label(host_program.key.clone(), "a program of the host");
            report.push(
                Diagnostic::at(
                    Code::CommandAndHostProgram,
                    "one helper cannot be both `command` and `host_program`",
                    second,
                )
                .with(first)
                .help("keep one of them; for two helpers, let one start the other"),
            );
            // Both are looked at all the same, for their own mistakes.
            drop(program::argv(report, &command, kind));
            drop(program::argv(report, &host_program, kind));
            return None;
        }
    };
    let (words, span) = program::argv(report, &item, kind)?;
    Some((program, words, span))
}

fn user(report: &mut Report, table: &Table<'_>) -> Option<User> {
    let Some(item) = table.item("user") else {
        return Some(User::Init);
    };
    item.word(
        report,
        "a user; leave it out for the init's ids",
        &["root", "origin"],
        |word| match word {
            "root" => Some(User::Root),
            "origin" => Some(User::Origin),
            _ => None,
        },
    )
}

fn cgroup(report: &mut Report, table: &Table<'_>, place: Option<Place>) -> Option<Cgroup> {
    let Some(item) = table.item("cgroup") else {
        // On the host there is nobody else to pay.
        return place.map(|place| match place {
            Place::Container => Cgroup::Container,
            Place::Host | Place::Beside => Cgroup::Broker,
        });
    };
    let cgroup = item.word(
        report,
        "a cgroup",
        &["container", "broker"],
        |word| match word {
            "container" => Some(Cgroup::Container),
            "broker" => Some(Cgroup::Broker),
            _ => None,
        },
    )?;
    if cgroup == Cgroup::Container && place == Some(Place::Host) {
        let message = "`cgroup = \"container\"` goes with `in = \"container\"` only";
        report.mistake(
            Code::WrongPlace,
            item.value.span(),
            message,
            "on the host upcalld's own pays",
        );
        return None;
    }
    Some(cgroup)
}

/// A time, within what its key allows.
pub(super) fn duration(report: &mut Report, item: &Item<'_>, keys: &Keys) -> Option<Duration> {
    let Some(text) = item.value.get_ref().as_str() else {
        wrong_type(report, item, item.value, "a time such as \"30s\"");
        return None;
    };
    let duration = match value::duration(text) {
        Ok(duration) => duration,
        Err(help) => {
            let message = format!("`{text}` is not a time");
            report.mistake(Code::BadDuration, item.value.span(), message, help);
            return None;
        }
    };
    let Some(keys::Value::Duration(least, most)) = keys.find(&item.name).map(|key| key.value)
    else {
        return Some(duration);
    };
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    if !(least..=most).contains(&duration) {
        let range = format!(
            "{} to {}",
            value::duration_text(least),
            value::duration_text(most)
        );
        let message = format!("`{}` is from {range}", item.name);
        report.mistake(
            Code::BadRange,
            item.value.span(),
            message,
            "outside of that",
        );
        return None;
    }
    Some(duration)
}
