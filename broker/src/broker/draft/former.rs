//! A record that a former daemon left open.

use upcall_config::facts::Reason;
use upcall_helpers::wire::{Event, Report};

use crate::store::record::{Action, Outcome, Record};

/// Closes a record that a former daemon left open, by what the launcher's children reported into it.
pub(in crate::broker) fn close_former(mut record: Record, reports: &[Report]) -> Record {
    let ended = reports
        .iter()
        .any(|report| matches!(report.event, Event::Ended { .. }));
    let stored = reports.iter().find_map(|report| {
        let Event::Stored {
            size,
            stored,
            truncated,
            ..
        } = report.event
        else {
            return None;
        };
        Some((size, stored, truncated))
    });
    let claimed = reports
        .iter()
        .any(|report| matches!(report.event, Event::Started { .. }));
    if let Some((size, bytes, truncated)) = stored {
        let mut action = Action::new("store");
        action.outcome = Outcome::Done;
        (action.size_bytes, action.stored_bytes) = (Some(size), Some(bytes));
        action.truncated = Some(truncated);
        record.actions.push(action);
    }
    let by_socket = record
        .core
        .as_ref()
        .is_some_and(|core| core.hook == "socket");
    let (outcome, what) = match (ended || stored.is_some(), claimed) {
        (true, _) => (Outcome::Partial, "what had been started went on without it"),
        (false, _) if record.core.is_none() => (
            Outcome::Failed,
            "the shim did what it had been told by then, or refused",
        ),
        (false, true) => (Outcome::Lost, "what had been started left no word"),
        (false, false) if by_socket => (
            Outcome::Lost,
            "nothing had been started, and the kernel dumped nothing",
        ),
        // Nobody took the claim, so the shim did: the core is in the spool.
        (false, false) => (
            Outcome::Failed,
            "nothing had been started; the core went to the spool",
        ),
    };
    record.outcome = outcome;
    record.reason = Some(Reason::DaemonDown.to_string());
    record.message = Some(format!(
        "upcalld ended while this was being handled; {what}"
    ));
    record
}
