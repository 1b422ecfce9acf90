//! The descriptors of one launch: those that came with it, and the pipes between keeper and helper.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use upcall_helpers::wire::{FdRole, Stage};

use crate::failure::{At, Failure};
use crate::status::Sender;

/// The pipes of one helper, made while its keeper waits for the launch.
#[derive(Debug)]
pub(crate) struct Pipes {
    ours: OurPipes,
    theirs: TheirPipes,
}

/// The keeper's ends.
#[derive(Debug)]
pub(crate) struct OurPipes {
    /// What is written here the helper reads.
    pub(crate) stdin: OwnedFd,
    /// What the helper writes comes out here.
    pub(crate) output: OwnedFd,
    /// How far the joiner came.
    pub(crate) status: OwnedFd,
    /// A byte for the joiner, when it is in all its cgroups.
    pub(crate) going: OwnedFd,
}

/// The joiner's ends.
#[derive(Debug)]
pub(crate) struct TheirPipes {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) sender: Sender,
    pub(crate) go: OwnedFd,
}

impl Pipes {
    /// Makes them.
    pub(crate) fn new() -> Result<Self, Failure> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).at(Stage::Pipes);
        let ((stdin, feed), (output, stdout)) = (pipe()?, pipe()?);
        let ((status, sender), (go, going)) = (pipe()?, pipe()?);
        // Room for a small core in one go: fewer rounds between the kernel, us and the helper. The kernel may say no.
        let _ = fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(1 << 20));
        Ok(Self {
            ours: OurPipes {
                stdin: feed,
                output,
                status,
                going,
            },
            theirs: TheirPipes {
                stdin,
                stdout,
                sender: Sender::new(sender),
                go,
            },
        })
    }

    /// Each side's own, so that each can close them when it is done.
    pub(crate) fn split(self) -> (OurPipes, TheirPipes) {
        (self.ours, self.theirs)
    }
}

/// The launch's descriptors by what they are.
#[derive(Debug, Default)]
pub(crate) struct Fds {
    single: BTreeMap<FdRole, OwnedFd>,
    pub(crate) cgroups_v1: Vec<OwnedFd>,
}

impl Fds {
    pub(crate) fn sort(roles: &[FdRole], fds: Vec<OwnedFd>) -> Self {
        let mut sorted = Self::default();
        for (role, fd) in roles.iter().zip(fds) {
            if *role == FdRole::CgroupV1 {
                sorted.cgroups_v1.push(fd);
            } else {
                sorted.single.insert(*role, fd);
            }
        }
        sorted
    }

    pub(crate) fn take(&mut self, role: FdRole) -> Option<OwnedFd> {
        self.single.remove(&role)
    }

    pub(crate) fn get(&self, role: FdRole) -> Option<&OwnedFd> {
        self.single.get(&role)
    }

    pub(crate) fn need(&mut self, role: FdRole) -> Result<OwnedFd, Failure> {
        self.take(role).ok_or(Failure {
            stage: Stage::Plan,
            errno: Errno::EBADF,
        })
    }
}
