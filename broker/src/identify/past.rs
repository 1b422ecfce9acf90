//! The process of a core in the spool: gone, and known by what the shim read while it dumped.

use upcall_config::facts::ProcessFacts;
use upcall_helpers::wire::Spooled;

use super::core::CoreWords;
use super::{Evidence, Lost, cgroup};
use crate::linux::namespace::Ns;
use crate::linux::parse::{self, CgroupLine, Stat, Status};

/// A process that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// How we know that it was this one.
    pub evidence: Evidence,
    /// Ids, capabilities and the like.
    pub status: Status,
    /// Start time and the like.
    pub stat: Stat,
    /// Its cgroups.
    pub cgroups: Vec<CgroupLine>,
    /// The inodes of its namespaces; 0 for one that is not known.
    pub namespaces: [u64; 8],
    /// What rules can look at, but for what only a container can tell.
    pub facts: ProcessFacts,
    /// Whether namespaces and processes of now can be those of then.
    pub this_boot: bool,
}

impl Past {
    /// Reads what the shim wrote. `boot` is this boot's id.
    ///
    /// # Errors
    /// [`Lost`] where it is not provably of the process that dumped.
    pub fn read(words: &CoreWords, spooled: &Spooled, boot: &[u8]) -> Result<Self, Box<Lost>> {
        let said = words.facts();
        let lost = |why: &str| {
            Box::new(Lost {
                why: why.to_owned(),
                facts: words.facts(),
            })
        };
        let seen = &spooled.process;
        let unread = "it was gone before the shim could read about it";
        let status = Status::parse(&seen.status).ok_or_else(|| lost(unread))?;
        let stat = Stat::parse(&seen.stat).ok_or_else(|| lost(unread))?;
        let cgroups = parse::cgroups(&seen.cgroup).ok_or_else(|| lost(unread))?;
        let inside = parse::number(words.get("%p"));
        let agrees = status.pids.first().copied() == said.pid
            && status.uids.first().copied() == said.uid
            && status.pids.last().copied() == inside;
        if !agrees {
            return Err(lost("what the shim read is of another process"));
        }
        let evidence = match (seen.proven, status.dumping) {
            (true, _) => Evidence::KernelPidfd,
            (false, Some(true)) => Evidence::NumberChecked,
            (false, _) => return Err(lost("it was gone while the shim read about it")),
        };
        let facts = ProcessFacts {
            gid: status.gids.first().copied(),
            exe: Some(seen.exe.clone())
                .filter(|exe| !exe.is_empty())
                .or(said.exe.clone()),
            cgroup: cgroup(&cgroups).map(<[u8]>::to_vec),
            kernel_thread: Some(stat.is_kernel_thread()),
            ..said
        };
        Ok(Self {
            evidence,
            status,
            stat,
            cgroups,
            namespaces: seen.namespaces,
            facts,
            this_boot: !boot.is_empty() && spooled.boot == boot,
        })
    }

    /// The inode of one of its namespaces, if it is known.
    pub fn namespace(&self, kind: Ns) -> Option<u64> {
        let inode = self.namespaces.get(kind as usize).copied();
        inode.filter(|inode| *inode != 0)
    }
}
