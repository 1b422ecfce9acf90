//! What became of the actions of a record.

use upcall_config::capability;
use upcall_config::text::printable;
use upcalld::store::record::{Action, Outcome, Record};

use super::number;
use crate::format;
use crate::look::Look;

/// Namespaces in the order in which people expect them.
const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// What was done, where and as whom, and how it ended.
pub(super) fn lines(record: &Record, look: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    let width = record.actions.iter().map(|action| action.action.len());
    let width = width.max().unwrap_or(0).max(5);
    for action in &record.actions {
        let mark = look.mark(match action.outcome {
            Outcome::Done => "yes",
            Outcome::Open => "unknown",
            Outcome::Partial
            | Outcome::Failed
            | Outcome::Refused
            | Outcome::Lost
            | Outcome::Missed => "no",
        });
        lines.push(format!(
            "{:width$}  {mark} {}",
            action.action,
            ended(action)
        ));
        let indent = " ".repeat(width + 2 + look.mark_width() + 1);
        lines.extend(whereabouts(action).map(|line| format!("{indent}{line}")));
    }
    let told = record
        .actions
        .iter()
        .any(|action| action.message == record.message);
    let denied = record.reason.as_deref() == Some("rule");
    if let Some(message) = record.message.as_ref().filter(|_| !told && !denied) {
        let reason = record.reason.as_ref();
        lines.push(reason.map_or_else(|| message.clone(), |reason| format!("{reason}: {message}")));
    }
    if lines.is_empty() {
        lines.push(match (record.outcome, record.kind.as_str()) {
            (Outcome::Refused, "core") => "nothing was read; the dump has ended".to_owned(),
            (Outcome::Refused, _) => "nothing was started".to_owned(),
            (other, _) => other.as_str().to_owned(),
        });
    }
    lines
}

/// What an action came to, in a sentence.
fn ended(action: &Action) -> String {
    let mut parts = Vec::new();
    if let Some(argv) = &action.argv {
        parts.push(argv.join(" "));
    }
    let bad = matches!(
        action.outcome,
        Outcome::Failed | Outcome::Refused | Outcome::Partial
    );
    if let Some(reason) = action.reason.as_ref().filter(|_| bad) {
        // Of a core that is there no more, the message is about that.
        let message = action.message.as_ref().filter(|_| action.gone().is_none());
        let message = message.map_or_else(String::new, |message| format!(": {message}"));
        parts.push(format!("{reason}{message}"));
    }
    let after = action.duration_us.map(format::duration);
    let after = after.map_or_else(String::new, |after| format!(" after {after}"));
    if let Some(signal) = &action.signal {
        parts.push(format!("killed by {signal}{after}"));
    } else if let Some(code) = action.exit_code {
        let said = action
            .output
            .as_ref()
            .map(|said| format!(", said \"{said}\""));
        parts.push(format!("exit {code}{after}{}", said.unwrap_or_default()));
    }
    if let Some(stored) = action.stored_bytes.filter(|stored| *stored > 0) {
        let size = action.size_bytes.unwrap_or(stored);
        let size = if size == stored {
            format::size(size)
        } else {
            format!("{} as {}", format::size(size), format::size(stored))
        };
        let cut = match action.truncated {
            Some(true) => ", truncated",
            _ => "",
        };
        let path = action.path.as_ref();
        let path = path.map_or_else(String::new, |path| format!(": {}", printable(path)));
        parts.push(match action.gone() {
            None => format!("kept{cut}, {size}, root only{path}"),
            Some(gone) => {
                let why = action.message.as_ref();
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                format!("was kept{cut}, {size}, {gone}{why}")
            }
        });
    }
    if parts.is_empty() {
        parts.push(action.outcome.as_str().to_owned());
    }
    parts.join(": ")
}

/// Where a program ran, and as whom.
fn whereabouts(action: &Action) -> impl Iterator<Item = String> {
    let namespaces = action.namespaces.as_ref().map(|found| {
        let shown = NAMESPACES
            .iter()
            .filter_map(|name| Some(format!("{name} {}", found.get(*name)?)));
        let shown: Vec<String> = shown.collect();
        format!("in {}", shown.join(" "))
    });
    let user = action.uid.map(|uid| {
        let outside = format!("{uid}:{}", number(action.gid));
        let ids = match action.uid_inside {
            Some(inside) => format!("{inside}:{} ({outside} outside)", number(action.gid_inside)),
            None => outside,
        };
        let capabilities = action
            .capabilities
            .as_ref()
            .map(|held| format!(", {} of {} capabilities", held.len(), capability::COUNT));
        let cgroup = action
            .cgroup
            .as_ref()
            .map(|path| format!(", cgroup {}", printable(path)));
        format!(
            "as {ids}{}{}",
            capabilities.unwrap_or_default(),
            cgroup.unwrap_or_default()
        )
    });
    namespaces.into_iter().chain(user)
}
