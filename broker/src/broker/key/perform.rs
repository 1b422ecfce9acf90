//! A plan for a key, done by the shim: what it is told, what it tells, and what the record says about it.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use upcall_config::capability;
use upcall_config::facts::Reason;
use upcall_config::keytype::KeyUpcall;
use upcall_config::plan::{Answer, Payload, Place, Plan, Run};
use upcall_config::text::escape;
use upcall_helpers::keytype;
use upcall_helpers::wire::{Answered, Event, PAYLOAD_MAX, Report, Verdict, WaitStatus};

use super::{SHORT, milliseconds, named};
use crate::broker::clock::Clock;
use crate::broker::draft::Draft;
use crate::broker::reason::{self, Explained};
use crate::broker::{Broker, monotonic};
use crate::identify::Origin;
use crate::intake::key::Shim;
use crate::launch::{Job, Slot};
use crate::linux::secure;
use crate::resolve::Container;
use crate::store::record::{Action, Outcome};
use crate::store::records::Open;

/// How long what stood before us may take.
const PASS: Duration = Duration::from_mins(1);

/// How long a payload that a container's program printed is good for: what the resolver of keyutils says too.
const PRINTED: Duration = Duration::from_secs(5);

/// The shim ends in time; so much longer its word is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// For whom.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) key: &'a KeyUpcall,
    pub(super) origin: Option<&'a Origin>,
    pub(super) container: Option<&'a Container>,
}

/// What came of it.
pub(super) struct Performed {
    actions: Vec<Action>,
    wrong: Option<Explained>,
    answer: Option<Answered>,
    errno: u32,
    payload: Option<usize>,
    ttl: Option<Duration>,
    launched: Option<u64>,
    released: u64,
}

impl Broker {
    /// Has the shim do what the plan says.
    pub(super) async fn perform_key(
        &self,
        open: &Open,
        shim: &Shim,
        plan: &Plan,
        target: Target<'_>,
    ) -> Performed {
        let mut work = Work {
            broker: self,
            open,
            shim,
            target,
            done: Performed {
                actions: Vec::new(),
                wrong: None,
                answer: None,
                errno: 0,
                payload: None,
                ttl: None,
                launched: None,
                released: 0,
            },
        };
        work.plan(plan).await;
        work.done.released = monotonic();
        work.done
    }
}

struct Work<'a> {
    broker: &'a Broker,
    open: &'a Open,
    shim: &'a Shim,
    target: Target<'a>,
    done: Performed,
}

impl Work<'_> {
    async fn plan(&mut self, plan: &Plan) {
        for refusal in plan.refused() {
            let mut action = Action::new(refusal.action);
            action.outcome = Outcome::Refused;
            self.note(action, refusal.reason, refusal.message.clone());
        }
        if let Some(run) = plan.run() {
            if let Err(wrong) = self.run(run).await {
                let mut action = Action::new("run");
                action.outcome = Outcome::Failed;
                self.note(action, wrong.reason, wrong.message);
                self.otherwise(&plan.after_failure()).await;
            }
        } else if let Some(answer) = plan.answer() {
            self.answer(answer).await;
        } else {
            self.otherwise(plan).await;
        }
    }

    /// To what stood before us, or refused.
    async fn otherwise(&mut self, plan: &Plan) {
        if plan.pass() {
            self.done.actions.push(Action::new("pass"));
            let deadline = milliseconds(PASS);
            return self
                .tell(
                    &Verdict::Pass {
                        deadline,
                        capabilities: capability::ALL,
                    },
                    PASS,
                )
                .await;
        }
        let errno = Errno::EACCES as u32;
        let ttl = milliseconds(SHORT);
        self.tell(&Verdict::Deny { errno, ttl }, SHORT).await;
    }

    async fn run(&mut self, run: &Run) -> Result<(), Explained> {
        let job = Job {
            id: self.open.id(),
            record: self.open.file(),
        };
        let inside = run.place() != Place::Host;
        let container = self.target.container.filter(|_| inside);
        let here =
            self.broker
                .launcher
                .for_key(job, run, container, self.target.origin, self.target.key);
        let here = here.map_err(|error| reason::launch(&error, &self.place()))?;
        let prints = (!run.has_authority()).then_some(PRINTED);
        self.done.ttl = prints;
        self.done.actions.push(here.action);
        let verdict = Verdict::RunHere {
            launch: here.launch,
            deadline: milliseconds(run.timeout()),
            prints: prints.map(milliseconds),
        };
        let fds: Vec<_> = here.fds.iter().map(AsFd::as_fd).collect();
        if self.shim.tell(&verdict, &fds).is_err() {
            self.lost();
            return Ok(());
        }
        drop(fds);
        drop(here.fds);
        self.follow(run.timeout()).await;
        if self.done.wrong.is_some() {
            // The shim was ended and its keeper may not have noticed, or the keeper was.
            let place = self.target.container.map(|c| c.leader.cgroups.clone());
            let (place, id) = (place.unwrap_or_default(), self.open.id().to_owned());
            let launcher = Arc::clone(&self.broker.launcher);
            tokio::task::spawn_blocking(move || launcher.end_helper(&id, Slot::Run, &place));
        }
        Ok(())
    }

    async fn answer(&mut self, answer: &Answer) {
        let key = self.target.key;
        let payload = match answer.payload() {
            Payload::Text(text) => Ok(text.as_bytes().to_vec()),
            Payload::File(path) => file(path),
        };
        let mut action = Action::new("answer");
        match payload {
            Err(why) => {
                action.outcome = Outcome::Failed;
                self.note(action, Reason::HelperMissing, why);
                let (errno, ttl) = (Errno::EKEYREJECTED as u32, milliseconds(SHORT));
                self.tell(&Verdict::Deny { errno, ttl }, SHORT).await;
            }
            Ok(text) => {
                // As the type has it; what we do not understand the kernel will judge.
                let payload = keytype::payload(&key.kind, &key.description, &text).unwrap_or(text);
                self.done.payload = Some(payload.len());
                self.done.ttl = Some(answer.ttl());
                self.done.actions.push(action);
                let ttl = milliseconds(answer.ttl());
                self.tell(&Verdict::Answer { payload, ttl }, SHORT).await;
            }
        }
    }

    async fn tell(&mut self, verdict: &Verdict, patience: Duration) {
        match self.shim.tell(verdict, &[]) {
            Ok(()) => self.follow(patience).await,
            Err(_) => self.lost(),
        }
    }

    /// Takes the shim's reports until the last one.
    async fn follow(&mut self, patience: Duration) {
        let end = tokio::time::Instant::now() + patience + GRACE;
        while let Ok(Ok(received)) = tokio::time::timeout_at(end, self.shim.says()).await {
            match Report::decode(&received.record) {
                Ok(report) => self.take(&report),
                Err(_) => break, // its end
            }
            if self.done.answer.is_some() {
                return;
            }
        }
        self.lost();
    }

    fn take(&mut self, report: &Report) {
        let program = self.program();
        let place = self.place();
        let slow = self.done.launched;
        let Some(action) = self.done.actions.last_mut() else {
            return self.answered(report);
        };
        match &report.event {
            Event::Started { .. } => {
                self.done.launched.get_or_insert(report.time);
            }
            Event::Failed { stage, errno } => {
                let errno = Errno::from_raw(i32::try_from(*errno).unwrap_or(0));
                let wrong = reason::stage(*stage, errno, &program, &place);
                action.stage = Some(stage.as_str().to_owned());
                action.errno = Some(reason::name(errno));
                fail(action, &wrong);
                self.done.wrong.get_or_insert(wrong);
            }
            Event::Ended {
                status,
                timed_out,
                output,
                ..
            } => {
                action.duration_us = slow.map(|since| report.time.saturating_sub(since) / 1000);
                match status {
                    WaitStatus::Exited(code) => action.exit_code = Some(*code),
                    WaitStatus::Signaled(signal) => {
                        action.signal = Some(reason::signal_name(*signal));
                    }
                }
                action.output = Some(escape(output)).filter(|text| !text.is_empty());
                action.outcome = Outcome::Done;
                if let Some(wrong) = reason::ended(*status, *timed_out, &program) {
                    fail(action, &wrong);
                    self.done.wrong.get_or_insert(wrong);
                }
            }
            Event::Answered { .. } => self.answered(report),
            Event::Stored { .. } | Event::Gone { .. } => {}
        }
    }

    /// The shim's last word.
    fn answered(&mut self, report: &Report) {
        let Event::Answered { how, errno } = report.event else {
            return;
        };
        self.done.answer = Some(how);
        self.done.errno = errno;
        let program = self.program();
        let wrong = match how {
            Answered::Instantiated | Answered::ByHelper => None,
            Answered::Rejected if errno == Errno::EBADMSG as u32 => Some(format!(
                "what {program} printed is not what a key of this type holds"
            )),
            Answered::Rejected => Some(format!(
                "the key has no answer; it was refused with {}",
                named(errno)
            )),
            Answered::Failed if errno == 0 => Some(format!(
                "{program} ended without an answer; the kernel refuses the key for a minute"
            )),
            Answered::Failed => Some(format!("the key could not be refused: {}", named(errno))),
        };
        let open = |action: &&mut Action| action.outcome == Outcome::Open;
        if let Some(action) = self.done.actions.iter_mut().find(open) {
            action.outcome = Outcome::Done;
        }
        if let Some(message) = wrong {
            let wrong = Explained {
                reason: Reason::Unanswered,
                message,
            };
            if let Some(action) = self.done.actions.last_mut()
                && action.outcome == Outcome::Done
            {
                fail(action, &wrong);
            }
            self.done.wrong.get_or_insert(wrong);
        }
    }

    /// The shim has gone without its last word.
    fn lost(&mut self) {
        let wrong = Explained {
            reason: Reason::Late,
            message: "the shim ended before it said what became of the key".to_owned(),
        };
        for action in &mut self.done.actions {
            if action.outcome == Outcome::Open {
                fail(action, &wrong);
            }
        }
        self.done.wrong.get_or_insert(wrong);
    }

    fn note(&mut self, mut action: Action, reason: Reason, message: String) {
        action.reason = Some(reason.to_string());
        action.message = Some(message.clone());
        self.done.actions.push(action);
        let wrong = Explained { reason, message };
        self.done.wrong.get_or_insert(wrong);
    }

    fn program(&self) -> String {
        let argv = self.done.actions.last().and_then(|a| a.argv.as_ref());
        let program = argv.and_then(|argv| argv.first()).cloned();
        program.unwrap_or_else(|| "what stood before us".to_owned())
    }

    fn place(&self) -> String {
        match self.target.container {
            None => "the host".to_owned(),
            Some(container) => {
                let facts = &container.facts;
                escape(facts.name.as_ref().unwrap_or(&facts.id))
            }
        }
    }
}

impl Performed {
    /// What the record says.
    pub(super) fn into_draft(self, draft: &mut Draft, clock: &mut Clock) {
        if let Some(key) = draft.key() {
            let word = match self.answer {
                Some(Answered::Instantiated) => Some("instantiated"),
                Some(Answered::ByHelper) => Some("helper"),
                Some(Answered::Rejected) => Some("rejected"),
                Some(Answered::Failed) | None => None,
            };
            key.answer = word.map(str::to_owned);
            let ours = self.answer == Some(Answered::Instantiated);
            key.payload_bytes = self
                .payload
                .filter(|_| ours)
                .and_then(|n| n.try_into().ok());
            let ttl = match self.answer {
                Some(Answered::Instantiated) => self.ttl,
                Some(Answered::Rejected) => Some(SHORT),
                Some(Answered::ByHelper | Answered::Failed) | None => None,
            };
            key.ttl_us = ttl.and_then(|ttl| ttl.as_micros().try_into().ok());
            key.errno = (self.errno != 0).then(|| named(self.errno));
        }
        let answered = matches!(
            self.answer,
            Some(Answered::Instantiated | Answered::ByHelper)
        );
        let outcome = match (answered, &self.wrong) {
            (true, None) => Outcome::Done,
            (true, Some(_)) => Outcome::Partial,
            (false, _) => Outcome::Failed,
        };
        draft.acted(self.actions, outcome, self.wrong);
        let timings = draft.timings();
        timings.launch = self.launched.and_then(|time| clock.since_step(time));
        timings.held = clock.since_start(self.released);
        timings.actions = clock.step();
    }
}

fn fail(action: &mut Action, wrong: &Explained) {
    action.outcome = Outcome::Failed;
    action.reason = Some(wrong.reason.to_string());
    action.message = Some(wrong.message.clone());
}

/// A payload from a file of root's.
fn file(path: &Path) -> Result<Vec<u8>, String> {
    let max = u64::try_from(PAYLOAD_MAX).unwrap_or(0);
    secure::read_file(path, max).map_err(|error| format!("{}: {error}", path.display()))
}
