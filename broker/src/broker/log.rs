//! What the log says when an upcall is over: a line for people, and the record's fields for the journal to search by.

use tracing::{Level, event};

use crate::store::record::{Outcome, Record};

/// Of an upcall that is over (journalctl MESSAGE_ID=…).
const OVER: &str = "98ff3fc4a4df4d26b239482c5aef351a";

/// Of one that was refused.
const REFUSED: &str = "2eb39dd09cdf4ca096148cf6fb4a7271";

/// Logs a closed record: a warning where less was done than was to be done.
pub(super) fn over(record: &Record) {
    let line = line(record);
    let container = record.container.as_ref();
    let pod = container.and_then(|container| container.pod.as_ref());
    let id = if record.outcome == Outcome::Refused {
        REFUSED
    } else {
        OVER
    };
    let rule = record.verdict.rule.as_ref();
    let rule = rule.map(|rule| format!("{}:{}", rule.file, rule.line));
    let verdict = record.verdict.actions.join(",");
    // A field without a value is left out.
    macro_rules! say {
        ($level:expr) => {
            event!(
                $level,
                MESSAGE_ID = id,
                UPCALL_ID = record.id,
                UPCALL_KIND = record.kind,
                UPCALL_VERDICT = verdict,
                UPCALL_OUTCOME = record.outcome.as_str(),
                UPCALL_REASON = record.reason.as_deref(),
                UPCALL_RULE = rule.as_deref(),
                UPCALL_PID = record.process.pid,
                UPCALL_EVIDENCE = record.evidence.process.as_deref(),
                UPCALL_COUNT = record.count,
                UPCALL_CONTAINER_RUNTIME = container.map(|container| container.runtime.as_str()),
                UPCALL_CONTAINER_ID = container.map(|container| container.id.as_str()),
                UPCALL_CONTAINER_NAME = container.and_then(|container| container.name.as_deref()),
                UPCALL_POD_NAMESPACE = pod.and_then(|pod| pod.namespace.as_deref()),
                UPCALL_POD_NAME = pod.and_then(|pod| pod.name.as_deref()),
                UPCALL_HELD_US = record.timings_us.held,
                "{line}"
            )
        };
    }
    match record.outcome {
        Outcome::Done | Outcome::Refused | Outcome::Open => say!(Level::INFO),
        Outcome::Partial | Outcome::Failed | Outcome::Lost | Outcome::Missed => {
            say!(Level::WARN);
        }
    }
}

/// The line: who, where, what was to be done and how it ended, how long the kernel waited, why.
fn line(record: &Record) -> String {
    let container = record.container.as_ref().map_or_else(
        || "-".to_owned(),
        |container| {
            let name = container.name.as_deref().unwrap_or(&container.id);
            format!("{}/{name}", container.runtime)
        },
    );
    let (kind, id, outcome) = (&record.kind, &record.id, record.outcome.as_str());
    let comm = record.process.comm.as_deref().unwrap_or("?");
    let pid = record.process.pid.unwrap_or(0);
    let verdict = record.verdict.actions.join(",");
    let held = record.timings_us.held.unwrap_or(0);
    let line =
        format!("{kind} {id}: {comm} {pid} in {container}: {verdict}: {outcome}, held {held} us");
    match record.message.as_deref() {
        Some(message) if !message.is_empty() => format!("{line} {message}"),
        _ => line,
    }
}
