//! One `[[container]]`: what no runtime registers, the admin does.

use super::table::{self, Item, Table, Value};
use super::{PolicyBuilder, Report};
use crate::diagnostic::Code;
use crate::keys::CONTAINERS;
use crate::rule::{Declared, FoundBy};

/// How one is found; exactly one of them must be there.
const WAYS: [&str; 3] = ["unit", "cgroup", "pid_file"];

/// What the name of a unit with processes ends with.
const UNITS: [&str; 2] = [".service", ".scope"];

/// Longest name of a unit (systemd.unit(5)).
const UNIT_MAX: usize = 255;

/// Checks one declaration; if nothing is wrong with it, it goes to the policy.
pub(super) fn container(report: &mut Report, value: &Value<'_>, policy: &mut PolicyBuilder) {
    let before = report.errors();
    let Some(entries) = value.get_ref().as_table() else {
        let message = format!(
            "a container is a table, and this is {}",
            table::type_of(value)
        );
        report.mistake(Code::WrongType, value.span(), message, "");
        return;
    };
    let table = Table::open(report, "", entries, &CONTAINERS, &[]);
    let name = if let Some(item) = table.item("name") {
        item.text(report).map(|text| (text, item))
    } else {
        let help = "add `name = \"...\"`";
        let message = "this container has no name that rules could match";
        report.mistake_with_help(Code::MissingKey, value.span(), message, help);
        None
    };
    let found: Vec<Option<FoundBy>> = WAYS
        .into_iter()
        .filter_map(|way| table.item(way))
        .map(|item| found_by(report, &item))
        .collect();
    if found.len() != 1 {
        let message = "a container is found by one of `unit`, `cgroup` and `pid_file`";
        let there = format!("here are {} of them", found.len());
        report.mistake(Code::AmbiguousContainer, value.span(), message, there);
    }
    if let (Some((name, item)), [Some(found_by)]) = (name, found.as_slice()) {
        if name.is_empty() {
            report.mistake(Code::BadRange, item.value.span(), "a name is not empty", "");
        }
        if report.errors() == before {
            policy.containers.push(Declared {
                name: name.into(),
                found_by: found_by.clone(),
                place: report.label(item.value.span(), ""),
            });
        }
    }
}

fn found_by(report: &mut Report, item: &Item<'_>) -> Option<FoundBy> {
    let text = item.text(report)?;
    let mut mistake = |code, message: String, label: &str| {
        report.mistake(code, item.value.span(), message, label);
        None
    };
    if item.name == "unit" {
        let known = UNITS.iter().any(|suffix| text.ends_with(suffix));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        if !known || text.len() > UNIT_MAX || !text.bytes().all(plain) {
            let message = format!("`{text}` is not the name of a service or scope of systemd's");
            return mistake(Code::BadUnit, message, "such as `mail-jail.service`");
        }
        return Some(FoundBy::Unit(text.into()));
    }
    let mut parts = text.strip_prefix('/').unwrap_or("..").split('/');
    if parts.any(|part| matches!(part, "" | "." | "..")) {
        let message = format!("`{text}` is not an absolute path without detours");
        return mistake(
            Code::RelativePath,
            message,
            "begin with `/`, and name what is there",
        );
    }
    Some(if item.name == "cgroup" {
        FoundBy::Cgroup(text.into())
    } else {
        FoundBy::PidFile(std::path::Path::new(text).into())
    })
}
