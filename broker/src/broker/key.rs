//! One key from its arrival to its record. The order is a core's; what is different: nothing of it is started here, the
//! shim does that, and the requester cannot be ended while it waits. So every refusal is one for a moment, and whatever
//! goes wrong ends in one.

mod perform;

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tracing::warn;
use upcall_config::decide::{Decision, Verdict, decide};
use upcall_config::facts::{Facts, Reason};
use upcall_config::rule::{Policy, Rule};
use upcall_helpers::wire;

use super::clock::Clock;
use super::draft::Draft;
use super::{BUSY, Broker, facts, monotonic, reason, refusals};
use crate::admit::{Refused, Tenant};
use crate::identify::key::{self as identify, Wanted};
use crate::identify::{Lost, Origin};
use crate::intake::key::KeyCall;
use crate::linux::room::Room;
use crate::resolve::{Container, Resolution};
use crate::store::id;

/// How long a refusal of ours holds: long enough for the requester to see its error.
const SHORT: Duration = Duration::from_secs(1);

/// A key that is understood and not yet acted on.
struct Examined {
    clock: Clock,
    draft: Draft,
    wanted: Wanted,
    origin: Option<Origin>,
    container: Option<Container>,
    facts: Facts,
    policy: Arc<Policy>,
    decision: Decision,
    /// That it may not have been looked at rightly, and why.
    scarce: Option<Errno>,
}

/// What a requester is told, and what the record says.
struct Refusal<'a> {
    errno: u32,
    ttl: Duration,
    reason: Reason,
    message: &'a str,
}

impl<'a> Refusal<'a> {
    fn new(errno: Errno, reason: Reason, message: &'a str) -> Self {
        Self {
            errno: errno as u32,
            ttl: SHORT,
            reason,
            message,
        }
    }

    fn scarce(message: &'a str) -> Self {
        Self::new(Errno::EIO, Reason::Resources, message)
    }
}

impl Broker {
    /// Answers one key.
    pub async fn key(self: Arc<Self>, call: KeyCall) {
        let mut seen = match self.examine_key(&call) {
            Ok(seen) => seen,
            Err(error) => {
                warn!("a key is refused: {error}");
                return tell(&call, Errno::EIO as u32, SHORT);
            }
        };
        if let Some(errno) = seen.scarce {
            let message = reason::scarce(errno);
            return self.refuse_key(&call, seen, &Refusal::scarce(&message));
        }
        if call.process.is_none() {
            seen.draft
                .refused(Reason::Late, "the shim's deadline was over");
            return self.finished_key(seen.draft);
        }
        if self.is_self_test(&seen.facts) {
            return self.key_self_tested(&call, seen.draft);
        }
        if seen.wanted.forged {
            let message = "only the kernel asks for keys of this type, and this was a program; nothing was started";
            let refusal = Refusal::new(Errno::EPERM, Reason::Forged, message);
            return self.refuse_key(&call, seen, &refusal);
        }
        if seen.wanted.expired {
            let message =
                "whoever asked let the key expire before it could be seen which one it was";
            let refusal = Refusal::new(Errno::EKEYEXPIRED, Reason::Unanswered, message);
            return self.refuse_key(&call, seen, &refusal);
        }
        let plan = match &seen.decision.verdict {
            Verdict::Do(plan) => plan.clone(),
            Verdict::Deny(denial) => {
                let denial = denial.clone();
                let refusal = Refusal {
                    errno: denial.errno,
                    ttl: denial.ttl,
                    ..Refusal::new(Errno::EACCES, Reason::Rule, &denial.reason)
                };
                return self.refuse_key(&call, seen, &refusal);
            }
        };
        let tenant = Tenant::of(&seen.facts);
        let rule = seen.decision.rule.and_then(|index| seen.policy.rule(index));
        let limit = rule.and_then(|rule| Some((rule.source(), plan.limit()?)));
        let mut ticket = match self.keys.enter(&tenant, limit).await {
            Ok(ticket) => ticket,
            Err(refused) => {
                let (reason, message) = match refused {
                    Refused::Limit { reason, message } => (reason, message),
                    // What is too much for us is not handed to somebody who asks less.
                    Refused::Overload => (Reason::Concurrency, BUSY.to_owned()),
                };
                let refusal = Refusal::new(Errno::EBUSY, reason, &message);
                return self.refuse_key(&call, seen, &refusal);
            }
        };
        seen.draft.timings().admit = seen.clock.step();
        let open = match self.records.open(seen.draft.record()) {
            Ok(open) => open,
            Err(error) => {
                let message = error.to_string();
                return self.refuse_key(&call, seen, &Refusal::scarce(&message));
            }
        };
        seen.draft.timings().record = seen.clock.step();
        self.stop_at("opened");
        let target = perform::Target {
            key: &seen.wanted.upcall,
            origin: seen.origin.as_ref(),
            container: seen.container.as_ref(),
        };
        let performed = self.perform_key(&open, &call.shim, &plan, target).await;
        ticket.next_may_begin();
        performed.into_draft(&mut seen.draft, &mut seen.clock);
        let (record, micros) = seen.draft.finish();
        let result = self.records.close(open, &record, micros);
        self.told(record, result);
        drop(ticket);
    }

    /// Identifies, resolves, decides: everything that changes nothing.
    fn examine_key(&self, call: &KeyCall) -> Result<Examined, Errno> {
        let mut clock = Clock::new(call.started);
        let mut draft = Draft::new(&self.node, call.id.map(id::text))?;
        draft.timings().accept = clock.step();
        let room = Room::watch();
        let wanted = identify::wanted(call);
        let origin = identify::identify(call);
        draft.timings().identify = clock.step();

        let known: Result<&Origin, &Lost> = origin.as_ref().map_err(|lost| &**lost);
        let policy = self.policy();
        let resolve = |origin| self.resolver.resolve(origin, policy.containers());
        let resolution = known.map_or_else(|_| Resolution::default(), resolve);
        let scarce = room.was_there().err();
        draft.timings().resolve = clock.step();

        let upcall = wanted.upcall();
        let facts = facts::asker(known, &resolution);
        let decision = decide(&policy, &upcall, &facts, draft.id());
        draft.describe_key(&wanted, known, &resolution, &facts);
        if wanted.is_for_rules() && scarce.is_none() {
            draft.decided(&policy, &upcall, &facts, &decision);
        }
        draft.timings().decide = clock.step();
        let (origin, container) = (origin.ok(), resolution.container);
        Ok(Examined {
            clock,
            draft,
            wanted,
            origin,
            container,
            facts,
            policy,
            decision,
            scarce,
        })
    }

    /// Refuses. The first of a tenant's refusals of one key is told at once; more within ten seconds are one record with
    /// their number.
    fn refuse_key(self: &Arc<Self>, call: &KeyCall, mut seen: Examined, refusal: &Refusal<'_>) {
        tell(call, refusal.errno, refusal.ttl);
        seen.draft.refused(refusal.reason, refusal.message);
        seen.draft.timings().held = Clock::new(call.started).since_start(monotonic());
        if let Some(key) = seen.draft.key() {
            key.answer = Some("rejected".to_owned());
            key.ttl_us = u64::try_from(refusal.ttl.as_micros()).ok();
            key.errno = Some(named(refusal.errno));
        }
        let tenant = Tenant::of(&seen.facts);
        let rule = seen.decision.rule.and_then(|index| seen.policy.rule(index));
        let rule = rule
            .filter(|_| seen.wanted.is_for_rules())
            .map(Rule::source);
        let key = refusals::Key::new(rule, &tenant, refusal.reason);
        let wanted = &seen.wanted.upcall;
        let about = [wanted.kind.as_slice(), b";", &wanted.description].concat();
        if let Some(draft) = self.refusals.first(key, &about, seen.draft, self) {
            self.finished_key(draft);
        }
    }

    fn finished_key(&self, draft: Draft) {
        let (record, micros) = draft.finish();
        let result = self.records.write(&record, micros);
        self.told(record, result);
    }
}

fn tell(call: &KeyCall, errno: u32, ttl: Duration) {
    let ttl = milliseconds(ttl);
    // A shim that has gone has refused it itself.
    let _ = call.shim.tell(&wire::Verdict::Deny { errno, ttl }, &[]);
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// An error's name.
fn named(errno: u32) -> String {
    reason::name(Errno::from_raw(i32::try_from(errno).unwrap_or(0)))
}
