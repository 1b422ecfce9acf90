//! A plan, done: launches, the reports that come of them, and what the record says about it.
//!
//! Who reads the kernel's pipe holds the claim, and only then the shim is let go. A helper that could not be started
//! has not claimed: then what `on_failure` says is done with the same pipe.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use tokio::sync::mpsc::UnboundedReceiver;
use upcall_config::facts::Reason;
use upcall_config::plan::{Place, Plan, Run, Store};
use upcall_config::text::escape;
use upcall_helpers::wire::{Event, Report};

use super::cmdline::Reading;
use super::reason::{self, Explained};
use super::{Broker, monotonic, release};
use crate::admit::Tenant;
use crate::hooks::pattern::Pattern;
use crate::identify::Origin;
use crate::identify::core::CoreWords;
use crate::intake::shim::{CoreCall, KernelPipe, Shim};
use crate::launch::{Job, Launcher, Slot, Source};
use crate::resolve::Container;
use crate::store::record::{Action, Outcome};
use crate::store::records::Open;

/// What came of a plan.
#[derive(Debug)]
pub(super) struct Performed {
    pub(super) actions: Vec<Action>,
    pub(super) outcome: Outcome,
    pub(super) reason: Option<Reason>,
    pub(super) message: Option<String>,
    /// When the kernel was let go, nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) released: Option<u64>,
    /// When the first program ran.
    pub(super) launched: Option<u64>,
    pub(super) leftover: Leftover,
    pub(super) cmdline: Option<Reading>,
}

/// Launches whose outcome is known and whose process may still be there.
#[derive(Debug)]
pub(super) struct Leftover {
    id: String,
    reports: UnboundedReceiver<Report>,
    alive: usize,
}

impl Leftover {
    /// Waits until the launcher has reaped them all: until then they count as running.
    pub(super) async fn gone(mut self, launcher: &Launcher) {
        while self.alive > 0 {
            match self.reports.recv().await {
                Some(Report {
                    event: Event::Gone { .. },
                    ..
                }) => self.alive -= 1,
                Some(_) => {}
                None => break,
            }
        }
        launcher.forget(&self.id);
    }
}

/// The work on one upcall.
pub(super) struct Work<'a> {
    pub(super) broker: &'a Broker,
    pub(super) open: &'a Open,
    pub(super) words: CoreWords,
    /// Ours to give away, until somebody holds the claim.
    pub(super) kernel: Option<KernelPipe>,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) shim: Shim,
    pub(super) origin: Option<Origin>,
    pub(super) container: Option<Container>,
    pub(super) tenant: &'a Tenant,
    /// Its command line, read while the helper is at work.
    pub(super) cmdline: Option<Reading>,
    pub(super) reports: UnboundedReceiver<Report>,
    /// Launches that have not been reaped.
    pub(super) alive: usize,
    pub(super) actions: Vec<Action>,
    /// What was first wrong.
    pub(super) wrong: Option<Explained>,
    pub(super) released: Option<u64>,
    pub(super) launched: Option<u64>,
    /// Whose start means that the claim is held.
    pub(super) claimant: Slot,
}

impl Broker {
    /// Does what the plan says.
    pub(super) async fn perform(
        &self,
        open: &Open,
        call: CoreCall,
        plan: Plan,
        origin: Option<Origin>,
        container: Option<Container>,
        tenant: &Tenant,
    ) -> Performed {
        let id = open.id().to_owned();
        let reports = self.launcher.listen(&id);
        let mut work = Work {
            broker: self,
            open,
            words: call.words,
            kernel: Some(call.kernel),
            pidfd: call.pidfd,
            shim: call.shim,
            origin,
            container,
            tenant,
            cmdline: None,
            reports,
            alive: 0,
            actions: Vec::new(),
            wrong: None,
            released: None,
            launched: None,
            claimant: Slot::Run,
        };
        work.refused_run(&plan);
        work.run_plan(plan).await;
        if let Some(kernel) = work.kernel.take() {
            // Nobody is to read it: that ends the dump.
            release(&kernel, &work.shim);
            work.released.get_or_insert_with(monotonic);
        }
        let (outcome, reason, message) = work.outcome();
        let leftover = Leftover {
            id,
            reports: work.reports,
            alive: work.alive,
        };
        let (actions, released, launched) = (work.actions, work.released, work.launched);
        Performed {
            actions,
            outcome,
            reason,
            message,
            released,
            launched,
            leftover,
            cmdline: work.cmdline,
        }
    }
}

impl Work<'_> {
    /// Notes a `run` that the rule has and that may not be done.
    fn refused_run(&mut self, plan: &Plan) {
        let Some(refusal) = plan.run_refused() else {
            return;
        };
        let mut action = Action::new("run");
        action.outcome = Outcome::Refused;
        action.reason = Some(refusal.reason.to_string());
        action.message = Some(refusal.message.clone());
        self.actions.push(action);
        self.wrong = Some(Explained {
            reason: refusal.reason,
            message: refusal.message.clone(),
        });
    }

    async fn run_plan(&mut self, plan: Plan) {
        let plan = if plan.pass() {
            if let Some(previous @ Pattern::Pipe(_)) = self.broker.previous() {
                return self.pass(&plan, &previous).await;
            }
            // A file pattern or a socket is nothing that a program could be given: a copy is kept.
            plan.pass_as_store()
        } else {
            plan
        };
        let limit = self.words.upcall().limit;
        let store = match plan.store().map(|s| (s, within_core_limit(s, limit))) {
            Some((store, Ok(()))) => Some(store),
            Some((_, Err(refused))) => {
                self.actions.push(*refused);
                None
            }
            None => None,
        };
        match (plan.run().cloned(), store) {
            (Some(run), None) => {
                if let Err(wrong) = self.run_from_kernel(&run).await {
                    self.failed(wrong);
                    if self.kernel.is_some() {
                        Box::pin(self.run_plan(plan.after_failed_run())).await;
                    }
                }
            }
            (Some(run), Some(store)) => self.run_and_store(&run, store).await,
            (None, Some(store)) => self.store(store, None).await,
            (None, None) => {}
        }
    }

    /// A helper straight from the kernel's pipe.
    async fn run_from_kernel(&mut self, run: &Run) -> Result<(), Explained> {
        let Some(kernel) = &self.kernel else {
            return Ok(());
        };
        let action = self.start(run, Source::Kernel(kernel)).await?;
        self.actions.push(action);
        self.claimant = Slot::Run;
        self.follow(&[Slot::Run]).await
    }

    /// A copy on the host, and the helper fed from it.
    async fn run_and_store(&mut self, run: &Run, store: Store) {
        let Ok((read, write)) = nix::unistd::pipe2(OFlag::O_CLOEXEC) else {
            return self.store(store, None).await;
        };
        let Some(kernel) = &self.kernel else { return };
        let hold = kernel.pipe.as_fd();
        let started = self.start(run, Source::Stored { pipe: read, hold }).await;
        match started {
            Ok(action) => {
                self.actions.push(action);
                self.store(store, Some(write)).await;
            }
            Err(wrong) => {
                self.failed(wrong);
                self.store(store, None).await;
            }
        }
    }

    async fn start(&self, run: &Run, source: Source<'_>) -> Result<Action, Explained> {
        let job = Job {
            id: self.open.id(),
            record: self.open.file(),
        };
        let inside = run.place() == Place::Container;
        let container = self.container.as_ref().filter(|_| inside);
        let launched = self
            .broker
            .launcher
            .run(job, run, container, self.origin.as_ref(), source);
        launched
            .await
            .map_err(|error| reason::launch(&error, &self.place()))
    }

    async fn store(&mut self, store: Store, feed: Option<OwnedFd>) {
        let helper = feed.is_some();
        let started = {
            let job = Job {
                id: self.open.id(),
                record: self.open.file(),
            };
            let cores = (&self.broker.cores, self.broker.settings.store.keep_free);
            let Some(kernel) = &self.kernel else { return };
            self.broker
                .launcher
                .store(job, store, cores, kernel, feed)
                .await
        };
        let mut action = Action::new("store");
        if let Err(error) = started {
            let wrong = reason::launch(&error, "the host");
            action.outcome = Outcome::Failed;
            action.reason = Some(wrong.reason.to_string());
            action.message = Some(wrong.message.clone());
            self.actions.push(action);
            return self.wrong(wrong);
        }
        let directory = self.broker.places.state.join("cores");
        action.path = Some(
            directory
                .join(format!("{}.core", self.open.id()))
                .display()
                .to_string(),
        );
        self.actions.push(action);
        self.claimant = Slot::Store;
        let slots: &[Slot] = if helper {
            &[Slot::Store, Slot::Run]
        } else {
            &[Slot::Store]
        };
        // What went wrong is in the actions already.
        drop(self.follow(slots).await);
    }

    async fn pass(&mut self, plan: &Plan, previous: &Pattern) {
        let argv = previous.command(&self.words);
        let mut action = Action::new("pass");
        action.argv = Some(argv.iter().map(|word| escape(word)).collect());
        let started = {
            let job = Job {
                id: self.open.id(),
                record: self.open.file(),
            };
            let Some(kernel) = &self.kernel else { return };
            let pidfd = self.pidfd.as_ref().filter(|_| previous.wants_pidfd());
            self.broker
                .launcher
                .pass(job, argv, kernel, pidfd.map(AsFd::as_fd))
                .await
        };
        self.actions.push(action);
        let followed = match started {
            Ok(()) => {
                self.claimant = Slot::Pass;
                self.follow(&[Slot::Pass]).await
            }
            Err(error) => Err(reason::launch(&error, "the host")),
        };
        if let Err(wrong) = followed {
            self.failed(wrong);
            if self.kernel.is_some() {
                // The former handler is not there any more; its core is kept.
                Box::pin(self.run_plan(plan.pass_as_store())).await;
            }
        }
    }

    /// Notes a launch that never was.
    fn failed(&mut self, wrong: Explained) {
        let open = |action: &&mut Action| action.outcome == Outcome::Open;
        if let Some(action) = self.actions.iter_mut().find(open) {
            fail(action, &wrong);
        } else if !self
            .actions
            .iter()
            .any(|action| action.outcome == Outcome::Failed)
        {
            let mut action = Action::new("run");
            fail(&mut action, &wrong);
            self.actions.push(action);
        }
        self.wrong(wrong);
    }

    pub(super) fn wrong(&mut self, wrong: Explained) {
        self.wrong.get_or_insert(wrong);
    }

    /// The outcome of all actions together.
    fn outcome(&self) -> (Outcome, Option<Reason>, Option<String>) {
        let done = self
            .actions
            .iter()
            .any(|action| matches!(action.outcome, Outcome::Done | Outcome::Partial));
        let bad = self.actions.iter().any(|action| {
            matches!(
                action.outcome,
                Outcome::Failed | Outcome::Partial | Outcome::Refused
            )
        });
        let outcome = match (done, bad) {
            (_, false) => Outcome::Done,
            (true, true) => Outcome::Partial,
            (false, true) => Outcome::Failed,
        };
        let wrong = self.wrong.as_ref();
        (
            outcome,
            wrong.map(|wrong| wrong.reason),
            wrong.map(|wrong| wrong.message.clone()),
        )
    }

    /// Begins to read the command line, now that nothing waits for us.
    pub(super) fn read_cmdline(&mut self) {
        if self.cmdline.is_none()
            && let Some(origin) = &self.origin
            && let Ok(process) = origin.process.try_clone()
        {
            self.cmdline = self.broker.cmdlines.start(self.tenant, process);
        }
    }

    pub(super) fn program(&self, slot: Slot) -> String {
        if slot == Slot::Store {
            return "upcall-store".to_owned();
        }
        let action = self
            .actions
            .iter()
            .find(|action| action.action == slot.as_str());
        let argv = action.and_then(|action| action.argv.as_ref());
        argv.and_then(|argv| argv.first())
            .cloned()
            .unwrap_or_default()
    }

    pub(super) fn place(&self) -> String {
        match &self.container {
            None => "the host".to_owned(),
            Some(container) => {
                let facts = &container.facts;
                escape(facts.name.as_ref().unwrap_or(&facts.id))
            }
        }
    }
}

/// Whether the process's own core limit lets a copy be kept; the error says so in the record.
pub(super) fn within_core_limit(store: Store, limit: Option<u64>) -> Result<(), Box<Action>> {
    /// Below a page the kernel itself writes no core file (fs/coredump.c).
    const PAGE: u64 = 4096;
    let limit = limit.unwrap_or(u64::MAX);
    if store.ignore_limit() || limit >= PAGE {
        return Ok(());
    }
    let mut action = Action::new("store");
    action.outcome = Outcome::Refused;
    action.reason = Some(Reason::CoreLimit.to_string());
    action.message = Some(format!(
        "its core limit is {limit} (store.ignore_limit is false)"
    ));
    Err(Box::new(action))
}

pub(super) fn fail(action: &mut Action, wrong: &Explained) {
    action.outcome = Outcome::Failed;
    action.reason = Some(wrong.reason.to_string());
    action.message = Some(wrong.message.clone());
}
