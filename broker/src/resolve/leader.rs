//! A container's init, held and read: what a helper may become.

use nix::errno::Errno;
use upcall_config::facts::Confinement;

use crate::linux::namespace::{Ns, NsSet};
use crate::linux::parse::{CgroupLine, IdMap, Stat, Status};
use crate::linux::pidref::PidRef;
use crate::linux::procdir::ProcDir;

/// Capabilities that are the host's root in all but name, where no user namespace is between (capabilities(7)).
const HOST_ROOT: u64 = 1 << 2 // DAC_READ_SEARCH: open_by_handle_at(2) reaches every file of a file system
    | 1 << 16 // SYS_MODULE
    | 1 << 17 // SYS_RAWIO
    | 1 << 19 // SYS_PTRACE
    | 1 << 21 // SYS_ADMIN
    | 1 << 39; // BPF

/// A live init, as it was found.
#[derive(Debug)]
pub struct Leader {
    /// The process.
    pub process: PidRef,
    /// Its directory in /proc.
    pub directory: ProcDir,
    /// Start time and the like.
    pub stat: Stat,
    /// Ids, capabilities and the like.
    pub status: Status,
    /// Its namespaces, held.
    pub namespaces: NsSet,
    /// Its cgroups, as we see them.
    pub cgroups: Vec<CgroupLine>,
    /// The users of its user namespace.
    pub uids: IdMap,
    /// The groups of its user namespace.
    pub gids: IdMap,
}

/// Why a runtime's word about a process is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaderError {
    /// There is no process with its number.
    #[error("its init {0} is not there")]
    Absent(u32),
    /// The process with its number started at another time.
    #[error("process {0} is not its init: it started at another time")]
    Another(u32),
    /// It cannot be read: it is ending.
    #[error("its init {0} is ending: {1}")]
    Ending(u32, Errno),
}

impl Leader {
    /// Holds and reads the process `pid` if it started at `start` (clock ticks since boot).
    ///
    /// # Errors
    /// See [`LeaderError`].
    pub fn open(pid: u32, start: u64) -> Result<Self, LeaderError> {
        let process = PidRef::open(pid).map_err(|_| LeaderError::Absent(pid))?;
        let directory = ProcDir::open(pid).map_err(|_| LeaderError::Absent(pid))?;
        let stat = directory.stat().map_err(|_| LeaderError::Absent(pid))?;
        if stat.start != start {
            return Err(LeaderError::Another(pid));
        }
        Self::read(process, directory, stat).map_err(|errno| LeaderError::Ending(pid, errno))
    }

    fn read(process: PidRef, directory: ProcDir, stat: Stat) -> Result<Self, Errno> {
        let namespaces = NsSet::of(&process, &directory)?;
        let status = directory.status()?;
        let cgroups = directory.cgroups()?;
        let [uids, gids] = directory.id_maps()?;
        process.verify().map_err(|_| Errno::ESRCH)?;
        Ok(Self {
            process,
            directory,
            stat,
            status,
            namespaces,
            cgroups,
            uids,
            gids,
        })
    }

    /// What stands between it and the host.
    pub fn confinement(&self, host: &NsSet) -> Confinement {
        if self.namespaces.id(Ns::User) != host.id(Ns::User) {
            // A user namespace in which the host's root exists is no wall: its files are the host's root's. An init
            // without one of its own could make one like that for itself.
            let walled = self.uids.inside(0).is_none() && self.gids.inside(0).is_none();
            return if walled {
                Confinement::UserNamespace
            } else {
                Confinement::Capabilities
            };
        }
        let held = self.status.permitted | self.status.effective;
        if held & HOST_ROOT == 0 {
            Confinement::Capabilities
        } else {
            Confinement::Privileged
        }
    }

    /// The namespaces that it does not share with the host, as `CLONE_NEW*`.
    pub fn own_namespaces(&self, host: &NsSet) -> u32 {
        let own = Ns::ALL
            .into_iter()
            .filter(|kind| self.namespaces.id(*kind) != host.id(*kind));
        own.fold(0, |flags, kind| flags | kind.flag())
    }

    /// Capabilities that a helper beside it may have at most.
    pub fn capabilities(&self) -> u64 {
        self.status.bounding & self.status.permitted
    }
}
