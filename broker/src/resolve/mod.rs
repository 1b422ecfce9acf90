//! From a process to the container it lives in, or to the certainty that it lives in none we may enter.
//!
//! No table is kept and nothing is watched. The names of its cgroups nominate, from the innermost out; a nominee is
//! accepted if root's own state of a runtime names a live init, and the kernel says that the process lives in that
//! init's user and pid namespaces or below them, and in its cgroup. Everything else is refused and remembered, so that
//! a record can say who claimed to be whom.

pub mod leader;
pub mod names;
pub mod oci;
pub mod podman;

mod check;
mod past;

use std::collections::BTreeMap;

use upcall_config::facts::{ContainerFacts, PodFacts, Reason, Runtime, UserNamespace};
use upcall_config::settings::RuntimeSettings;
use upcall_config::text::escape;

use crate::identify::Origin;
use crate::linux::namespace::{Ns, NsSet};
use crate::linux::sys;
use check::Refused;
use leader::Leader;
use names::{Family, Nominee};
use oci::{Root, State};
use podman::Podman;

/// How far up nested pid namespaces an init is looked for.
const NESTING_MAX: usize = 8;

/// Resolves processes.
#[derive(Debug)]
pub struct Resolver {
    roots: Vec<Root>,
    podman: Podman,
    host: NsSet,
}

/// A registered container, its init held.
#[derive(Debug)]
pub struct Container {
    /// What rules see.
    pub facts: ContainerFacts,
    /// Its init.
    pub leader: Leader,
    /// The namespaces that it does not share with the host, as `CLONE_NEW*`.
    pub own_namespaces: u32,
    /// What it was accepted by, for the record.
    pub accepted_by: Vec<&'static str>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Resolution {
    /// The container the process lives in, or came into from outside.
    pub container: Option<Container>,
    /// Why nothing may run in it for this process, and the sentence that says so.
    pub host_only: Option<(Reason, String)>,
    /// Nominees that were not accepted, and why.
    pub refused: Vec<String>,
    /// Whose user namespace the process is in.
    pub user_namespace: Option<UserNamespace>,
}

impl Resolver {
    /// Reads our own namespaces, which are the host's.
    ///
    /// # Errors
    /// As open(2) on /proc/self/ns.
    pub fn new(settings: &RuntimeSettings) -> Result<Self, nix::errno::Errno> {
        let root = |runtime| {
            move |path: &std::path::PathBuf| Root {
                runtime,
                path: path.clone(),
            }
        };
        let runc = settings.runc.iter().map(root(Runtime::Runc));
        let crun = settings.crun.iter().map(root(Runtime::Crun));
        Ok(Self {
            roots: runc.chain(crun).collect(),
            podman: Podman::new(&settings.podman_graphroot),
            host: NsSet::own()?,
        })
    }

    /// The host's namespaces.
    pub fn host(&self) -> &NsSet {
        &self.host
    }

    /// Where runtimes keep their containers.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// podman's names.
    pub fn podman(&self) -> &Podman {
        &self.podman
    }

    /// Finds the container of a process.
    pub fn resolve(&self, origin: &Origin) -> Resolution {
        let mut resolution = Resolution::default();
        // A container has a namespace of its own, so who has none lives in none, whatever its cgroup is called.
        if origin.namespaces.ids() != self.host.ids() {
            self.by_cgroup(origin, &mut resolution);
            if resolution.container.is_none() {
                self.by_state(origin, &mut resolution);
            }
            if resolution.container.is_none() {
                self.by_init(origin, &mut resolution);
            }
        }
        resolution.user_namespace =
            Some(self.user_namespace(origin, resolution.container.as_ref()));
        resolution
    }

    fn user_namespace(&self, origin: &Origin, container: Option<&Container>) -> UserNamespace {
        if origin.namespaces.id(Ns::User) == self.host.id(Ns::User) {
            UserNamespace::Initial
        } else if container.is_some_and(|found| {
            // One that shares the host's owns none: what its processes unshare is anybody's.
            found.leader.namespaces.id(Ns::User) != self.host.id(Ns::User)
        }) {
            UserNamespace::Container
        } else {
            UserNamespace::Other
        }
    }

    /// By what the cgroups' names say, each path once, from the innermost component out.
    fn by_cgroup(&self, origin: &Origin, resolution: &mut Resolution) {
        let mut paths: Vec<&[u8]> = Vec::new();
        for line in &origin.cgroups {
            if line.path != b"/" && !paths.contains(&line.path.as_slice()) {
                paths.push(&line.path);
            }
        }
        let mut tried: Vec<(Family, Vec<u8>)> = Vec::new();
        for nominee in paths.into_iter().flat_map(names::nominees) {
            let key = (nominee.family, nominee.id.clone());
            if tried.contains(&key) {
                continue;
            }
            tried.push(key);
            if self.accepted(origin, &nominee, resolution) {
                return;
            }
        }
    }

    /// Looks one nominee up and compares; says whether the search is over.
    fn accepted(
        &self,
        origin: &Origin,
        nominee: &Nominee<'_>,
        resolution: &mut Resolution,
    ) -> bool {
        if nominee.family == Family::Monitor {
            return false;
        }
        for root in &self.roots {
            let state = match root.get(&nominee.id) {
                Ok(state) => state,
                Err(oci::StateError::Absent { .. }) => continue,
                Err(error) => {
                    resolution.refused.push(error.to_string());
                    continue;
                }
            };
            match check::accept(origin, &state, nominee.component) {
                Ok(leader) => {
                    let container = self.describe(&state, nominee, leader, &ACCEPTED);
                    resolution.host_only = check::outside(origin, &container, &self.host);
                    resolution.container = Some(container);
                    return true;
                }
                Err(refused) => resolution.refused.push(describe_refusal(&state, &refused)),
            }
        }
        false
    }

    /// By the state of containers whose cgroup has a name that tells nothing.
    fn by_state(&self, origin: &Origin, resolution: &mut Resolution) {
        let Some(path) = origin
            .cgroup()
            .filter(|path| *path != b"/")
            .map(<[u8]>::to_vec)
        else {
            return;
        };
        for nominee in names::nominees(&path) {
            for state in self
                .roots
                .iter()
                .flat_map(|root| root.with_cgroup(nominee.root))
            {
                match check::accept(origin, &state, nominee.component) {
                    Ok(leader) => {
                        let container = self.describe(&state, &nominee, leader, &ACCEPTED);
                        resolution.host_only = check::outside(origin, &container, &self.host);
                        resolution.container = Some(container);
                        return;
                    }
                    Err(refused) => resolution.refused.push(describe_refusal(&state, &refused)),
                }
            }
        }
    }

    /// By the init of its pid namespace: a process that came in from outside has a cgroup of the host's.
    fn by_init(&self, origin: &Origin, resolution: &mut Resolution) {
        let Some(leader) = self.init_of(origin) else {
            return;
        };
        for line in leader.iter().filter(|line| line.path != b"/") {
            for nominee in names::nominees(&line.path) {
                let states = self
                    .roots
                    .iter()
                    .filter_map(|root| root.get(&nominee.id).ok());
                for state in states {
                    let Ok(leader) = Leader::open(state.pid, state.start) else {
                        continue;
                    };
                    if !check::lives_below(origin, &leader) {
                        continue;
                    }
                    let accepted_by = ["state", "leader", "namespaces"];
                    let container = self.describe(&state, &nominee, leader, &accepted_by);
                    let why = "its cgroup is not the container's".to_owned();
                    resolution.host_only = Some((Reason::FromOutside, why));
                    resolution.container = Some(container);
                    return;
                }
            }
        }
    }

    /// The cgroups of the init of the process's pid namespace.
    fn init_of(&self, origin: &Origin) -> Option<Vec<crate::linux::parse::CgroupLine>> {
        let namespace = origin.namespaces.get(Ns::Pid)?;
        if namespace.id() == self.host.id(Ns::Pid) {
            return None;
        }
        // Nested pid namespaces: the outermost below ours is the container's, if any is.
        let mut pids = vec![sys::pid_from_namespace(namespace.fd(), 1).ok()?];
        for _ in 0..NESTING_MAX {
            let directory = crate::linux::procdir::ProcDir::open(*pids.last()?).ok()?;
            let parent = directory.stat().ok()?.parent;
            let parent_namespace = crate::linux::procdir::ProcDir::open(parent).ok();
            let nested = parent_namespace
                .and_then(|directory| NsSet::of_directory(&directory).ok())
                .filter(|namespaces| namespaces.id(Ns::Pid) != self.host.id(Ns::Pid));
            match nested.and_then(|namespaces| {
                sys::pid_from_namespace(namespaces.get(Ns::Pid)?.fd(), 1).ok()
            }) {
                Some(pid) if !pids.contains(&pid) => pids.push(pid),
                _ => break,
            }
        }
        crate::linux::procdir::ProcDir::open(*pids.last()?)
            .ok()?
            .cgroups()
            .ok()
    }

    fn describe(
        &self,
        state: &State,
        nominee: &Nominee<'_>,
        leader: Leader,
        accepted_by: &[&'static str],
    ) -> Container {
        let podman = nominee.family == Family::Podman;
        let names = if podman {
            self.podman.names(&state.id)
        } else {
            podman::Names::default()
        };
        let pod = names::pod(nominee.root);
        let facts = ContainerFacts {
            runtime: if podman {
                Runtime::Podman
            } else {
                state.runtime
            },
            id: state.id.as_bytes().to_vec(),
            // runc and crun know a container by its id alone: that is its name.
            name: if podman {
                names.name.map(String::into_bytes)
            } else {
                Some(state.id.as_bytes().to_vec())
            },
            image: names.image.map(String::into_bytes),
            // podman's labels are in its database; what it gives runc as annotations are its own.
            labels: (!podman && state.runtime == Runtime::Runc).then(|| state.annotations.clone()),
            owner: 0,
            pod: pod.map(|uid| PodFacts {
                uid: Some(uid),
                ..PodFacts::default()
            }),
            confinement: leader.confinement(&self.host),
            root_is_mapped: leader.uids.outside(0).is_some() && leader.gids.outside(0).is_some(),
        };
        let own_namespaces = leader.own_namespaces(&self.host);
        Container {
            facts,
            leader,
            own_namespaces,
            accepted_by: accepted_by.to_vec(),
        }
    }
}

/// What speaks for a container that [`check::accept`] accepts.
const ACCEPTED: [&str; 4] = ["state", "leader", "namespaces", "cgroup"];

fn describe_refusal(state: &State, refused: &Refused) -> String {
    format!(
        "{} {}: {refused}",
        state.runtime,
        escape(state.id.as_bytes())
    )
}

/// Annotations as text, for the record.
pub fn escaped(labels: &BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| (escape(key), escape(value)))
        .collect()
}
