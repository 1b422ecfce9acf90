//! Core dumps: from the kernel's question to the record.

use std::sync::Arc;

use nix::errno::Errno;
use tracing::warn;
use upcall_config::decide::{Decision, Verdict, decide};
use upcall_config::facts::{Facts, Reason};
use upcall_config::rule::Policy;
use upcall_config::upcall::Upcall;

use super::clock::Clock;
use super::draft::Draft;
use super::{BUSY, Broker, facts, monotonic, refusals};
use crate::admit::{Refused, Tenant};
use crate::identify::{self, Lost, Origin};
use crate::intake::call::CoreCall;
use crate::intake::shim::Late;
use crate::linux::room::{Room, noted};
use crate::resolve::{Container, Resolution};
use crate::store::id;
use crate::store::record::Record;
use crate::store::records::Open;

/// An upcall that is understood and not yet acted on.
#[derive(Debug)]
struct Examined {
    clock: Clock,
    draft: Draft,
    origin: Option<Origin>,
    container: Option<Container>,
    facts: Facts,
    policy: Arc<Policy>,
    decision: Decision,
}

impl Broker {
    /// Answers one core dump.
    pub async fn core(self: Arc<Self>, call: CoreCall) {
        self.missed.answered(call.words.facts().pid, call.started);
        let mut seen = match self.examine(&call) {
            Ok(seen) => seen,
            Err(error) => return self.hand_back(&call, &error.to_string()),
        };
        self.stop_at("examined");
        if self.is_self_test(&seen.facts) {
            return self.self_tested(&call, seen.draft);
        }
        let plan = match seen.decision.verdict {
            Verdict::Do(plan) => plan,
            Verdict::Deny(denial) => {
                return self.refuse(&call, seen.draft, Reason::Rule, &denial.reason, None);
            }
        };
        let tenant = Tenant::of(&seen.facts);
        let rule = seen.decision.rule.and_then(|index| seen.policy.rule(index));
        let limit = rule.and_then(|rule| Some((rule.source(), plan.limit()?)));
        let mut ticket = match self.admit.enter(&tenant, limit).await {
            Ok(ticket) => ticket,
            Err(Refused::Limit { reason, message }) => {
                let key = refusals::Key::new(limit.map(|(rule, _)| rule), &tenant, reason);
                return self.refuse(&call, seen.draft, reason, &message, Some(key));
            }
            Err(Refused::Overload) => return self.overloaded(&call, seen.draft, &tenant),
        };
        seen.draft.timings().admit = seen.clock.step();
        let open = match self.records.open(seen.draft.record()) {
            Ok(open) => open,
            Err(error) => return self.hand_back(&call, &error.to_string()),
        };
        seen.draft.timings().record = seen.clock.step();
        self.stop_at("opened");

        let performed = self
            .perform(&open, call, plan, seen.origin, seen.container, &tenant)
            .await;
        ticket.next_may_begin();
        let left_to_shim = performed.left_to_shim;
        let mut draft = seen.draft;
        let (leftover, cmdline) = draft.performed(performed, &mut seen.clock);
        draft.cmdline(match cmdline {
            Some(reading) => reading.words().await,
            None => None,
        });
        let post = draft.take_post();
        let (record, micros) = draft.finish();
        self.stop_at("performed");
        let record = self.closed(open, record, micros, left_to_shim);
        leftover.gone(&self.launcher).await;
        drop(ticket);
        if let Some(record) = record {
            self.post(post, record);
        }
    }

    /// Closes a record. `None`: it waited for its turn so long that what its shim has kept was taken in before it was open,
    /// and that is its record.
    fn closed(
        &self,
        open: Open,
        record: Record,
        micros: u64,
        left_to_shim: bool,
    ) -> Option<Arc<Record>> {
        let mut late = left_to_shim.then(|| self.late.hold());
        if let Some(late) = &mut late {
            if late.time(&record.id).is_some() {
                open.discard();
                return None;
            }
            late.note(&record.id, micros);
        }
        let result = self.records.close(open, &record, micros);
        drop(late);
        self.stop_at("closed");
        Some(self.told(record, result))
    }

    /// Records a core dump that we were too late for.
    pub fn late(&self, late: &Late) {
        self.missed.answered(late.words.facts().pid, late.started);
        let Ok(mut draft) = Draft::new(&self.node, late.id.map(id::text)) else {
            return warn!("a core dump that came too late has no record");
        };
        let lost = Lost {
            why: "the shim had ended when its request was read".to_owned(),
            facts: late.words.facts(),
        };
        let resolution = Resolution::default();
        let facts = facts::core(&late.words, Err(&lost), &resolution);
        draft.describe(&late.words, Err(&lost), &resolution, &facts);
        // A daemon before this one may have taken it in.
        if self
            .records
            .find(draft.id())
            .is_ok_and(|found| found.is_some())
        {
            return;
        }
        self.too_late(draft, late.kept);
    }

    /// Records a core dump whose shim did not wait for us; what it has kept of it replaces this record.
    fn too_late(&self, mut draft: Draft, kept: bool) {
        let mut late = self.late.hold();
        // The shim may have been faster, and what it kept was taken in.
        if late.time(draft.id()).is_some() {
            return;
        }
        draft.late(kept);
        let (record, micros) = draft.finish();
        let result = self.records.write(&record, micros);
        if kept {
            late.note(&record.id, micros);
        }
        drop(late);
        self.told(record, result);
        if kept {
            self.look_into_the_spool();
        }
    }

    /// Records a core dump whose process was killed before the kernel could be answered.
    pub fn killed(&self, pid: u32, started: u64) {
        self.missed.answered(Some(pid), started);
        let message = "it was killed before the kernel was told what to do";
        self.not_dumped(Some(pid), Reason::Killed, message);
    }

    /// Records a core dump that the kernel asked about and did not make.
    fn not_dumped(&self, pid: Option<u32>, reason: Reason, message: &str) {
        let Ok(mut draft) = Draft::new(&self.node, None) else {
            self.metrics.unwritten();
            return warn!("the core dump of process {pid:?} has no record: {message}");
        };
        draft.unanswered(pid, reason, message);
        let (record, micros) = draft.finish();
        let result = self.records.write(&record, micros);
        self.told(record, result);
    }

    /// Identifies, resolves, decides: everything that changes nothing.
    fn examine(&self, call: &CoreCall) -> Result<Examined, Errno> {
        let mut clock = Clock::new(call.started);
        let mut draft = Draft::new(&self.node, call.id.map(id::text))?;
        draft.timings().accept = clock.step();

        let room = Room::watch();
        let words = &call.words;
        let pidfd = call.pidfd.as_ref();
        let pidfd = pidfd.and_then(|pidfd| pidfd.try_clone().map_err(noted).ok());
        let origin = identify::core::identify(words, pidfd, call.started_ticks);
        draft.timings().identify = clock.step();

        let known = origin.as_ref().map_err(|lost| &**lost);
        let policy = self.policy();
        let resolve = |origin| self.resolver.resolve(origin, policy.containers());
        let resolution = known.map_or_else(|_| Resolution::default(), resolve);
        room.was_there()?;
        draft.timings().resolve = clock.step();

        let upcall = Upcall::Core(words.upcall());
        let facts = facts::core(words, known, &resolution);
        let decision = decide(&policy, &upcall, &facts, draft.id());
        draft.describe(words, known, &resolution, &facts);
        draft.came_by(call.caller.hook());
        draft.decided(&policy, &upcall, &facts, &decision);
        draft.timings().decide = clock.step();
        let (origin, container) = (origin.ok(), resolution.container);
        Ok(Examined {
            clock,
            draft,
            origin,
            container,
            facts,
            policy,
            decision,
        })
    }

    /// Refuses: nothing is read, which ends the dump. Refusals by a limit are put together, one record for all of a
    /// container, rule and reason within ten seconds.
    fn refuse(
        self: &Arc<Self>,
        call: &CoreCall,
        mut draft: Draft,
        reason: Reason,
        message: &str,
        together: Option<refusals::Key>,
    ) {
        if !call.caller.refuse(&call.kernel) {
            return self.too_late(draft, true);
        }
        draft.refused(reason, message);
        draft.timings().held = Clock::new(call.started).since_start(monotonic());
        if let Some(key) = together {
            return self.refusals.add(key, draft, self);
        }
        self.written(draft);
    }

    /// Everything is busy. The shim keeps its core, so that is no refusal; the kernel's own question is one.
    fn overloaded(self: &Arc<Self>, call: &CoreCall, draft: Draft, tenant: &Tenant) {
        if call.caller.is_shim() {
            return self.hand_back(call, "everything is busy");
        }
        let key = refusals::Key::new(None, tenant, Reason::Concurrency);
        self.refuse(call, draft, Reason::Concurrency, BUSY, Some(key));
    }

    /// Leaves the core to the shim, which keeps it; where the kernel itself asks, nobody does.
    fn hand_back(&self, call: &CoreCall, why: &str) {
        if !call.caller.is_shim() {
            call.caller.refuse(&call.kernel);
            warn!("a core dump is lost: {why}");
            return self.not_dumped(call.words.facts().pid, Reason::Resources, why);
        }
        warn!("a core dump goes to the spool: {why}");
        call.caller.hand_back();
        self.look_into_the_spool();
    }
}
