//! What somebody's state says about one container, before anything of it is compared with the kernel's facts.

use std::collections::BTreeMap;

use upcall_config::facts::{PodFacts, Runtime};
use upcall_config::text::escape;

/// Labels or annotations.
pub type Labels = BTreeMap<Vec<u8>, Vec<u8>>;

/// A container as its runtime has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose state it is.
    pub runtime: Runtime,
    /// The runtime's id of it.
    pub id: Vec<u8>,
    /// Its init.
    pub init: Init,
    /// The user who could have written the state: 0, or that user's claims count for him alone.
    pub owner: u32,
    /// What speaks for it, as the record says it.
    pub evidence: &'static str,
    /// What is known about its names already.
    pub known: Known,
}

/// What the state itself says about names; which of it means what is the runtimes' own business.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The name, where the state has one beside the id.
    pub name: Option<Vec<u8>>,
    /// Annotations of the OCI configuration; `None` where they are kept elsewhere, or nowhere.
    pub annotations: Option<Labels>,
    /// The host name that its runtime gave it.
    pub hostname: Option<Vec<u8>>,
    /// Directories of its cgroups as the runtime saw them mounted.
    pub cgroups: Vec<String>,
}

/// A container's init, as state names it. A number alone names nobody: it is used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// The process `pid` that started at `start`, in clock ticks since boot.
    Started {
        /// Its number, in our pid namespace.
        pid: u32,
        /// Field 22 of /proc/PID/stat.
        start: u64,
    },
    /// The child `pid` of a root process of the host that answers for it.
    Child {
        /// Its number, in our pid namespace.
        pid: u32,
        /// Who answers for it.
        of: Supervisor,
    },
    /// Nobody says which process that is, although there is such a container: who should does not answer.
    Untold,
}

/// The process of the host that made a container and waits for its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supervisor {
    /// The process with this number.
    Process(u32),
    /// Whichever process is in the cgroup of this name, as the init itself.
    Beside(Vec<u8>),
}

impl Init {
    /// Its number; 0 for one that nobody tells.
    pub fn pid(&self) -> u32 {
        match self {
            Self::Started { pid, .. } | Self::Child { pid, .. } => *pid,
            Self::Untold => 0,
        }
    }
}

/// What people call a container. Names choose among rules and prove nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The name.
    pub name: Option<Vec<u8>>,
    /// The image it was made from.
    pub image: Option<Vec<u8>>,
    /// Labels and annotations; `None` where its runtime keeps none that others can read.
    pub labels: Option<Labels>,
    /// Its pod.
    pub pod: Option<PodFacts>,
}

impl Names {
    /// For a container that is known by its id alone: that is its name.
    pub fn by_id(claim: &Claim) -> Self {
        let known = &claim.known;
        Self {
            name: known.name.clone().or_else(|| Some(claim.id.clone())),
            labels: known.annotations.clone(),
            ..Self::default()
        }
    }

    /// For a container whose files a user wrote: what is in its state, and nothing of his home.
    pub fn by_user(claim: &Claim) -> Self {
        Self {
            labels: claim.known.annotations.clone(),
            ..Self::default()
        }
    }
}

impl Claim {
    /// An annotation that says something.
    pub fn annotation(&self, key: &str) -> Option<&[u8]> {
        let annotations = self.known.annotations.as_ref()?;
        let value = annotations.get(key.as_bytes())?;
        (!value.is_empty()).then_some(value)
    }

    /// As [`Claim::annotation`], to keep.
    pub fn noted(&self, key: &str) -> Option<Vec<u8>> {
        self.annotation(key).map(<[u8]>::to_vec)
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.runtime, escape(&self.id))
    }
}

/// A map of JSON that has texts for values, as labels.
pub fn labels(texts: BTreeMap<String, String>) -> Labels {
    let bytes = |(key, value): (String, String)| (key.into_bytes(), value.into_bytes());
    texts.into_iter().map(bytes).collect()
}

/// The pod in labels that the kubelet gives to every container.
pub fn pod_of_kubernetes(labels: &Labels) -> Option<PodFacts> {
    let label = |key: &[u8]| labels.get(key).cloned();
    let uid = label(b"io.kubernetes.pod.uid")?;
    Some(PodFacts {
        namespace: label(b"io.kubernetes.pod.namespace"),
        name: label(b"io.kubernetes.pod.name"),
        uid: Some(uid),
        labels: None,
    })
}
