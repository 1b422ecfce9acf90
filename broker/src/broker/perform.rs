//! A plan, done: who is started in which order, and what the record says about it.
//!
//! Who reads the kernel's pipe holds the claim, and only then the shim is let go. A helper that could not be started
//! has not claimed: then what `on_failure` says is done with the same pipe.

mod copy;
mod outcome;
mod takers;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use tokio::sync::mpsc::UnboundedReceiver;
use upcall_config::facts::Reason;
use upcall_config::plan::Plan;
use upcall_config::text::escape;
use upcall_helpers::wire::{Event, Report, Stage, WaitStatus};

use super::cmdline::Reading;
use super::follow::Going;
use super::reason::{self, Explained};
use super::{Broker, monotonic};
use crate::admit::Tenant;
use crate::hooks::pattern::Pattern;
use crate::hooks::sysctl::core_uses_pid;
use crate::identify::Origin;
use crate::identify::core::CoreWords;
use crate::intake::call::{Caller, CoreCall, KernelPipe};
use crate::launch::{Launcher, Slot};
use crate::linux::coresock::Answer;
use crate::linux::parse::CgroupLine;
use crate::resolve::Container;
use crate::store::ledger::Tokens;
use crate::store::record::{Action, Outcome};
use crate::store::records::Open;
pub(super) use outcome::{fail, within_core_limit};
use takers::Taker;

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
    /// The shim has taken the core, and keeps it.
    pub(super) left_to_shim: bool,
}

/// Launches whose outcome is known and whose process may still be there.
#[derive(Debug)]
pub(super) struct Leftover {
    id: String,
    reports: UnboundedReceiver<Report>,
    alive: usize,
    /// Where their cgroups are.
    place: Vec<CgroupLine>,
}

impl Leftover {
    /// Waits until the launcher has reaped them all: until then they count as running.
    pub(super) async fn gone(mut self, launcher: &Arc<Launcher>) {
        while self.alive > 0 {
            match self.reports.recv().await {
                Some(Report {
                    event: Event::Gone { status },
                    slot,
                    ..
                }) => {
                    self.alive -= 1;
                    if let Some(slot) = Slot::from_number(slot) {
                        launcher.gone(&self.id, slot, status, &self.place);
                    }
                }
                Some(_) => {}
                None => {
                    // Whatever they have left has nobody else who ends it.
                    let ended = WaitStatus::Signaled(9);
                    for slot in Slot::KEPT {
                        launcher.gone(&self.id, slot, ended, &self.place);
                    }
                    break;
                }
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
    pub(super) caller: Caller,
    /// Whether the kernel was told to write.
    begun: Option<bool>,
    pub(super) origin: Option<Origin>,
    pub(super) container: Option<Container>,
    pub(super) tenant: &'a Tenant,
    /// Its command line, read while the helper is at work.
    pub(super) cmdline: Option<Reading>,
    pub(super) reports: UnboundedReceiver<Report>,
    /// Launches whose end is not known yet.
    pub(super) going: Vec<Going>,
    /// Launches that have not been reaped.
    pub(super) alive: usize,
    pub(super) actions: Vec<Action>,
    /// What was first wrong.
    pub(super) wrong: Option<Explained>,
    /// Why whoever was to read the kernel's pipe for all did not: the others got nothing.
    pub(super) unread: Option<Explained>,
    pub(super) released: Option<u64>,
    pub(super) launched: Option<u64>,
    /// Room that was taken for a copy.
    pub(super) tokens: Option<Tokens>,
    /// Whose start means that the claim is held.
    pub(super) claimant: Option<Slot>,
    /// The shim has taken the core.
    pub(super) is_the_shims: bool,
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
            caller: call.caller,
            begun: None,
            origin,
            container,
            tenant,
            cmdline: None,
            reports,
            going: Vec::new(),
            alive: 0,
            actions: Vec::new(),
            wrong: None,
            unread: None,
            released: None,
            launched: None,
            tokens: None,
            claimant: None,
            is_the_shims: false,
        };
        work.refused(&plan);
        work.run_plan(plan).await;
        work.give_room_back();
        if let Some(kernel) = work.kernel.take() {
            // Nobody is to read it: that ends the dump, unless the shim has just begun to keep it.
            if !work.caller.refuse(&kernel) {
                work.left_to_shim();
            }
            work.released.get_or_insert_with(monotonic);
        }
        let (outcome, reason, message) = work.outcome();
        let leftover = Leftover {
            id,
            place: work.where_it_is().to_vec(),
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
            left_to_shim: work.is_the_shims,
        }
    }
}

impl Work<'_> {
    /// Has the kernel write, where it waits to be told, once; `false`: there is nothing for us to read.
    async fn begin(&mut self, answer: Answer) -> bool {
        let (None, Some(kernel)) = (self.begun, &self.kernel) else {
            return self.begun == Some(true);
        };
        if kernel.is_claimed() {
            // Whoever were started now would run, and get nothing.
            self.begun = Some(false);
            self.left_to_shim();
            let place = self.place();
            self.wrong(reason::stage(Stage::Claim, Errno::EAGAIN, "", &place));
            return false;
        }
        let begun = self.caller.begin(kernel, answer).await;
        self.begun = Some(begun.is_ok());
        if let Err(error) = &begun {
            self.kernel = None;
            self.wrong(Explained {
                reason: Reason::Killed,
                message: format!("the kernel does not write its core: {error}"),
            });
        }
        begun.is_ok()
    }

    async fn run_plan(&mut self, plan: Plan) {
        let plan = if plan.pass() {
            match self.broker.previous() {
                Some(previous @ Pattern::Pipe(_)) => {
                    if !self.begin(Answer::Write).await {
                        return;
                    }
                    return self.pass(&plan, &previous).await;
                }
                previous => self.pass_otherwise(&plan, previous.as_ref()),
            }
        } else {
            plan
        };
        let limit = self.words.upcall().limit;
        let store = match plan.store().map(|s| (s, within_core_limit(s, limit))) {
            Some((store, Ok(()))) => self.room_for(store),
            Some((_, Err(refused))) => {
                self.actions.push(*refused);
                None
            }
            None => None,
        };
        let takers = Taker::all(&plan);
        let wanted = !takers.is_empty() || store.is_some();
        let answer = takers::answer(&takers, store.is_some(), &plan);
        if wanted && !self.begin(answer).await {
            return;
        }
        let taken = match (takers.as_slice(), store) {
            ([], None) => true, // nobody is to have it
            ([taker], None) => match self.straight(taker).await {
                Ok(()) => true,
                Err(wrong) => {
                    self.failed(taker.slot, wrong);
                    self.kernel.is_none()
                }
            },
            (takers, store) => self.shared(takers, store).await,
        };
        if !taken {
            Box::pin(self.run_plan(plan.after_failure())).await;
        }
    }

    /// What stood before us was no program: the file that the kernel would have written, systemd's own socket, or else
    /// a copy that is kept.
    fn pass_otherwise(&mut self, plan: &Plan, previous: Option<&Pattern>) -> Plan {
        let upcall = self.words.upcall();
        let other = match previous {
            Some(Pattern::File(_)) => previous
                .and_then(|previous| previous.file(&self.words, core_uses_pid()))
                .and_then(|path| plan.pass_as_file(path, upcall.limit)),
            Some(previous) if previous.is_systemds_socket() => {
                let process = self.words.facts();
                Some(plan.pass_as_delivery(&upcall, &process, self.open.id()))
            }
            _ => None,
        };
        let other = other.unwrap_or_else(|| plan.pass_as_store());
        self.refused(&other);
        other
    }

    async fn pass(&mut self, plan: &Plan, previous: &Pattern) {
        let argv = previous.command(&self.words);
        let mut action = Action::new("pass");
        action.argv = Some(argv.iter().map(|word| escape(word)).collect());
        let started = {
            let Some(kernel) = &self.kernel else { return };
            let pidfd = self.pidfd.as_ref().filter(|_| previous.wants_pidfd());
            let launcher = &self.broker.launcher;
            launcher
                .pass(self.job(), argv, kernel, pidfd.map(AsFd::as_fd))
                .await
        };
        let followed = match started {
            Ok(()) => {
                self.launched(Slot::Pass, Some(action));
                self.claimant = Some(Slot::Pass);
                self.follow().await
            }
            Err(error) => {
                self.actions.push(action);
                Err(reason::launch(&error, "the host"))
            }
        };
        if let Err(wrong) = followed {
            self.failed(Slot::Pass, wrong);
            if self.kernel.is_some() {
                // The former handler is not there any more; its core is kept.
                Box::pin(self.run_plan(plan.pass_as_store())).await;
            }
        }
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
}
