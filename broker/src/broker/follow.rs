//! Reports of launches, and what they make of the actions of a record.

use std::sync::Arc;

use nix::errno::Errno;
use upcall_config::facts::Reason;
use upcall_config::text::escape;
use upcall_helpers::wire::{Event, Report, Stage, WaitStatus};

use super::monotonic;
use super::perform::{Work, fail};
use super::reason::{self, Explained};
use crate::launch::{Launcher, Slot};
use crate::linux::parse::CgroupLine;
use crate::store::record::{Action, Outcome};

/// A launch whose end is not known yet.
#[derive(Debug)]
pub(super) struct Going {
    slot: Slot,
    /// When it was told to the launcher, nanoseconds of `CLOCK_MONOTONIC`.
    since: u64,
    /// Whether its program runs.
    begun: bool,
}

impl Work<'_> {
    /// Notes a launch that the launcher was told, and the action that it is, if the record says anything about it.
    pub(super) fn launched(&mut self, slot: Slot, action: Option<Action>) {
        self.actions.extend(action);
        self.alive += 1;
        self.going.push(Going {
            slot,
            since: monotonic(),
            begun: false,
        });
    }

    /// Whether this launch has not ended yet.
    pub(super) fn is_going(&self, slot: Slot) -> bool {
        self.going.iter().any(|going| going.slot == slot)
    }

    /// Follows launches until each of them has an end, and writes the ends into their actions.
    ///
    /// # Errors
    /// Why the *last* of them was not started.
    pub(super) async fn follow(&mut self) -> Result<(), Explained> {
        self.follow_until(|_| false).await
    }

    /// Follows launches until the programs of all of them run, or have an end.
    pub(super) async fn begun(&mut self) {
        // What went wrong is in the actions already.
        drop(self.follow_until(|going| going.begun).await);
    }

    async fn follow_until(&mut self, far: impl Fn(&Going) -> bool) -> Result<(), Explained> {
        let mut result = Ok(());
        while !self.going.iter().all(&far) {
            let Some(report) = self.reports.recv().await else {
                return Err(self.launcher_gone());
            };
            let Some(slot) = Slot::from_number(report.slot) else {
                continue;
            };
            if let Event::Gone { status } = report.event {
                self.alive = self.alive.saturating_sub(1);
                self.launcher()
                    .gone(self.open.id(), slot, status, self.where_it_is());
            }
            // What still comes of a launch that has its end changes nothing.
            let of = |going: &Going| going.slot == slot;
            if let Some(since) = self.going.iter().find(|g| of(g)).map(|going| going.since)
                && let Some(ended) = self.take(slot, &report, since)
            {
                self.going.retain(|going| !of(going));
                result = ended;
            }
        }
        result
    }

    /// Takes one report; returns how its launch ended, if it did.
    fn take(&mut self, slot: Slot, report: &Report, since: u64) -> Option<Result<(), Explained>> {
        match &report.event {
            Event::Started { .. } => {
                self.launched.get_or_insert(report.time);
                for going in self.going.iter_mut().filter(|going| going.slot == slot) {
                    going.begun = true;
                }
                if Some(slot) == self.claimant && self.kernel.take().is_some() {
                    self.broker.stop_at("claimed");
                    self.caller.claimed();
                }
                self.read_cmdline();
                return None;
            }
            Event::Failed { stage, errno } => {
                return Some(Err(self.not_started(slot, *stage, *errno, since)));
            }
            Event::Ended {
                status,
                timed_out,
                fed,
                ..
            } => {
                let unread = self.unread.clone().filter(|_| *fed == 0);
                let wrong = match (*status, slot) {
                    _ if unread.is_some() => unread,
                    (WaitStatus::Exited(code), Slot::Deliver | Slot::File) if code != 0 => {
                        let errno = Errno::from_raw(code.into());
                        Some(reason::placed(
                            slot,
                            errno,
                            &self.target(slot),
                            &self.place(),
                        ))
                    }
                    _ => reason::ended(*status, *timed_out, &self.program(slot)),
                };
                self.end(slot, since, wrong, |action| note_end(action, &report.event));
            }
            Event::Stored {
                stored,
                truncated,
                errno,
                ..
            } => {
                let wrong = stored_wrong(*stored, *truncated, *errno);
                self.end(slot, since, wrong, |action| note_end(action, &report.event));
            }
            // A key's, and this is none.
            Event::Answered { .. } => return None,
            Event::Gone { status } => {
                if let Some(wrong) = self.ended_silently(slot, *status, since) {
                    return Some(Err(wrong));
                }
            }
        }
        self.released = self.released.max(Some(report.time));
        Some(Ok(()))
    }

    /// Ends the action of a launch that said nothing. Returns why, where it was to have claimed the kernel's pipe and has not:
    /// somebody else may.
    fn ended_silently(&mut self, slot: Slot, status: WaitStatus, since: u64) -> Option<Explained> {
        let program = self.program(slot);
        // What stood before us says nothing: its exit is all there is.
        let wrong = if slot == Slot::Pass && self.kernel.is_none() {
            reason::ended(status, false, &program)
        } else {
            let message = format!("{program} ended without a word: {status:?}");
            Some(Explained {
                reason: Reason::HelperSignal,
                message,
            })
        };
        self.end(slot, since, wrong.clone(), |action| {
            set_status(action, status);
        });
        let claimant = self.kernel.as_ref().filter(|_| Some(slot) == self.claimant);
        wrong.filter(|_| claimant.is_some_and(|kernel| !kernel.is_claimed()))
    }

    fn not_started(&mut self, slot: Slot, stage: Stage, errno: u32, since: u64) -> Explained {
        let errno = Errno::from_raw(i32::try_from(errno).unwrap_or(0));
        let wrong = match (stage, slot) {
            (Stage::Place, _) | (Stage::Root, Slot::File) => {
                reason::placed(slot, errno, &self.target(slot), &self.place())
            }
            _ => reason::stage(stage, errno, &self.program(slot), &self.place()),
        };
        if stage == Stage::Claim {
            self.left_to_shim();
            self.unread = Some(wrong.clone());
        }
        self.end(slot, since, Some(wrong.clone()), |action| {
            action.stage = Some(stage.as_str().to_owned());
            action.errno = Some(reason::name(errno));
        });
        wrong
    }

    /// The shim has the core, and soon the spool.
    pub(super) fn left_to_shim(&mut self) {
        self.kernel = None;
        self.is_the_shims = true;
        self.broker.look_into_the_spool();
    }

    /// The cgroups of the container, which helpers' are below.
    pub(super) fn where_it_is(&self) -> &[CgroupLine] {
        let container = self.container.as_ref();
        container.map_or(&[], |container| &container.leader.cgroups)
    }

    fn launcher(&self) -> &Arc<Launcher> {
        &self.broker.launcher
    }

    fn launcher_gone(&mut self) -> Explained {
        self.alive = 0;
        let message = "the launcher is gone; upcalld ends and is started again".to_owned();
        let wrong = Explained {
            reason: Reason::JoinFailed,
            message,
        };
        for Going { slot, since, .. } in std::mem::take(&mut self.going) {
            // Its keeper ended with the launcher, but where it is held by something that only its helper's end frees.
            let (id, ended) = (self.open.id(), WaitStatus::Signaled(9));
            self.launcher().gone(id, slot, ended, self.where_it_is());
            self.end(slot, since, Some(wrong.clone()), |_| {});
        }
        wrong
    }

    /// Ends the action of a launch: done, or failed for this reason, and then as `change` says.
    fn end(
        &mut self,
        slot: Slot,
        since: u64,
        wrong: Option<Explained>,
        change: impl FnOnce(&mut Action),
    ) {
        let open = |action: &&mut Action| {
            action.action == slot.as_str() && action.outcome == Outcome::Open
        };
        if let Some(action) = self.actions.iter_mut().find(open) {
            action.outcome = Outcome::Done;
            action.duration_us = monotonic().checked_sub(since).map(|ns| ns / 1000);
            if let Some(wrong) = &wrong {
                fail(action, wrong);
            }
            change(action);
        }
        if let Some(wrong) = wrong {
            self.wrong(wrong);
        }
    }
}

/// Notes in its action, which is done or failed, how a launch ended.
pub(super) fn note_end(action: &mut Action, event: &Event) {
    match event {
        Event::Ended {
            status,
            fed,
            output,
            ..
        } => {
            set_status(action, *status);
            action.fed_bytes = Some(*fed);
            action.output = Some(escape(output)).filter(|text| !text.is_empty());
        }
        Event::Stored {
            size,
            stored,
            truncated,
            ..
        } => {
            (action.size_bytes, action.stored_bytes) = (Some(*size), Some(*stored));
            action.truncated = Some(*truncated);
            match (stored, action.outcome) {
                (0, _) => action.path = None,
                (_, Outcome::Failed) => action.outcome = Outcome::Partial,
                _ => {}
            }
        }
        Event::Started { .. }
        | Event::Failed { .. }
        | Event::Answered { .. }
        | Event::Gone { .. } => {}
    }
}

fn set_status(action: &mut Action, status: WaitStatus) {
    match status {
        WaitStatus::Exited(code) => action.exit_code = Some(code),
        WaitStatus::Signaled(signal) => action.signal = Some(reason::signal_name(signal)),
    }
}

/// Why a copy is not what it should be.
pub(super) fn stored_wrong(stored: u64, truncated: bool, errno: u32) -> Option<Explained> {
    let error = Errno::from_raw(i32::try_from(errno).unwrap_or(0));
    let (reason, message) = match (errno, error) {
        (0, _) if truncated => (
            Reason::TooLarge,
            format!("truncated at store.max_size, {stored} bytes"),
        ),
        (0, _) => return None,
        (_, Errno::ENOSPC) => (
            Reason::DiskFloor,
            format!(
                "free space reached store.keep_free, {stored} bytes kept; \
                 help: make room below the state directory, or lower store.keep_free"
            ),
        ),
        (_, Errno::EDQUOT) => (
            Reason::Quota,
            format!(
                "no more room within store.max_per_container and store.max_total, {stored} bytes kept; \
                 help: upcallctl cores rm, or raise them"
            ),
        ),
        (_, Errno::ENODATA) => (Reason::Killed, reason::ended_early(stored)),
        (_, error) => (
            Reason::Quota,
            format!(
                "writing the copy: {}, {stored} bytes kept",
                reason::name(error)
            ),
        ),
    };
    Some(Explained { reason, message })
}
