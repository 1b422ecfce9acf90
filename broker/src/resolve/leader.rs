//! A container's init, held and read: what a helper may become.

use nix::errno::Errno;
use upcall_config::facts::Confinement;

use super::claim::{Init, Supervisor};
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
    /// There is such a container, and nobody says who its init is.
    #[error("who should say which process is its init does not answer")]
    Untold,
    /// It cannot be read: it is ending.
    #[error("its init {0} is ending: {1}")]
    Ending(u32, Errno),
    /// Its parent is not the process of the host that should have made it.
    #[error(
        "process {0} is not its init: no root process of the host that answers for it is its parent"
    )]
    Unanswered(u32),
}

impl Leader {
    /// Holds and reads the process that a claim names.
    ///
    /// # Errors
    /// See [`LeaderError`].
    pub fn open(init: &Init, host: &NsSet) -> Result<Self, LeaderError> {
        if *init == Init::Untold {
            return Err(LeaderError::Untold);
        }
        let pid = init.pid();
        let process = PidRef::open(pid).map_err(|_| LeaderError::Absent(pid))?;
        let directory = ProcDir::open(pid).map_err(|_| LeaderError::Absent(pid))?;
        let stat = directory.stat().map_err(|_| LeaderError::Absent(pid))?;
        match init {
            Init::Started { start, .. } if stat.start != *start => {
                return Err(LeaderError::Another(pid));
            }
            Init::Started { .. } => {}
            Init::Child { of, .. } if answers(of, stat.parent, host) => {}
            Init::Child { .. } | Init::Untold => return Err(LeaderError::Unanswered(pid)),
        }
        let leader = Self::read(process, directory, stat);
        let leader = leader.map_err(|errno| LeaderError::Ending(pid, errno))?;
        // While it has that parent, that parent lives, and was the process that was looked at.
        let parent = leader.directory.stat().map(|stat| stat.parent);
        let shares = leader.namespaces.id(Ns::Mnt) == host.id(Ns::Mnt);
        if matches!(init, Init::Child { .. }) && (parent != Ok(stat.parent) || shares) {
            return Err(LeaderError::Unanswered(pid));
        }
        Ok(leader)
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

/// Whether the process `parent` is the supervisor that was named, and as much the host's as we are: root's, in the
/// host's user, pid and mount namespaces, where no container's processes are.
fn answers(supervisor: &Supervisor, parent: u32, host: &NsSet) -> bool {
    let read = || {
        let directory = ProcDir::open(parent).ok()?;
        let namespaces = NsSet::of_directory(&directory).ok()?;
        Some((
            namespaces,
            directory.status().ok()?,
            directory.cgroups().ok()?,
        ))
    };
    let Some((namespaces, status, cgroups)) = read() else {
        return false;
    };
    let named = match supervisor {
        Supervisor::Process(pid) => *pid == parent,
        Supervisor::Beside(component) => cgroups.iter().any(|line| {
            let mut components = line.path.split(|byte| *byte == b'/');
            components.any(|part| part == component)
        }),
    };
    let hosts = [Ns::User, Ns::Pid, Ns::Mnt]
        .into_iter()
        .all(|kind| namespaces.id(kind) == host.id(kind));
    named && hosts && status.uids == [0; 4]
}
