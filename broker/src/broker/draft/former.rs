//! A record that a former daemon left open.

use upcall_config::facts::Reason;
use upcall_helpers::wire::{Event, Report};

use crate::broker::follow::{note_end, stored_wrong};
use crate::broker::perform::fail;
use crate::broker::reason;
use crate::launch::Slot;
use crate::store::record::{Action, Outcome, Record};

/// Closes a record that a former daemon left open, by what the launcher's children reported into it.
pub(in crate::broker) fn close_former(mut record: Record, reports: &[Report]) -> Record {
    let found = |what: fn(&Event) -> bool| reports.iter().any(|report| what(&report.event));
    let ended = found(|event| matches!(event, Event::Ended { .. } | Event::Stored { .. }));
    let claimed = found(|event| matches!(event, Event::Started { .. }));
    // Of what stood before us nobody hears, and it goes on without any of us.
    let passed = reports.iter().any(|report| {
        report.slot == Slot::Pass as u8 && matches!(report.event, Event::Started { .. })
    });
    record.actions.extend(reports.iter().filter_map(ended_as));
    let by_socket = record
        .core
        .as_ref()
        .is_some_and(|core| core.hook == "socket");
    let (outcome, what) = match (ended, claimed) {
        _ if passed => (
            Outcome::Partial,
            "what stood before it in core_pattern has the core",
        ),
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

/// The end of a launch as the action that it was; `None` for what is no end.
fn ended_as(report: &Report) -> Option<Action> {
    let slot = Slot::from_number(report.slot)?;
    let wrong = match &report.event {
        Event::Ended {
            status, timed_out, ..
        } => reason::ended(*status, *timed_out, "it"),
        Event::Stored {
            stored,
            truncated,
            errno,
            ..
        } => stored_wrong(*stored, *truncated, *errno),
        Event::Started { .. }
        | Event::Failed { .. }
        | Event::Answered { .. }
        | Event::Gone { .. } => return None,
    };
    let mut action = Action::new(slot.as_str());
    action.outcome = Outcome::Done;
    if let Some(wrong) = wrong {
        fail(&mut action, &wrong);
    }
    note_end(&mut action, &report.event);
    Some(action)
}
