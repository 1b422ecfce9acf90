//! `upcalld.toml`.

use std::path::PathBuf;

use toml::de::DeTable;

use super::table::{Item, Table, Value};
use super::{Report, action, run};
use crate::diagnostic::Code;
use crate::keys::{self, SETTINGS};
use crate::settings::Settings;

/// Most directories in one list.
const MAX_PATHS: usize = 16;

/// Checks the settings; where one is wrong, it keeps its default.
pub(crate) fn settings(report: &mut Report, document: &DeTable<'_>) -> Settings {
    let mut settings = Settings::default();
    let top = Table::open(report, "", document, &SETTINGS, &["rule"]);
    if let Some(item) = top.item("rule") {
        report.mistake_with_help(
            Code::UnknownKey,
            item.key,
            "rules are not read from upcalld.toml",
            "move them to a file in rules.d beside it",
        );
    }
    for (word, item) in top.items() {
        if word == "rule" || SETTINGS.find(word).is_none() {
            continue;
        }
        let Some(entries) = item.table(report) else {
            continue;
        };
        let table = Table::open(report, word, entries, &SETTINGS, &[]);
        for (word, item) in table.items() {
            set(report, &mut settings, &table.full(word), &item);
        }
    }
    settings
}

fn set(report: &mut Report, settings: &mut Settings, path: &str, item: &Item<'_>) {
    match path {
        "store.keep_free" => size(report, item, &mut settings.store.keep_free),
        "store.max_total" => size(report, item, &mut settings.store.max_total),
        "store.max_per_container" => {
            size(report, item, &mut settings.store.max_per_container);
        }
        "store.max_count" => count(report, item, &mut settings.store.max_count),
        "store.max_age" => {
            let age = run::duration(report, item, &SETTINGS);
            settings.store.max_age = age.unwrap_or(settings.store.max_age);
        }
        "limits.concurrent" => count(report, item, &mut settings.limits.concurrent),
        "limits.per_container" => count(report, item, &mut settings.limits.per_container),
        "hooks.retake" => {
            settings.hooks.retake = item.flag(report).unwrap_or(settings.hooks.retake);
        }
        "runtimes.runc" => paths(report, item, &mut settings.runtimes.runc),
        "runtimes.crun" => paths(report, item, &mut settings.runtimes.crun),
        "runtimes.containerd" => paths(report, item, &mut settings.runtimes.containerd),
        "runtimes.docker" => paths(report, item, &mut settings.runtimes.docker),
        "runtimes.docker_root" => one_path(report, item, &mut settings.runtimes.docker_root),
        "runtimes.lxc" => paths(report, item, &mut settings.runtimes.lxc),
        "runtimes.incus" => paths(report, item, &mut settings.runtimes.incus),
        "runtimes.machines" => one_path(report, item, &mut settings.runtimes.machines),
        "runtimes.units" => one_path(report, item, &mut settings.runtimes.units),
        "runtimes.users" => one_path(report, item, &mut settings.runtimes.users),
        "runtimes.podman_graphroot" => {
            one_path(report, item, &mut settings.runtimes.podman_graphroot);
        }
        "runtimes.podman_runroot" => {
            one_path(report, item, &mut settings.runtimes.podman_runroot);
        }
        "metrics.textfile" => {
            let textfile = &mut settings.metrics.textfile;
            *textfile = checked_path(report, item, item.value).or(textfile.take());
        }
        "records.keep" => count(report, item, &mut settings.records.keep),
        // Reported as unknown when the table was opened.
        _ => {}
    }
}

fn size(report: &mut Report, item: &Item<'_>, setting: &mut u64) {
    *setting = action::size(report, item, &SETTINGS).unwrap_or(*setting);
}

fn count<T: TryFrom<u64>>(report: &mut Report, item: &Item<'_>, setting: &mut T) {
    let Some(keys::Value::Count(least, most)) = SETTINGS.find(&item.name).map(|key| key.value)
    else {
        return;
    };
    if let Some(number) = item
        .count(report, least, most)
        .and_then(|n| T::try_from(n).ok())
    {
        *setting = number;
    }
}

fn one_path(report: &mut Report, item: &Item<'_>, setting: &mut PathBuf) {
    if let Some(path) = checked_path(report, item, item.value) {
        *setting = path;
    }
}

fn paths(report: &mut Report, item: &Item<'_>, setting: &mut Vec<PathBuf>) {
    // An empty list is meant: this runtime is not looked for.
    if let Some(list) = item.list(report, 0, MAX_PATHS, |report, value| {
        checked_path(report, item, value)
    }) {
        *setting = list;
    }
}

pub(super) fn checked_path(
    report: &mut Report,
    item: &Item<'_>,
    value: &Value<'_>,
) -> Option<PathBuf> {
    let text = item.text_of(report, value)?;
    if !text.starts_with('/') {
        let message = format!("`{text}` is not an absolute path");
        report.mistake(Code::RelativePath, value.span(), message, "begin with `/`");
        return None;
    }
    Some(text.into())
}
