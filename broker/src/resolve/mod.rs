//! From a process to the container it lives in, or to the certainty that it lives in none we may enter.
//!
//! No table decides and nothing is watched. The names of its cgroups nominate, from the innermost out; a nominee is
//! accepted if root's own state of a runtime names a live init, and the kernel says that the process lives in that
//! init's user and pid namespaces or below them, and in its cgroup. Everything else is refused and remembered, so that
//! a record can say who claimed to be whom.
//!
//! Each runtime's file turns what that runtime keeps into a [`claim::Claim`]; `check` is the one place that accepts
//! claims, `search` the order in which they are looked for.

pub mod claim;
pub mod leader;
pub mod names;
pub mod oci;

mod admin;
mod check;
mod containerd;
mod crio;
mod docker;
mod emptied;
mod lxc;
mod nspawn;
mod past;
mod podman;
mod search;
mod sources;
mod states;

use std::path::PathBuf;
use std::sync::Arc;

use upcall_config::facts::{ContainerFacts, Reason, Runtime, UserNamespace};
use upcall_config::rule::Declared;
use upcall_config::settings::RuntimeSettings;
use upcall_config::text::escape;

use crate::identify::Origin;
use crate::linux::cgroup::Cgroups;
use crate::linux::namespace::{Ns, NsSet};
use admin::Admin;
use claim::{Claim, Labels, Names};
use docker::Docker;
use leader::Leader;
use lxc::LxcPath;
use nspawn::Machines;
use oci::Root;
use podman::Podman;
use search::Search;
use states::States;

/// Resolves processes.
#[derive(Debug)]
pub struct Resolver {
    /// State directories of runtimes that have one.
    roots: Vec<Root>,
    /// State directories of runtimes that have one for each of their namespaces.
    parents: Vec<Root>,
    states: States,
    docker: Docker,
    lxc: Vec<LxcPath>,
    machines: Machines,
    units: PathBuf,
    users: PathBuf,
    cgroups: Option<Arc<Cgroups>>,
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
    /// Who made it, where that is neither the host's nor a container's.
    pub namespace_owner: Option<u32>,
}

impl Resolver {
    /// Reads our own namespaces, which are the host's. `cgroups`: to find what lives in those that the admin declares.
    ///
    /// # Errors
    /// As open(2) on /proc/self/ns.
    pub fn new(
        settings: &RuntimeSettings,
        cgroups: Option<Arc<Cgroups>>,
    ) -> Result<Self, nix::errno::Errno> {
        let roots = |runtime, paths: &[PathBuf]| -> Vec<Root> {
            paths.iter().map(|path| Root::new(runtime, path)).collect()
        };
        let lxc = |runtime, paths: &[PathBuf]| -> Vec<LxcPath> {
            let path = |path: &PathBuf| LxcPath {
                runtime,
                path: path.clone(),
            };
            paths.iter().map(path).collect()
        };
        Ok(Self {
            roots: [
                roots(Runtime::Runc, &settings.runc),
                roots(Runtime::Crun, &settings.crun),
            ]
            .concat(),
            parents: [
                roots(Runtime::Docker, &settings.docker),
                roots(Runtime::Containerd, &settings.containerd),
            ]
            .concat(),
            states: States::default(),
            docker: Docker::new(&settings.docker_root),
            lxc: [
                lxc(Runtime::Lxc, &settings.lxc),
                lxc(Runtime::Incus, &settings.incus),
            ]
            .concat(),
            machines: Machines(settings.machines.clone()),
            units: settings.units.clone(),
            users: settings.users.clone(),
            cgroups,
            podman: Podman::new(&settings.podman_graphroot),
            host: NsSet::own()?,
        })
    }

    /// The host's namespaces.
    pub fn host(&self) -> &NsSet {
        &self.host
    }

    /// Finds the container of a process; `declared` are those of the admin.
    pub fn resolve(&self, origin: &Origin, declared: &[Declared]) -> Resolution {
        // A container has a namespace of its own, so who has none lives in none, whatever its cgroup is called.
        let mut resolution = if origin.namespaces.ids() == self.host.ids() {
            Resolution::default()
        } else {
            Search::new(self, origin, declared).run()
        };
        let user_namespace = self.user_namespace(origin, resolution.container.as_ref());
        resolution.user_namespace = Some(user_namespace);
        if user_namespace == UserNamespace::Other {
            let user = origin.namespaces.get(Ns::User);
            let owner = user.and_then(|user| user.owner_below(self.host.id(Ns::User)).ok());
            resolution.namespace_owner = owner;
        }
        resolution
    }

    /// Everything that runtimes have, running or not, with the names of each; for whoever asks for one by its name.
    pub fn all(&self, declared: &[Declared]) -> Vec<(Claim, Names)> {
        let roots = self.oci_roots();
        let claims = roots.iter().flat_map(|root| {
            let ids = root.ids().into_iter();
            ids.filter_map(|id| root.get(&id).ok())
        });
        let lxc = self.lxc.iter().flat_map(LxcPath::all);
        let claims = claims.chain(lxc).chain(self.machines.all());
        let claims = claims.chain(self.admin(declared).all());
        claims
            .map(|claim| {
                let names = self.names(&claim, None);
                (claim, names)
            })
            .collect()
    }

    fn admin<'a>(&'a self, declared: &'a [Declared]) -> Admin<'a> {
        Admin {
            declared,
            cgroups: self.cgroups.as_deref(),
            units: &self.units,
        }
    }

    /// Where OCI runtimes keep their containers now.
    fn oci_roots(&self) -> Vec<Root> {
        let below = self.parents.iter().flat_map(Root::each_below);
        self.roots.iter().cloned().chain(below).collect()
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

    /// What people call a container; `pod`: the pod's id that its cgroup names.
    fn names(&self, claim: &Claim, pod: Option<Vec<u8>>) -> Names {
        let other = |id: &[u8]| {
            let mut roots = self.roots.iter();
            roots.find_map(|root| root.get(id).ok())
        };
        let mut names = match claim.runtime {
            // Whoever is not root has his files where his home is, which is no place for us to look.
            _ if claim.owner != 0 => Names::by_user(claim),
            Runtime::Podman => self.podman.names(claim, pod.clone(), other),
            Runtime::CriO => crio::names(claim, other),
            Runtime::Docker => self.docker.names(claim),
            Runtime::Containerd => containerd::names(claim),
            Runtime::Runc
            | Runtime::Crun
            | Runtime::Lxc
            | Runtime::Incus
            | Runtime::Nspawn
            | Runtime::Admin => Names::by_id(claim),
        };
        if let Some(uid) = pod {
            // The path above a container's cgroup is the host's own, so it may be believed as far as it goes.
            let known = names.pod.get_or_insert_default();
            known.uid.get_or_insert(uid);
        }
        names
    }

    /// A container from a claim that was accepted; `root` is the path of its cgroup.
    fn describe(
        &self,
        claim: Claim,
        root: &[u8],
        leader: Leader,
        accepted_by: &[&'static str],
    ) -> Container {
        let names = self.names(&claim, names::pod(root));
        let facts = ContainerFacts {
            runtime: claim.runtime,
            id: claim.id,
            name: names.name,
            image: names.image,
            labels: names.labels,
            owner: claim.owner,
            pod: names.pod,
            confinement: leader.confinement(&self.host),
            root_is_mapped: leader.uids.outside(0).is_some() && leader.gids.outside(0).is_some(),
        };
        let own_namespaces = leader.own_namespaces(&self.host);
        let mut evidence = vec![claim.evidence];
        evidence.extend(accepted_by);
        Container {
            facts,
            leader,
            own_namespaces,
            accepted_by: evidence,
        }
    }
}

/// Labels that are longer are in no record: annotations may have a quarter of a megabyte. Bytes, and their number.
const LABEL_MAX: usize = 1024;
const LABELS_MAX: usize = 128;

/// Labels as text, for the record: as many of them as one may hold.
pub fn escaped(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels
        .iter()
        .filter(|(key, value)| key.len() + value.len() <= LABEL_MAX)
        .take(LABELS_MAX)
        .map(|(key, value)| (escape(key), escape(value)))
        .collect()
}
