//! What the log says when an upcall is over: a line for people, and the record's fields for the journal to search by.

use tracing::{Level, event};

use crate::store::record::{Action, Outcome, Record};

/// Of an upcall that is over (journalctl MESSAGE_ID=…).
const OVER: &str = "98ff3fc4a4df4d26b239482c5aef351a";

/// Of one that was refused.
const REFUSED: &str = "2eb39dd09cdf4ca096148cf6fb4a7271";

/// Of a kept core: systemd's own, so that coredumpctl(1) lists, shows and opens it (systemd.journal-fields(7)).
const COREDUMP: &str = "fc2e22bc6ee647b6b90729ab34a250b1";

/// Logs a closed record: a warning where less was done than was to be done.
pub(super) fn over(record: &Record) {
    let line = line(record);
    let container = record.container.as_ref();
    let pod = container.and_then(|container| container.pod.as_ref());
    let kept = kept(record);
    let id = match (record.outcome, kept) {
        (Outcome::Refused, _) => REFUSED,
        (_, Some(_)) => COREDUMP,
        (_, None) => OVER,
    };
    // What goes with a kept core, and with nothing else.
    let dumped = kept.and(record.core.as_ref());
    let process = kept.map(|_| &record.process);
    let signal = dumped.and_then(|core| core.signal.as_deref());
    let signal = signal.map(|signal| format!("SIG{signal}"));
    let time: Option<jiff::Timestamp> = kept.and_then(|_| record.time.parse().ok());
    let command = process.and_then(|process| process.cmdline.as_ref());
    let command = command.map(|words| words.join(" "));
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
                COREDUMP_PID = process.and_then(|process| process.pid),
                COREDUMP_UID = process.and_then(|process| process.uid),
                COREDUMP_GID = process.and_then(|process| process.gid),
                COREDUMP_SIGNAL = dumped.and_then(|core| core.signal_number),
                COREDUMP_SIGNAL_NAME = signal.as_deref(),
                COREDUMP_TIMESTAMP = time.map(jiff::Timestamp::as_microsecond),
                COREDUMP_RLIMIT = dumped.map(|core| core.limit_bytes.unwrap_or(u64::MAX)),
                COREDUMP_HOSTNAME = kept.map(|_| record.node.as_str()),
                COREDUMP_COMM = process.and_then(|process| process.comm.as_deref()),
                COREDUMP_EXE = process.and_then(|process| process.exe.as_deref()),
                COREDUMP_CMDLINE = command.as_deref(),
                COREDUMP_CGROUP = process.and_then(|process| process.cgroup.as_deref()),
                COREDUMP_FILENAME = kept.and_then(|kept| kept.path.as_deref()),
                COREDUMP_TRUNCATED = kept.and_then(|kept| kept.truncated?.then_some(1)),
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

/// The action that kept its core.
fn kept(record: &Record) -> Option<&Action> {
    let mut actions = record.actions.iter();
    actions.find(|action| action.action == "store" && action.stored_bytes.is_some_and(|b| b > 0))
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
