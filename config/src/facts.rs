//! What is known about the process that caused an upcall and about the container it lives in.
//!
//! Everything here was found by the broker, from the kernel and from root-owned state; nothing is read in this
//! crate. `None` means *unknown*, except where a field says that it means "none": a condition on an unknown fact never
//! grants anything.
//! Tenants choose many of these texts (comm, exe, names, labels), so they are bytes and never more than that.

use std::collections::BTreeMap;
use std::fmt;

mod reason;

use crate::field::Field;
use crate::text::{Escaped, escape};

pub use reason::Reason;

/// Facts that rules can look at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The process that caused the upcall (the origin).
    pub process: ProcessFacts,
    /// The registered container the origin lives in; `None`: it lives in none, or none could be proven.
    pub container: Option<ContainerFacts>,
    /// Why nothing may run inside a container for this upcall, whatever the rules say.
    pub host_only: Option<Reason>,
}

/// The origin. Numbers are the host's unless the name says `inside`, which is the registered container's view
/// (the leader's pid and user namespace) and `None` outside of one or where it is not mapped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessFacts {
    /// Thread-group id, in the initial pid namespace.
    pub pid: Option<u32>,
    /// Thread id of the thread that caused the upcall, in the initial pid namespace.
    pub tid: Option<u32>,
    /// Thread-group id as the container sees it.
    pub pid_inside: Option<u32>,
    /// Thread id as the container sees it.
    pub tid_inside: Option<u32>,
    /// Real user id.
    pub uid: Option<u32>,
    /// Real group id.
    pub gid: Option<u32>,
    /// Real user id as the container sees it.
    pub uid_inside: Option<u32>,
    /// Real group id as the container sees it.
    pub gid_inside: Option<u32>,
    /// The thread's name, at most 15 bytes, the tenant's own words.
    pub comm: Option<Vec<u8>>,
    /// What /proc/PID/exe links to, the tenant's own words.
    pub exe: Option<Vec<u8>>,
    /// Path of the cgroup (cgroup2, else the named or first v1 hierarchy), seen from the host.
    pub cgroup: Option<Vec<u8>>,
    /// Whose user namespace the process lives in.
    pub user_namespace: Option<UserNamespace>,
    /// Who made its user namespace, where that is neither the host's nor a container's; rules do not see it.
    pub namespace_owner: Option<u32>,
    /// Whether it is a thread of the kernel itself.
    pub kernel_thread: Option<bool>,
}

/// The value of `match.process.user_namespace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UserNamespace {
    /// The host's.
    Initial,
    /// A registered container's own, or one below it.
    Container,
    /// Anybody's: made by unshare(2) or by something that nobody registered.
    Other,
}

impl UserNamespace {
    /// All values, in documentation order.
    pub const ALL: [Self; 3] = [Self::Initial, Self::Container, Self::Other];

    /// The word used in rules and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Container => "container",
            Self::Other => "other",
        }
    }

    /// The value with this word, if there is one.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|whose| whose.as_str() == word)
    }
}

/// Which program made the container, as rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of the runtimes say it")]
pub enum Runtime {
    Runc,
    Crun,
    Containerd,
    Docker,
    Podman,
    CriO,
    Lxc,
    Incus,
    Nspawn,
    /// Declared by the admin, `[[container]]`.
    Admin,
}

impl Runtime {
    /// All runtimes, in documentation order.
    pub const ALL: [Self; 10] = [
        Self::Runc,
        Self::Crun,
        Self::Containerd,
        Self::Docker,
        Self::Podman,
        Self::CriO,
        Self::Lxc,
        Self::Incus,
        Self::Nspawn,
        Self::Admin,
    ];

    /// The word used in rules and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::CriO => "cri-o",
            Self::Lxc => "lxc",
            Self::Incus => "incus",
            Self::Nspawn => "nspawn",
            Self::Admin => "admin",
        }
    }
}

impl Runtime {
    /// The runtime with this word, if there is one.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|runtime| runtime.as_str() == word)
    }

    /// Whether the runtime keeps the labels that this field looks at nowhere on disk, so that they are always unknown.
    pub(crate) fn keeps_no(self, field: Field) -> bool {
        if field == Field::PodLabel {
            // containerd copies none of a pod's labels into the bundle, and what is podman's is said below.
            matches!(self, Self::Containerd | Self::Docker | Self::Podman)
        } else if field == Field::ContainerLabel {
            // podman has labels only in its database, which is no format for others to read.
            matches!(
                self,
                Self::Podman | Self::Lxc | Self::Incus | Self::Nspawn | Self::Admin
            )
        } else {
            false
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A registered container: proven, at the moment of the upcall, by root-owned state of a runtime and by the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// What made it.
    pub runtime: Runtime,
    /// The runtime's id.
    pub id: Vec<u8>,
    /// The name people gave it.
    pub name: Option<Vec<u8>>,
    /// The image it was made from.
    pub image: Option<Vec<u8>>,
    /// Labels and annotations; `None` where the runtime keeps none on disk.
    pub labels: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Host uid that owns the state this was proven by. Not 0: a user wrote it, and only rules that name
    /// `match.container.owner` see the container (denials see it always).
    pub owner: u32,
    /// The Kubernetes or podman pod it belongs to; `None`: it is known to belong to none. Of a pod about which
    /// nothing could be found out, all fields are `None` instead.
    pub pod: Option<PodFacts>,
    /// What stands between its init and the host.
    pub confinement: Confinement,
    /// Whether uid 0 and gid 0 exist in its user namespace.
    pub root_is_mapped: bool,
}

impl ContainerFacts {
    /// What people call it, escaped: name and the first 12 characters of the id, `web 3f9c1e0a77d2`; one of them
    /// where they are the same or there is no name.
    pub fn title(&self) -> String {
        let short = self.id.get(..12).unwrap_or(&self.id);
        match &self.name {
            Some(name) if *name != self.id => {
                format!("{} {}", Escaped(name), Escaped(short))
            }
            Some(name) => escape(name),
            None => escape(short),
        }
    }
}

/// The pod of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodFacts {
    /// Kubernetes namespace.
    pub namespace: Option<Vec<u8>>,
    /// Name of the pod.
    pub name: Option<Vec<u8>>,
    /// Kubernetes uid, or podman's pod id.
    pub uid: Option<Vec<u8>>,
    /// Labels; `None` where the runtime keeps none on disk.
    pub labels: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// How far a container's init is from being the host's root; decides what a rule must allow before a helper enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confinement {
    /// A user namespace of its own, without the host's uid 0 and gid 0: root inside is nobody outside.
    UserNamespace,
    /// Shares the host's user namespace, or has the host's root in its own: root inside is root outside, with fewer
    /// capabilities.
    Capabilities,
    /// Shares the host's user namespace and holds a capability that is the host's root in all but name
    /// (`SYS_PTRACE`, `SYS_ADMIN`, `SYS_MODULE`, `SYS_RAWIO`, `BPF`, `DAC_READ_SEARCH`).
    Privileged,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &[u8], name: Option<&[u8]>) -> ContainerFacts {
        ContainerFacts {
            runtime: Runtime::Runc,
            id: id.to_vec(),
            name: name.map(<[u8]>::to_vec),
            image: None,
            labels: None,
            owner: 0,
            pod: None,
            confinement: Confinement::UserNamespace,
            root_is_mapped: true,
        }
    }

    #[test]
    fn a_container_is_called_by_name_and_short_id() {
        let long = b"3f9c1e0a77d2ffffffffffffffff";
        assert_eq!(container(long, Some(b"web")).title(), "web 3f9c1e0a77d2");
        assert_eq!(container(long, None).title(), "3f9c1e0a77d2");
        assert_eq!(container(b"box-3", Some(b"box-3")).title(), "box-3");
        assert_eq!(container(b"x", Some(b"\x1b[2J")).title(), "\\x1b[2J x");
    }

    #[test]
    fn words_lead_back_to_their_values() {
        for runtime in Runtime::ALL {
            assert_eq!(Runtime::from_word(runtime.as_str()), Some(runtime));
        }
        for whose in UserNamespace::ALL {
            assert_eq!(UserNamespace::from_word(whose.as_str()), Some(whose));
        }
    }
}
