//! A launch for a key: the shim does it, because only its children may answer. So it goes to the shim, descriptors and
//! all, and nothing is started here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use upcall_config::keytype::KeyUpcall;
use upcall_config::plan::{Place, Run};
use upcall_helpers::wire::{FdRole, KeyWork, Launch, PAYLOAD_MAX, Task};

use super::{Job, LaunchError, Launcher, Slot, enter};
use crate::identify::Origin;
use crate::resolve::Container;
use crate::store::record::Action;

/// A launch for the shim.
#[derive(Debug)]
pub struct Here {
    /// The record.
    pub launch: Vec<u8>,
    /// What comes beside it: the program that does it, and the launch's own.
    pub fds: Vec<OwnedFd>,
    /// What the upcall's record says about it.
    pub action: Action,
}

impl Launcher {
    /// Works out a launch for the shim. `container` is where, for a plan whose place it is.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub fn for_key(
        &self,
        job: Job<'_>,
        run: &Run,
        container: Option<&Container>,
        origin: Option<&Origin>,
        key: &KeyUpcall,
    ) -> Result<Here, LaunchError> {
        let mut planned = enter::plan(run, container, origin, &self.cgroups, (job.id, Slot::Run))?;
        let program = self.programs.get(run)?;
        let kind = planned.enter.env.iter_mut();
        for word in kind.filter(|word| word.starts_with(b"UPCALL_KIND=")) {
            *word = b"UPCALL_KIND=key".to_vec();
        }
        planned.enter.in_all = true;
        planned.enter.key = Some(KeyWork {
            serial: key.serial,
            authority: run.has_authority(),
        });
        if !run.has_authority() {
            planned.enter.output = u32::try_from(PAYLOAD_MAX).unwrap_or(0);
        }
        let mut fds = vec![(FdRole::Record, owned(job.record.as_fd())?)];
        if let Some(container) = container.filter(|_| run.place() != Place::Host) {
            fds.push((FdRole::Leader, owned(container.leader.process.fd())?));
        }
        if let Some(program) = &program {
            fds.push((FdRole::Program, owned(program.fd())?));
        }
        let callout = key.callout.as_deref().unwrap_or_default();
        fds.push((FdRole::Stdin, filled(callout)?));
        fds.append(&mut planned.fds);
        let (roles, mut fds): (Vec<FdRole>, Vec<OwnedFd>) = fds.into_iter().unzip();
        let launch = Launch {
            id: job.id.as_bytes().to_vec(),
            slot: Slot::Run as u8,
            fds: roles,
            task: Task::Enter(Box::new(planned.enter)),
        };
        fds.insert(0, owned(self.own.enter.fd())?);
        Ok(Here {
            launch: launch.encode()?,
            fds,
            action: planned.action,
        })
    }
}

fn owned(fd: BorrowedFd<'_>) -> Result<OwnedFd, LaunchError> {
    fd.try_clone_to_owned()
        .map_err(|_| LaunchError::Descriptor(Errno::EMFILE))
}

/// A pipe with these bytes in it and their end behind them: fewer than a pipe's smallest buffer.
fn filled(bytes: &[u8]) -> Result<OwnedFd, LaunchError> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(LaunchError::Descriptor)?;
    if !bytes.is_empty() {
        nix::unistd::write(&write, bytes).map_err(LaunchError::Descriptor)?;
    }
    Ok(read)
}
