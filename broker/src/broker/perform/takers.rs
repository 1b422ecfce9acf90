//! Who gets a core: one alone straight from the kernel's pipe, several or one beside a copy through upcall-store,
//! which reads the kernel's pipe as fast as it can and feeds each at its own pace.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use upcall_config::plan::{OnFailure, Place, Plan, Run, Store};

use super::Work;
use crate::broker::reason::{self, Explained};
use crate::launch::{Job, Slot, Source};
use crate::linux::coresock::Answer;
use crate::store::record::Action;

/// One that takes the core, through a keeper.
#[derive(Debug, Clone)]
pub(super) struct Taker {
    pub(super) slot: Slot,
    run: Run,
}

impl Taker {
    /// All of a plan, in the order in which they are started and recorded.
    pub(super) fn all(plan: &Plan) -> Vec<Self> {
        let takers = [
            (Slot::Run, plan.run()),
            (Slot::Deliver, plan.deliver()),
            (Slot::File, plan.file()),
        ];
        let taker = |(slot, run): (Slot, Option<&Run>)| {
            let run = run?.clone();
            Some(Self { slot, run })
        };
        takers.into_iter().filter_map(taker).collect()
    }
}

/// What the kernel is to do for these takers, where it can be told: it need not write what nobody will read, not even
/// what `on_failure` keeps.
pub(super) fn answer(takers: &[Taker], copy: bool, plan: &Plan) -> Answer {
    let read = copy || takers.iter().any(|taker| taker.run.reads_core());
    if read || plan.on_failure() != OnFailure::Drop {
        Answer::Write
    } else {
        Answer::Hold
    }
}

impl Work<'_> {
    /// One taker, straight from the kernel's pipe.
    ///
    /// # Errors
    /// Why it was not started; where the kernel's pipe is still ours, nobody has read it.
    pub(super) async fn straight(&mut self, taker: &Taker) -> Result<(), Explained> {
        let Some(kernel) = &self.kernel else {
            return Ok(());
        };
        let source = if taker.run.reads_core() {
            Source::Kernel(kernel)
        } else {
            Source::Held(kernel)
        };
        let action = self.start(taker, source).await?;
        self.launched(taker.slot, Some(action));
        self.claimant = Some(taker.slot);
        self.follow().await
    }

    /// Several takers, or a copy beside them. Returns whether somebody was found who reads the kernel's pipe.
    pub(super) async fn shared(&mut self, takers: &[Taker], store: Option<Store>) -> bool {
        let mut feeds = Vec::new();
        for taker in takers {
            match self.start_fed(taker).await {
                Ok(feed) => feeds.extend(feed.map(|feed| (taker.slot, feed))),
                Err(wrong) => self.failed(taker.slot, wrong),
            }
        }
        if store.is_none() {
            // Whoever cannot be started says so before the first byte is read: then it is not too late for on_failure.
            self.begun().await;
            feeds.retain(|(slot, _)| self.is_going(*slot));
            if feeds.is_empty() && !takers.iter().any(|taker| self.is_going(taker.slot)) {
                return false;
            }
            if feeds.is_empty() {
                // Who only looks at the process is left, and has the claim; nobody reads.
                if let Some(kernel) = self.kernel.take() {
                    self.caller.refuse(&kernel);
                }
                drop(self.follow().await);
                return true;
            }
        }
        let feeds = feeds.into_iter().map(|(_, feed)| feed).collect();
        self.store(store, feeds).await;
        true
    }

    /// Starts a taker that waits for what upcall-store will write to the pipe that is returned; `None`: for nothing.
    async fn start_fed(&mut self, taker: &Taker) -> Result<Option<OwnedFd>, Explained> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
            .map_err(|errno| reason::launch(&errno.into(), &self.place()))?;
        let Some(kernel) = &self.kernel else {
            return Ok(None);
        };
        let hold = kernel.pipe.as_fd();
        let source = Source::Stored { pipe: read, hold };
        let action = self.start(taker, source).await?;
        self.launched(taker.slot, Some(action));
        Ok(taker.run.reads_core().then_some(write))
    }

    async fn start(&self, taker: &Taker, source: Source<'_>) -> Result<Action, Explained> {
        let launcher = &self.broker.launcher;
        let inside = taker.run.place() == Place::Container;
        let container = self.container.as_ref().filter(|_| inside);
        let what = (taker.slot, &taker.run);
        let launched = launcher
            .run(self.job(), what, container, self.origin.as_ref(), source)
            .await;
        launched.map_err(|error| reason::launch(&error, &self.place()))
    }

    pub(super) fn job(&self) -> Job<'_> {
        Job {
            id: self.open.id(),
            record: self.open.file(),
        }
    }
}
