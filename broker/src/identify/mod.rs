//! Which process caused an upcall, by what evidence, and what is known about it.

pub mod core;
pub mod dumping;
pub mod helper;
pub mod key;
pub mod past;

use upcall_config::facts::ProcessFacts;
use upcall_config::text::escape;

use crate::linux::namespace::NsSet;
use crate::linux::parse::{CgroupLine, Stat, Status};
use crate::linux::pidref::PidRef;
use crate::linux::procdir::ProcDir;

/// How we know which process it was; ordered by trust, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// The kernel made a pidfd of it (`%F`, or the peer of its own connection).
    KernelPidfd,
    /// The kernel said its number, and everything that can be compared agrees.
    NumberChecked,
    /// The kernel made an authorisation key that names it, and it waits while the shim lives.
    AuthKey,
    /// The kernel's own two functions, by kprobe events: this thread asked, and it waits while the shim lives.
    Kprobe,
    /// It is the only thread on the host that waits for a module.
    Scan,
}

impl Evidence {
    /// The word used in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KernelPidfd => "kernel_pidfd",
            Self::NumberChecked => "number_checked",
            Self::AuthKey => "auth_key",
            Self::Kprobe => "kprobe",
            Self::Scan => "scan",
        }
    }
}

/// The process that caused an upcall, held and read; it was alive after the last read.
#[derive(Debug)]
pub struct Origin {
    /// The process.
    pub process: PidRef,
    /// The thread that caused it.
    pub tid: u32,
    /// Its directory in /proc: the thread's own where the group's leader is a zombie.
    pub directory: ProcDir,
    /// How we know.
    pub evidence: Evidence,
    /// Ids, capabilities and the like.
    pub status: Status,
    /// Start time and the like.
    pub stat: Stat,
    /// Its namespaces, held.
    pub namespaces: NsSet,
    /// Its cgroups, as we see them.
    pub cgroups: Vec<CgroupLine>,
    /// What its /proc/PID/exe links to.
    pub exe: Option<Vec<u8>>,
    /// The name of its thread.
    pub comm: Option<Vec<u8>>,
}

/// An upcall whose process cannot be known for sure: handled on the host only, by what the kernel's words say.
#[derive(Debug)]
pub struct Lost {
    /// What was missing, for people.
    pub why: String,
    /// What the kernel said.
    pub facts: ProcessFacts,
}

impl Origin {
    /// The cgroup that records and rules name: cgroup2's, else systemd's, else the first that is not the root.
    pub fn cgroup(&self) -> Option<&[u8]> {
        cgroup(&self.cgroups)
    }

    /// What rules can look at, but for what only a container's leader can tell.
    pub fn facts(&self) -> ProcessFacts {
        ProcessFacts {
            pid: Some(self.process.pid()),
            tid: Some(self.tid),
            uid: self.status.uids.first().copied(),
            gid: self.status.gids.first().copied(),
            comm: self.comm.clone(),
            exe: self.exe.clone(),
            cgroup: self.cgroup().map(<[u8]>::to_vec),
            kernel_thread: Some(self.stat.is_kernel_thread()),
            ..ProcessFacts::default()
        }
    }
}

/// The cgroup that records and rules name: cgroup2's, else systemd's, else the first that is not the root.
pub(crate) fn cgroup(cgroups: &[CgroupLine]) -> Option<&[u8]> {
    let rank = |line: &&CgroupLine| match line.controllers.as_slice() {
        _ if line.path == b"/" => 3,
        b"" => 0,
        b"name=systemd" => 1,
        _ => 2,
    };
    cgroups
        .iter()
        .min_by_key(rank)
        .map(|line| line.path.as_slice())
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.facts.pid.unwrap_or(0))?;
        if let Some(comm) = self.facts.comm.as_deref().filter(|comm| !comm.is_empty()) {
            write!(f, " {}", escape(comm))?;
        }
        write!(f, ": {}", self.why)
    }
}
