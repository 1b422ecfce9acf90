//! What only rules for keys have: `answer`, the error of a refusal, a program beside a container.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::Report;
use super::run::duration;
use super::table::{Item, Table};
use crate::diagnostic::Code;
use crate::keys::{self, Words};
use crate::plan::{Answer, Payload, Place};
use crate::upcall::Kind;

/// How long an answer is good for, if nothing is written.
const ANSWER_TTL: Duration = Duration::from_secs(5);

/// What a refusal says and for how long, if nothing is written. `EACCES`.
const DENIAL: (u32, Duration) = (13, Duration::from_secs(1));

/// The longest that a helper for a key may take: nobody can end the process that waits for it.
const LONGEST: Duration = Duration::from_mins(2);

/// Errors that a refusal can have. `ENOKEY` is none: the kernel keeps that for others too.
const ERRORS: [u32; ERROR_WORDS.len()] = [13, 1, 2, 5, 110, 113, 127, 128, 129];

/// Their names.
const ERROR_WORDS: [&str; 9] = [
    "EACCES",
    "EPERM",
    "ENOENT",
    "EIO",
    "ETIMEDOUT",
    "EHOSTUNREACH",
    "EKEYEXPIRED",
    "EKEYREVOKED",
    "EKEYREJECTED",
];

/// The container's files that a program beside it may see.
pub(crate) const FILES: [&str; 4] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/krb5.conf",
    "/etc/idmapd.conf",
];

/// Actions of one kind only, and which.
const ONLY: [(&str, Kind, &str); 5] = [
    ("answer", Kind::Key, "only a key can be given a payload"),
    ("store", Kind::Core, "only of a core can a copy be kept"),
    ("deliver", Kind::Core, "only a core can be delivered"),
    ("file", Kind::Core, "only a core can be written to a file"),
    (
        "post",
        Kind::Core,
        "only of a core there is something to tell",
    ),
];

/// Reports actions that upcalls of this kind cannot have.
pub(super) fn other_kinds(report: &mut Report, table: &Table<'_>, kind: Kind) {
    for (word, only, why) in ONLY {
        if let Some(item) = table.item(word).filter(|_| only != kind) {
            let message = format!("`{word}` goes with `upcall = \"{only}\"` only");
            report.mistake(Code::WrongKind, item.key, message, why);
        }
    }
    // A module is the whole kernel's: the host's modprobe loads it, or nobody does. So is what the others do.
    let only_the_hosts = match kind {
        Kind::Module => "modules are loaded by the host's own modprobe only: `pass` or `deny`",
        Kind::Umh => "what the kernel starts is the host's own program: `pass` or `deny`",
        Kind::Core | Kind::Key => return,
    };
    for word in ["run", "on_failure"] {
        if let Some(item) = table.item(word) {
            let message = format!("`{word}` does not go with `upcall = \"{kind}\"`");
            report.mistake(Code::WrongKind, item.key, message, only_the_hosts);
        }
    }
}

/// `answer`.
pub(super) fn answer(report: &mut Report, item: &Item<'_>) -> Option<Answer> {
    let table = item.rule_table(report)?;
    let ttl = table
        .item("ttl")
        .map(|item| duration(report, &item, &keys::RULES));
    let payload = match (table.item("payload"), table.item("file")) {
        (Some(item), None) => Payload::Text(item.text(report)?.into()),
        (None, Some(item)) => {
            let text = item.text(report)?;
            if !text.starts_with('/') {
                let message = format!("the file `{text}` is not named by an absolute path");
                report.mistake(
                    Code::RelativePath,
                    item.value.span(),
                    message,
                    "begin with `/`",
                );
                return None;
            }
            Payload::File(Path::new(text).into())
        }
        _ => {
            report.mistake_with_help(
                Code::MissingKey,
                item.key.clone(),
                "`answer` has exactly one of `payload` and `file`",
                "write `payload = \"...\"`, or `file` with the path of a file of root's",
            );
            return None;
        }
    };
    Some(Answer {
        payload,
        ttl: ttl.unwrap_or(Some(ANSWER_TTL))?,
    })
}

/// `deny.errno` and `deny.ttl`.
pub(super) fn denial(
    report: &mut Report,
    table: &Table<'_>,
    kind: Kind,
) -> Option<(u32, Duration)> {
    let (errno, ttl) = (table.item("errno"), table.item("ttl"));
    if kind != Kind::Key {
        for item in [errno, ttl].into_iter().flatten() {
            let message = format!("`{}` goes with `upcall = \"key\"` only", item.name);
            report.mistake(
                Code::WrongKind,
                item.key,
                message,
                "nobody else is told an error",
            );
        }
        return Some(DENIAL);
    }
    let errno = errno.map(|item| {
        let mut known = ERROR_WORDS.into_iter().zip(ERRORS);
        let find = |word: &str| known.find(|(known, _)| *known == word);
        item.word(report, "an error for a key", &ERROR_WORDS, find)
            .map(|(_, number)| number)
    });
    let ttl = ttl.map(|item| duration(report, &item, &keys::RULES));
    Some((
        errno.unwrap_or(Some(DENIAL.0))?,
        ttl.unwrap_or(Some(DENIAL.1))?,
    ))
}

/// Where a helper runs that the rule puts beside a container, and the files it sees there.
pub(super) fn beside(
    report: &mut Report,
    table: &Table<'_>,
    place: Option<Place>,
    kind: Kind,
) -> Option<(Option<Place>, Vec<String>)> {
    let (join, files) = (table.item("join"), table.item("files"));
    for item in [&join, &files].into_iter().flatten() {
        if kind != Kind::Key {
            let message = format!("`{}` goes with `upcall = \"key\"` only", item.name);
            let label = "a core's helper is in the container or on the host";
            report.mistake(Code::WrongKind, item.key.clone(), message, label);
        } else if place == Some(Place::Container) {
            let message = format!("`{}` goes with `in = \"host\"` only", item.name);
            let label = "in the container everything is the container's already";
            report.mistake(Code::WrongPlace, item.key.clone(), message, label);
        }
    }
    let Some(join) = join else {
        if let Some(files) = files {
            report.mistake_with_help(
                Code::MissingKey,
                files.key,
                "`run.files` shows files of a container's, and no container is joined",
                "add `join = [\"net\"]`",
            );
        }
        return Some((place, Vec::new()));
    };
    let known = ["net"];
    join.list(report, 1, known.len(), |report, value| {
        join.word_of(report, value, "a namespace to join", &known, |word| {
            (word == "net").then_some(())
        })
    })?;
    let files = match files {
        None => Vec::new(),
        Some(item) => item.list(report, 1, FILES.len(), |report, value| {
            item.word_of(report, value, "a file that may be shown", &FILES, |word| {
                FILES.contains(&word).then(|| word.to_owned())
            })
        })?,
    };
    Some((place.map(|_| Place::Beside), files))
}

/// Refuses a timeout that is too long for a key.
pub(super) fn timeout(report: &mut Report, timeout: Duration, span: Range<usize>) {
    if timeout > LONGEST {
        report.mistake(
            Code::BadRange,
            span,
            "a key is answered within two minutes",
            "the process that waits for it cannot be ended",
        );
    }
}

/// What `keys` says about the errors of a refusal.
pub(crate) const ERRNO: Words = Words::Of(&ERROR_WORDS);
