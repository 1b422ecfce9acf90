//! From a plan to a running program: the only place that starts one, and it starts nothing itself. The launcher does,
//! told by one record and its descriptors ([`upcall_helpers::wire::Launch`]); what becomes of it comes back as reports.

mod enter;
pub mod former;
mod host;
mod key;
mod process;
mod programs;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::sync::mpsc;
use upcall_config::plan::{Program, Run};
use upcall_helpers::wire::{EncodeError, FdRole, Launch, Report, Task, WaitStatus, cgroup_name};

use crate::intake::call::KernelPipe;
use crate::linux::cgroup::Cgroups;
use crate::linux::memfd::{SealError, SealedProgram};
use crate::linux::parse::CgroupLine;
use crate::linux::pidref::PidRef;
use crate::linux::seqpacket::Connection;
use crate::resolve::Container;
use crate::store::record::Action;
use programs::Programs;

pub use enter::EnterError;
pub(crate) use enter::by_name;
pub use host::Keep;
pub use key::Here;
pub use process::Process;

/// The launcher takes records as fast as it forks; one that does not for this long is not well.
const SEND_DEADLINE: Duration = Duration::from_secs(1);

/// Launches of one record, told apart in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The helper.
    Run = 0,
    /// The copy on the host.
    Store = 1,
    /// What stood before us.
    Pass = 2,
    /// A socket in the container.
    Deliver = 3,
    /// A file of the process's own.
    File = 4,
    /// What runs when all is done.
    Post = 5,
}

impl Slot {
    /// The action's word in rules and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Store => "store",
            Self::Pass => "pass",
            Self::Deliver => "deliver",
            Self::File => "file",
            Self::Post => "post",
        }
    }

    /// Those whose launches have a keeper, and a cgroup of their own.
    pub const KEPT: [Self; 4] = [Self::Run, Self::Deliver, Self::File, Self::Post];

    /// Whether its launch has a keeper.
    pub fn has_keeper(self) -> bool {
        Self::KEPT.contains(&self)
    }

    /// The slot with this number on the wire.
    pub fn from_number(number: u8) -> Option<Self> {
        let others = [Self::Store, Self::Pass];
        Self::KEPT
            .into_iter()
            .chain(others)
            .find(|slot| *slot as u8 == number)
    }
}

/// Where a helper gets the core from.
#[derive(Debug)]
pub enum Source<'a> {
    /// Straight from the kernel's pipe, which it claims.
    Kernel(&'a KernelPipe),
    /// Nowhere: it claims the kernel's pipe, and has the process held, and reads nothing.
    Held(&'a KernelPipe),
    /// From the worker that stores it.
    Stored {
        /// The worker's pipe.
        pipe: OwnedFd,
        /// The kernel's pipe, to be held open.
        hold: BorrowedFd<'a>,
    },
    /// Something else than a core, to its end.
    Text(OwnedFd),
}

/// Why a program was not even handed to the launcher.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The helper's place or rights cannot be worked out.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The program of the host.
    #[error("{program}: {source}")]
    Program {
        /// Which.
        program: String,
        /// Why not.
        source: SealError,
    },
    /// The plan does not fit into a record.
    #[error("the plan is too large: {0}")]
    Encode(#[from] EncodeError),
    /// The launcher does not take it.
    #[error("the launcher does not answer: {0}")]
    Send(#[from] std::io::Error),
    /// A descriptor cannot be had.
    #[error("out of descriptors: {0}")]
    Descriptor(#[from] Errno),
}

/// The way to the launcher.
#[derive(Debug)]
pub struct Launcher {
    link: Connection,
    process: PidRef,
    waiting: Mutex<HashMap<Vec<u8>, mpsc::UnboundedSender<Report>>>,
    cgroups: Arc<Cgroups>,
    programs: Programs,
    own: OwnPrograms,
}

/// Our own programs that are started.
#[derive(Debug)]
pub struct OwnPrograms {
    /// upcall-store.
    pub store: SealedProgram,
    /// upcall-place.
    pub place: SealedProgram,
    /// The launcher's own, for the shim's children.
    pub enter: SealedProgram,
}

/// What is to be started for one record, and where its reports go.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The record's id.
    pub id: &'a str,
    /// The open record.
    pub record: &'a File,
}

impl Launcher {
    /// Takes over a started launcher.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn attach(process: Process, cgroups: Cgroups, own: OwnPrograms) -> std::io::Result<Self> {
        Ok(Self {
            link: Connection::new(process.socket)?,
            process: process.process,
            waiting: Mutex::default(),
            cgroups: Arc::new(cgroups),
            programs: Programs::default(),
            own,
        })
    }

    /// Mounts of the cgroup hierarchies, made before we gave up what that takes.
    pub fn cgroups(&self) -> Arc<Cgroups> {
        Arc::clone(&self.cgroups)
    }

    /// The launcher's pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Hands reports out until the launcher is gone; then everybody who waits is told by the end of their channel.
    pub async fn serve(self: Arc<Self>) {
        // Of its children one may be held by something that it cannot leave, and with it the other end of the link.
        let ended = async {
            if self.process.ended().await.is_err() {
                std::future::pending::<()>().await; // the link's own end is left
            }
        };
        tokio::pin!(ended);
        loop {
            let received = tokio::select! {
                // What was said before its end is heard.
                biased;
                received = self.link.receive() => received,
                () = &mut ended => break,
            };
            let Some(received) = received.ok().filter(|received| !received.record.is_empty())
            else {
                break;
            };
            if let Ok(report) = Report::decode(&received.record) {
                let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(waiter) = waiting.get(&report.id) {
                    drop(waiter.send(report));
                }
            }
        }
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Asks for the reports of a record.
    pub fn listen(&self, id: &str) -> mpsc::UnboundedReceiver<Report> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(id.as_bytes().to_vec(), sender);
        receiver
    }

    /// Wants no more of them.
    pub fn forget(&self, id: &str) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id.as_bytes());
    }

    /// A process of a launch was reaped. A keeper that was killed, also after its last word, has left its helper's cgroup and
    /// whoever is in that, which are ended.
    pub fn gone(self: &Arc<Self>, id: &str, slot: Slot, status: WaitStatus, place: &[CgroupLine]) {
        if status != WaitStatus::Exited(0) && slot.has_keeper() {
            let (launcher, id, place) = (Arc::clone(self), id.to_owned(), place.to_vec());
            tokio::task::spawn_blocking(move || launcher.end_helper(&id, slot, &place));
        }
    }

    /// Ends what is left of a launch whose keeper did not end it: everything in its cgroup, at or above `place`.
    pub fn end_helper(&self, id: &str, slot: Slot, place: &[CgroupLine]) {
        let name = cgroup_name(id.as_bytes(), slot as u8);
        self.cgroups.end_child(place, &name);
    }

    /// Leaves no cgroup of ours behind where no helper is.
    pub fn tidy(&self) {
        self.cgroups.remove_limited();
    }

    /// Starts a helper, or a program of ours as one. `container` is where, for a plan whose place it is. Returns what the record says about it.
    ///
    /// # Errors
    /// See [`LaunchError`]; nothing was started then.
    pub async fn run(
        &self,
        job: Job<'_>,
        (slot, run): (Slot, &Run),
        container: Option<&Container>,
        origin: Option<&crate::identify::Origin>,
        source: Source<'_>,
    ) -> Result<Action, LaunchError> {
        let record = Some(job.record);
        self.enter((job.id, record), (slot, run), container, origin, source)
            .await
    }

    /// Starts what a rule has for when all is done, with `text` as its standard input.
    ///
    /// # Errors
    /// See [`LaunchError`]; nothing was started then.
    pub async fn post(&self, id: &str, run: &Run, text: OwnedFd) -> Result<(), LaunchError> {
        let (what, source) = ((Slot::Post, run), Source::Text(text));
        self.enter((id, None), what, None, None, source).await?;
        Ok(())
    }

    async fn enter(
        &self,
        (id, record): (&str, Option<&File>),
        (slot, run): (Slot, &Run),
        container: Option<&Container>,
        origin: Option<&crate::identify::Origin>,
        source: Source<'_>,
    ) -> Result<Action, LaunchError> {
        let planned = enter::plan(run, container, origin, &self.cgroups, (id, slot))?;
        let program = self.programs.get(run)?;
        let mut fds = planned.fds;
        let mut borrowed: Vec<(FdRole, BorrowedFd<'_>)> = Vec::new();
        if let Some(record) = record {
            borrowed.push((FdRole::Record, record.as_fd()));
        }
        if let Some(origin) = origin.filter(|_| planned.enter.origin.is_some()) {
            borrowed.push((FdRole::Origin, origin.process.fd()));
        }
        if let Some(container) = container {
            borrowed.push((FdRole::Leader, container.leader.process.fd()));
        }
        if let Some(program) = &program {
            borrowed.push((FdRole::Program, program.fd()));
        } else if run.program() == Program::Place {
            borrowed.push((FdRole::Program, self.own.place.fd()));
        }
        match source {
            Source::Kernel(kernel) => borrowed.extend([
                (FdRole::Stdin, kernel.pipe.as_fd()),
                (FdRole::Claim, kernel.claim.as_fd()),
            ]),
            Source::Held(kernel) => {
                let (empty, _) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
                fds.push((FdRole::Stdin, empty));
                borrowed.extend([
                    (FdRole::Hold, kernel.pipe.as_fd()),
                    (FdRole::Claim, kernel.claim.as_fd()),
                ]);
            }
            Source::Stored { pipe, hold } => {
                fds.push((FdRole::Stdin, pipe));
                borrowed.push((FdRole::Hold, hold));
            }
            Source::Text(text) => fds.push((FdRole::Stdin, text)),
        }
        borrowed.extend(fds.iter().map(|(role, fd)| (*role, fd.as_fd())));
        self.send(id, slot, Task::Enter(Box::new(planned.enter)), &borrowed)
            .await?;
        Ok(planned.action)
    }

    async fn send(
        &self,
        id: &str,
        slot: Slot,
        task: Task,
        fds: &[(FdRole, BorrowedFd<'_>)],
    ) -> Result<(), LaunchError> {
        let (roles, fds): (Vec<FdRole>, Vec<BorrowedFd<'_>>) = fds.iter().copied().unzip();
        let launch = Launch {
            id: id.as_bytes().to_vec(),
            slot: slot as u8,
            fds: roles,
            task,
        };
        let record = launch.encode()?;
        Ok(self.link.send_within(&record, &fds, SEND_DEADLINE).await?)
    }
}

/// A program of the host by its path, for errors.
fn program_error(path: &Path, source: SealError) -> LaunchError {
    LaunchError::Program {
        program: path.display().to_string(),
        source,
    }
}
