//! `deliver` and `file`: where inside a container a core goes without any program of the container's.

use std::sync::Arc;

use super::table::{Item, not_yet};
use super::{Report, program, run, settings};
use crate::diagnostic::Code;
use crate::keys;
use crate::placed::{Protocol, SOCKET_MAX};
use crate::plan::Run;
use crate::rule::{DeliverRule, FileRule};
use crate::upcall::Kind;

/// A protocol of a later version.
const LATER: &str = "apport";

/// `deliver`.
pub(super) fn deliver(report: &mut Report, item: &Item<'_>) -> Option<DeliverRule> {
    let before = report.errors();
    let table = item.rule_table(report)?;
    let protocol = table.item("protocol");
    let protocol = match &protocol {
        None => {
            report.mistake_with_help(
                Code::MissingKey,
                item.key.clone(),
                "`deliver` does not say what is spoken there",
                "add `protocol = \"systemd\"` or `protocol = \"upcalld\"`",
            );
            None
        }
        Some(item) if item.value.get_ref().as_str() == Some(LATER) => {
            not_yet(report, item.value.span(), "protocol = \"apport\"");
            None
        }
        Some(item) => {
            let known = Protocol::ALL.map(Protocol::as_str);
            item.word(report, "a protocol", &known, Protocol::from_word)
        }
    };
    let socket = table.item("socket").and_then(|item| socket(report, &item));
    let timeout = table
        .item("timeout")
        .and_then(|item| run::duration(report, &item, &keys::RULES));
    let mut flag = |word| {
        table
            .item(word)
            .and_then(|item| item.flag(report))
            .unwrap_or(false)
    };
    let without_user_namespace = flag("without_user_namespace");
    let trusted_container = flag("trusted_container");
    if report.errors() != before {
        return None;
    }
    let protocol = protocol?;
    Some(DeliverRule {
        protocol,
        socket: socket.unwrap_or_else(|| protocol.socket().into()),
        timeout: timeout.unwrap_or(Run::DEFAULT_TIMEOUT),
        without_user_namespace,
        trusted_container,
    })
}

fn socket(report: &mut Report, item: &Item<'_>) -> Option<Arc<str>> {
    settings::checked_path(report, item, item.value)?;
    let text = item.value.get_ref().as_str()?;
    if text.len() > SOCKET_MAX || text.ends_with('/') {
        let message = format!("`{text}` cannot be the path of a socket");
        let label = format!("at most {SOCKET_MAX} bytes, and a name at its end");
        report.mistake(Code::BadPath, item.value.span(), message, label);
        return None;
    }
    Some(text.into())
}

/// `file`.
pub(super) fn file(report: &mut Report, item: &Item<'_>, kind: Kind) -> Option<FileRule> {
    let before = report.errors();
    let table = item.rule_table(report)?;
    let path = table.item("path");
    if path.is_none() {
        report.mistake_with_help(
            Code::MissingKey,
            item.key.clone(),
            "`file` does not say where",
            "add `path = \"core.{pid}\"`; it begins at the process's working directory, or with `/` at its root",
        );
    }
    let path = path.and_then(|item| {
        let (text, template) = program::word(report, &item, item.value, kind)?;
        let last = text.rsplit('/').next().unwrap_or_default();
        if last.is_empty() || text.split('/').any(|part| part == ".." || part == ".") {
            let message = format!("`{text}` cannot be the path of a core");
            report.mistake(
                Code::BadPath,
                item.value.span(),
                message,
                "a name at its end, and no `.` or `..` in it",
            );
            return None;
        }
        Some(template)
    });
    let ignore_limit = table.item("ignore_limit").map(|item| item.flag(report));
    if report.errors() != before {
        return None;
    }
    Some(FileRule {
        path: path?,
        ignore_limit: ignore_limit.flatten().unwrap_or(false),
    })
}
