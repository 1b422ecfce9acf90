//! One module, or another helper of the kernel's, from its arrival to its record. The order is a core's; what is different:
//! whoever asked waits, and behind fifty of them the whole host, so nothing here waits for anybody, and the answer goes
//! out before the record is written. What may run is the host's own program, which the shim becomes.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tracing::warn;
use upcall_config::capability;
use upcall_config::decide::{Decision, Verdict, decide};
use upcall_config::facts::{Facts, Reason};
use upcall_config::plan::Plan;
use upcall_config::rule::{Policy, Rule};
use upcall_config::settings::LimitSettings;
use upcall_config::text::escape;
use upcall_config::upcall::Kind;
use upcall_helpers::umh::Look;
use upcall_helpers::wire::{self, Event, Report, WaitStatus};

use super::clock::Clock;
use super::draft::Draft;
use super::reason::{self, Explained};
use super::{BUSY, Broker, facts, monotonic, refusals};
use crate::admit::{Admit, Refused, Tenant};
use crate::identify::helper as identify;
use crate::identify::{Lost, Origin};
use crate::intake::helper::{Helper, HelperCall, Wanted};
use crate::linux::modreq::{Requests, TraceError, Watch};
use crate::linux::room::Room;
use crate::resolve::Resolution;
use crate::store::id;
use crate::store::record::{Action, Outcome};

/// Why a helper is refused that has not its own words.
const ODD: &str =
    "its words are not those that the kernel gives this program, so somebody else has named it";

/// The shim says that it goes on as soon as it is told to.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long modprobe is followed; it is not ended then, only the record is closed.
const FOLLOWED: Duration = Duration::from_mins(1);

/// What answering modules and other helpers needs beside the rest.
#[derive(Debug)]
pub(super) struct Helpers {
    /// The same limits as for cores, counted apart: for modules, and for the others.
    modules: Admit,
    others: Admit,
    /// Who asks.
    pub(super) watch: Watch,
    /// Who is looked for, where the kernel does not say who asks.
    scans: identify::Scans,
}

impl Helpers {
    /// With these limits.
    pub(super) fn new(limits: LimitSettings, watch: Watch) -> Self {
        Self {
            modules: Admit::new(limits),
            others: Admit::new(limits),
            watch,
            scans: identify::Scans::default(),
        }
    }

    pub(super) fn limits(&self, kind: Kind) -> &Admit {
        if kind == Kind::Module {
            &self.modules
        } else {
            &self.others
        }
    }
}

/// One that is understood and not yet acted on.
struct Examined {
    clock: Clock,
    draft: Draft,
    facts: Facts,
    policy: Arc<Policy>,
    decision: Decision,
    /// How many may have asked.
    candidates: usize,
    /// That they may not have been looked at rightly, and why.
    scarce: Option<Errno>,
}

impl Broker {
    /// Answers one request for a helper.
    pub async fn helper(self: Arc<Self>, call: HelperCall) {
        let mut seen = match self.examine_helper(&call).await {
            Ok(seen) => seen,
            Err(error) => {
                warn!("a {} is refused: {error}", call.wanted.kind());
                return call.give_up();
            }
        };
        if let Some(errno) = seen.scarce {
            let message = reason::scarce(errno);
            return self.give_up_helper(&call, seen, &message);
        }
        let named = call.wanted.other().map(|helper| helper.name.as_slice());
        if self.is_self_test(&seen.facts) || named.is_some_and(|name| self.is_named_self_test(name))
        {
            call.deny();
            return self.self_tested_by(call.wanted.kind().as_str(), seen.draft);
        }
        let plan = match allowed(&call, &seen) {
            Ok(plan) => plan,
            Err((reason, why)) => return self.refuse_helper(&call, seen, reason, &why),
        };
        let tenant = Tenant::of(&seen.facts);
        let rule = seen.decision.rule.and_then(|index| seen.policy.rule(index));
        let limit = rule.and_then(|rule| Some((rule.source().clone(), plan.limit()?)));
        let limit = limit.as_ref().map(|(rule, limit)| (rule, *limit));
        let limits = self.helpers.limits(call.wanted.kind());
        let ticket = match limits.enter_now(&tenant, limit) {
            Ok(ticket) => Some(ticket),
            Err(_) if call.fails_open() => None,
            Err(Refused::Limit { reason, message }) => {
                return self.refuse_helper(&call, seen, reason, &message);
            }
            Err(Refused::Overload) => {
                return self.refuse_helper(&call, seen, Reason::Concurrency, BUSY);
            }
        };
        seen.draft.timings().admit = seen.clock.step();
        let open = match self.records.open(seen.draft.record()) {
            Ok(open) => open,
            Err(error) => return self.give_up_helper(&call, seen, &error.to_string()),
        };
        seen.draft.timings().record = seen.clock.step();
        self.stop_at("opened");
        let action = self
            .become_helper(&call, plan.capabilities(), &mut seen)
            .await;
        drop(ticket);
        let outcome = action.outcome;
        let message = action.message.clone().filter(|_| outcome != Outcome::Done);
        let wrong = message.map(|message| Explained {
            reason: if action.stage.is_some() {
                Reason::HelperMissing
            } else {
                Reason::Late
            },
            message,
        });
        seen.draft.acted(vec![action], outcome, wrong);
        seen.draft.timings().actions = seen.clock.step();
        let (record, micros) = seen.draft.finish();
        let result = self.records.close(open, &record, micros);
        self.told(record, result);
    }

    /// Identifies, resolves, decides: everything that changes nothing. Where several may have asked, the one for whom the
    /// answer is no decides.
    async fn examine_helper(self: &Arc<Self>, call: &HelperCall) -> Result<Examined, Errno> {
        let mut clock = Clock::new(call.started);
        let mut draft = Draft::new(&self.node, call.id.map(id::text))?;
        draft.timings().accept = clock.step();
        let room = Room::watch();
        let (origins, lost) =
            match identify::identify(call, self.requests(), &self.helpers.scans).await {
                Ok(origins) => (origins, None),
                Err(lost) => (Vec::new(), Some(lost)),
            };
        draft.timings().identify = clock.step();

        let policy = self.policy();
        let upcall = call.wanted.upcall();
        let emptied = call.wanted.other().and_then(Helper::emptied);
        let decided = |known: Result<&Origin, &Lost>| {
            let declared = policy.containers();
            let resolution = match (known, emptied) {
                // Whoever asked is the kernel; whose it was says the path.
                (_, Some(path)) => self.resolver.resolve_emptied(path, declared),
                (Ok(origin), None) => self.resolver.resolve(origin, declared),
                (Err(_), None) => Resolution::default(),
            };
            let facts = match emptied {
                Some(_) => facts::emptied(known, &resolution),
                None => facts::asker(known, &resolution),
            };
            let decision = decide(&policy, &upcall, &facts, draft.id());
            (resolution, facts, decision)
        };
        let denied = |of: &(Resolution, Facts, Decision)| matches!(of.2.verdict, Verdict::Deny(_));
        let mut found = None;
        for origin in &origins {
            let next = decided(Ok(origin));
            let stop = denied(&next);
            if found.is_none() || stop {
                found = Some((Ok(origin), next));
            }
            if stop {
                break;
            }
        }
        let (known, (resolution, facts, decision)) = match (found, &lost) {
            (Some(found), _) => found,
            (None, Some(lost)) => (Err(&**lost), decided(Err(lost))),
            (None, None) => return Err(Errno::ESRCH),
        };
        let scarce = room.was_there().err();
        draft.timings().resolve = clock.step();
        draft.describe_helper(&call.wanted, known, origins.len(), &resolution, &facts);
        if scarce.is_none() {
            draft.decided(&policy, &upcall, &facts, &decision);
        }
        draft.timings().decide = clock.step();
        drop(upcall);
        Ok(Examined {
            clock,
            draft,
            facts,
            policy,
            decision,
            candidates: origins.len(),
            scarce,
        })
    }

    /// The kernel's own word on who asks, where it can be had; begun with the first request at the latest.
    fn requests(self: &Arc<Self>) -> Option<&Requests> {
        let requests = self.helpers.watch.requests();
        if requests.is_none() {
            let broker = Arc::clone(self);
            tokio::task::spawn_blocking(move || broker.watch_modules());
        }
        requests?.ok()
    }

    /// The kernel's own word on who asks for modules, or why there is none; `None`: nobody has asked yet.
    pub fn askers(&self) -> Option<Result<&Requests, &TraceError>> {
        self.helpers.watch.requests()
    }

    /// Begins to watch who asks for modules.
    pub fn watch_modules(&self) {
        self.helpers.watch.begin();
        if let Some(Err(error)) = self.helpers.watch.requests() {
            warn!(
                "who asks for modules is found by a scan of /proc, and what is ambiguous is refused: {error}"
            );
        }
    }

    /// Has the shim become the helper, and follows that.
    async fn become_helper(
        &self,
        call: &HelperCall,
        capabilities: u64,
        seen: &mut Examined,
    ) -> Action {
        let mut action = Action::new("pass");
        if call
            .wanted
            .other()
            .is_some_and(|helper| helper.program.is_empty())
        {
            // One that has gone has nothing to do either.
            let _ = call.tell(&wire::Verdict::Done);
            action.outcome = Outcome::Done;
            action.message =
                Some("nothing stood there before upcalld, so nothing is run".to_owned());
            return action;
        }
        let end = tokio::time::Instant::now() + PATIENCE;
        let told = call.tell(&wire::Verdict::Pass {
            deadline: 0,
            capabilities,
        });
        let mut went_on = None;
        while told.is_ok()
            && let Ok(Ok(received)) = tokio::time::timeout_at(end, call.shim.receive()).await
            // It becomes the helper, which closes the socket.
            && let Ok(report) = Report::decode(&received.record)
        {
            match report.event {
                Event::Started { .. } => went_on = Some(report.time),
                Event::Failed { stage, errno } => {
                    let errno = Errno::from_raw(i32::try_from(errno).unwrap_or(0));
                    action.outcome = Outcome::Failed;
                    action.stage = Some(stage.as_str().to_owned());
                    action.errno = Some(reason::name(errno));
                    action.message = Some(call.wanted.not_executed(&reason::name(errno)));
                    return action;
                }
                Event::Ended { .. }
                | Event::Stored { .. }
                | Event::Gone { .. }
                | Event::Answered { .. } => {}
            }
        }
        let Some(went_on) = went_on else {
            action.outcome = Outcome::Failed;
            action.message = Some("the shim did not wait for the answer".to_owned());
            return action;
        };
        seen.draft.timings().launch = seen.clock.since_step(went_on);
        action.outcome = Outcome::Done;
        if let Some((shim, _)) = &call.process {
            let status = tokio::time::timeout(FOLLOWED, shim.ended()).await;
            let held = Clock::new(call.started).since_start(monotonic());
            seen.draft.timings().held = held;
            action.duration_us = monotonic().checked_sub(went_on).map(|ns| ns / 1000);
            match status {
                // Not 0 where it has no such module, which the kernel asks for all the time.
                Ok(Ok(Some(WaitStatus::Exited(code)))) => action.exit_code = Some(code),
                Ok(Ok(Some(WaitStatus::Signaled(signal)))) => {
                    action.signal = Some(reason::signal_name(signal));
                }
                // What the kernel does not say, or not yet.
                Ok(Ok(None) | Err(_)) | Err(_) => {}
            }
        }
        action
    }

    /// Refuses for want of what it takes, unless it is one that is to run in any case.
    fn give_up_helper(self: &Arc<Self>, call: &HelperCall, seen: Examined, message: &str) {
        if call.fails_open() {
            warn!(
                "a {} goes on without a record: {message}",
                call.wanted.kind()
            );
            return call.give_up();
        }
        self.refuse_helper(call, seen, Reason::Resources, message);
    }

    /// Refuses. The first of a container's refusals of one alias is told at once; more within ten seconds are one record
    /// with their number.
    fn refuse_helper(
        self: &Arc<Self>,
        call: &HelperCall,
        mut seen: Examined,
        reason: Reason,
        message: &str,
    ) {
        call.deny();
        seen.draft.timings().held = Clock::new(call.started).since_start(monotonic());
        let found = seen.draft.record().message.clone();
        match found.filter(|_| seen.candidates == 0) {
            // What was found about the process, before what that means.
            Some(found) => seen.draft.refused(reason, &format!("{found}: {message}")),
            None => seen.draft.refused(reason, message),
        }
        let tenant = Tenant::of(&seen.facts);
        let rule = seen.decision.rule.and_then(|index| seen.policy.rule(index));
        let key = refusals::Key::new(rule.map(Rule::source), &tenant, reason);
        if let Some(draft) = self
            .refusals
            .first(key, call.wanted.about(), seen.draft, self)
        {
            self.written(draft);
        }
    }
}

/// What may be done, or why it is refused.
fn allowed(call: &HelperCall, seen: &Examined) -> Result<Plan, (Reason, String)> {
    let refused = |reason, why: &str| Err((reason, why.to_owned()));
    if call.process.is_none() {
        return refused(Reason::Late, "the shim's deadline was over");
    }
    if call.wanted.other().map(Helper::look) == Some(Look::Odd) {
        return refused(Reason::Forged, ODD);
    }
    match &seen.decision.verdict {
        // Who got lost may have been anybody, also one who asked in order to get lost.
        Verdict::Do(_) if seen.candidates == 0 && call.wanted.kind() == Kind::Module => {
            let why = "nobody is known to have asked, so nothing is loaded";
            refused(Reason::IdentityLost, why)
        }
        Verdict::Do(plan) => Ok(plan.clone()),
        Verdict::Deny(denial) if seen.candidates > 1 => {
            let why = format!(
                "one of {} processes asked, and for one of them the answer is: {}",
                seen.candidates, denial.reason
            );
            refused(Reason::Ambiguous, &why)
        }
        Verdict::Deny(denial) => refused(Reason::Rule, &denial.reason),
    }
}

impl HelperCall {
    fn fails_open(&self) -> bool {
        self.wanted.other().is_some_and(Helper::fails_open)
    }

    /// Nothing can be said about it; what must run does.
    fn give_up(&self) {
        if !self.fails_open() {
            return self.deny();
        }
        let _ = self.tell(&wire::Verdict::Pass {
            deadline: 0,
            capabilities: capability::ALL,
        });
    }

    fn deny(&self) {
        let (errno, ttl) = (Errno::EACCES as u32, 0);
        // One that has gone has refused by itself.
        let _ = self.tell(&wire::Verdict::Deny { errno, ttl });
    }

    fn tell(&self, verdict: &wire::Verdict) -> Result<(), Errno> {
        let record = verdict.encode().map_err(|_| Errno::E2BIG)?;
        self.shim.send(&record, &[])
    }
}

impl Wanted {
    fn not_executed(&self, errno: &str) -> String {
        let help = "help: `program` in the hook's file";
        match self {
            Self::Module(_) => format!("the host's modprobe cannot be executed: {errno}; {help}"),
            Self::Other(helper) => {
                format!("{} cannot be executed: {errno}", escape(&helper.program))
            }
        }
    }
}
