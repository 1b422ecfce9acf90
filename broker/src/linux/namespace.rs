//! Namespaces of a process, held open: while a descriptor is held, its inode is nobody else's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use upcall_helpers::wire::{NAMESPACES, NamespaceId};

use super::pidref::PidRef;
use super::procdir::ProcDir;
use super::room::noted;
use super::sys::{self, NamespaceRequest};

/// Where each kind stands in every list of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "namespaces(7)")]
pub enum Ns {
    User = 0,
    Mnt = 1,
    Pid = 2,
    Net = 3,
    Ipc = 4,
    Uts = 5,
    Cgroup = 6,
    Time = 7,
}

impl Ns {
    /// All kinds in order.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::Mnt,
        Self::Pid,
        Self::Net,
        Self::Ipc,
        Self::Uts,
        Self::Cgroup,
        Self::Time,
    ];

    /// The name in /proc/PID/ns.
    pub fn name(self) -> &'static str {
        NAMESPACES.get(self as usize).map_or("", |(name, _)| name)
    }

    /// The `CLONE_NEW*` flag.
    pub fn flag(self) -> u32 {
        NAMESPACES.get(self as usize).map_or(0, |(_, flag)| *flag)
    }
}

/// How deep user and pid namespaces nest at most (user_namespaces(7), pid_namespaces(7)).
const NESTING_MAX: usize = 33;

/// One namespace.
#[derive(Debug)]
pub struct NsFd {
    fd: OwnedFd,
    id: NamespaceId,
}

impl NsFd {
    fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(&fd)?;
        Ok(Self {
            fd,
            id: NamespaceId {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
        })
    }

    /// What tells it apart while it is held.
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The user namespace that owns it; for a user namespace its parent.
    ///
    /// # Errors
    /// `EPERM` where that is above our own.
    pub fn owner(&self) -> Result<Self, Errno> {
        Self::new(namespace_ioctl(self.fd(), NamespaceRequest::Owner)?)
    }

    /// Whether `ancestor` is this user or pid namespace or one above it.
    pub fn is_within(&self, ancestor: NamespaceId) -> bool {
        if self.id == ancestor {
            return true;
        }
        let mut parent = self.parent();
        for _ in 0..NESTING_MAX {
            match parent {
                Ok(namespace) if namespace.id == ancestor => return true,
                Ok(namespace) => parent = namespace.parent(),
                Err(_) => return false, // above our own, or none
            }
        }
        false
    }

    /// Whether the user namespace that owns this one is `ancestor` or below it.
    pub fn is_owned_within(&self, ancestor: NamespaceId) -> bool {
        self.owner().is_ok_and(|owner| owner.is_within(ancestor))
    }

    /// Who made this user namespace, or the outermost one around it that is below `host`: his uid in our own.
    ///
    /// # Errors
    /// `EPERM` where `host` is not above it; `ENOTTY` for a namespace of another kind.
    pub fn owner_below(&self, host: NamespaceId) -> Result<u32, Errno> {
        let mut owner = sys::namespace_owner_uid(self.fd())?;
        let mut parent = self.parent()?;
        for _ in 0..NESTING_MAX {
            if parent.id == host {
                return Ok(owner);
            }
            owner = sys::namespace_owner_uid(parent.fd())?;
            parent = parent.parent()?;
        }
        Err(Errno::EPERM)
    }

    fn parent(&self) -> Result<Self, Errno> {
        Self::new(namespace_ioctl(self.fd(), NamespaceRequest::Parent)?)
    }
}

fn namespace_ioctl(fd: BorrowedFd<'_>, request: NamespaceRequest) -> Result<OwnedFd, Errno> {
    sys::namespace_ioctl(fd, request).map_err(noted)
}

/// One namespace of a process, through its pidfd where the kernel can (6.11), else through /proc: then only a
/// verification *after* this makes it its own.
///
/// # Errors
/// `ESRCH` for a process that is gone or a zombie.
pub fn of_process(process: &PidRef, kind: Ns) -> Result<NsFd, Errno> {
    match namespace_ioctl(process.fd(), NamespaceRequest::OfProcess(kind as usize)) {
        Ok(fd) => NsFd::new(fd),
        Err(Errno::ENOTTY | Errno::EINVAL) => {
            let path = format!("/proc/{}/ns/{}", process.pid(), kind.name());
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            NsFd::new(nix::fcntl::open(path.as_str(), flags, Mode::empty()).map_err(noted)?)
        }
        Err(error) => Err(error),
    }
}

/// The namespaces of one process; a kind that the kernel does not have is missing.
#[derive(Debug, Default)]
pub struct NsSet {
    fds: [Option<NsFd>; 8],
}

impl NsSet {
    /// Those of a process, through its pidfd where the kernel can (6.11), else through its directory: then only a
    /// verification *after* this makes them its own.
    ///
    /// # Errors
    /// `ESRCH` for a process that is gone or a zombie.
    pub fn of(process: &PidRef, directory: &ProcDir) -> Result<Self, Errno> {
        let mut set = Self::default();
        for (place, slot) in set.fds.iter_mut().enumerate() {
            *slot = match namespace_ioctl(process.fd(), NamespaceRequest::OfProcess(place)) {
                Ok(fd) => Some(NsFd::new(fd)?),
                Err(Errno::ENOTTY | Errno::EINVAL) => return Self::of_directory(directory),
                Err(Errno::EOPNOTSUPP) => None, // a kernel without this kind
                Err(error) => return Err(error),
            };
        }
        Ok(set)
    }

    /// Those of a process or thread through its directory in /proc.
    ///
    /// # Errors
    /// `ESRCH` or `ENOENT` for one that is gone or a zombie.
    pub fn of_directory(directory: &ProcDir) -> Result<Self, Errno> {
        let mut set = Self::default();
        for (slot, kind) in set.fds.iter_mut().zip(Ns::ALL) {
            let path = format!("ns/{}", kind.name());
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let opened = openat(directory.fd(), path.as_str(), flags, Mode::empty());
            *slot = match opened.map_err(noted) {
                Ok(fd) => Some(NsFd::new(fd)?),
                // A kernel without this kind has no such entry; a zombie has none of them.
                Err(Errno::ENOENT) if kind != Ns::User && kind != Ns::Mnt => None,
                Err(Errno::ENOENT) => return Err(Errno::ESRCH),
                Err(error) => return Err(error),
            };
        }
        Ok(set)
    }

    /// Our own.
    ///
    /// # Errors
    /// As open(2) on /proc/self/ns.
    pub fn own() -> Result<Self, Errno> {
        Self::of_directory(&ProcDir::open(std::process::id())?)
    }

    /// One of them.
    pub fn get(&self, kind: Ns) -> Option<&NsFd> {
        self.fds.get(kind as usize).and_then(Option::as_ref)
    }

    /// What tells them apart; zeroes for a kind that the kernel does not have.
    pub fn ids(&self) -> [NamespaceId; 8] {
        let mut ids = [NamespaceId::default(); 8];
        for (id, fd) in ids.iter_mut().zip(&self.fds) {
            *id = fd.as_ref().map(NsFd::id).unwrap_or_default();
        }
        ids
    }

    /// What tells one of them apart.
    pub fn id(&self, kind: Ns) -> NamespaceId {
        self.get(kind).map(NsFd::id).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_find_the_same_namespaces() {
        let own = NsSet::own().unwrap();
        let pid = std::process::id();
        let by_pidfd =
            NsSet::of(&PidRef::open(pid).unwrap(), &ProcDir::open(pid).unwrap()).unwrap();
        assert_eq!(own.ids(), by_pidfd.ids());
        assert_ne!(own.id(Ns::User), own.id(Ns::Mnt));
        let user = own.get(Ns::User).unwrap();
        assert!(user.is_within(user.id()));
        assert!(!user.is_within(own.id(Ns::Mnt)));
        assert!(own.get(Ns::Mnt).unwrap().owner().is_ok());
    }
}
