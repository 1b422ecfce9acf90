//! The order in which a process's container is looked for.

use upcall_config::facts::Reason;
use upcall_config::rule::Declared;

use super::check;
use super::claim::Claim;
use super::leader::Leader;
use super::names::{self, Family, Nominee};
use super::sources::Sources;
use super::{Resolution, Resolver};
use crate::identify::Origin;
use crate::linux::namespace::{Ns, NsSet};
use crate::linux::parse::CgroupLine;
use crate::linux::procdir::ProcDir;
use crate::linux::sys;

/// How far up nested pid namespaces an init is looked for.
const NESTING_MAX: usize = 8;

/// What speaks for a container, beside its state, when [`check::accept`] accepts it.
pub(super) const ACCEPTED: [&str; 3] = ["leader", "namespaces", "cgroup"];

/// Looks for one process's container.
pub(super) struct Search<'a> {
    resolver: &'a Resolver,
    origin: &'a Origin,
    sources: Sources<'a>,
    resolution: Resolution,
    /// The first container of root's that it may live in and that cannot be compared with it.
    open: Option<String>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        resolver: &'a Resolver,
        origin: &'a Origin,
        declared: &'a [Declared],
    ) -> Self {
        let user = origin.namespaces.get(Ns::User);
        let owner = user.and_then(|user| user.owner_below(resolver.host.id(Ns::User)).ok());
        Self {
            resolver,
            origin,
            sources: Sources::new(resolver, declared, owner),
            resolution: Resolution::default(),
            open: None,
        }
    }

    /// Tries one way after the other, the best first.
    pub(super) fn run(mut self) -> Resolution {
        let found = self.by_cgroup() || self.by_state() || self.by_init();
        if !found {
            let reason = Reason::ContainerUnproven;
            self.resolution.host_only = self.open.map(|why| (reason, why));
        }
        self.resolution
    }

    /// By what the cgroups' names say, each path once, from the innermost component out.
    fn by_cgroup(&mut self) -> bool {
        let mut paths: Vec<&[u8]> = Vec::new();
        for line in &self.origin.cgroups {
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
            let claims = self.sources.claims(&nominee, &mut self.resolution.refused);
            if self.first_accepted(claims, &nominee) {
                return true;
            }
        }
        false
    }

    /// By the state of containers whose cgroup has a name that tells nothing.
    fn by_state(&mut self) -> bool {
        let Some(path) = self.origin.cgroup().filter(|path| *path != b"/") else {
            return false;
        };
        let nominees = names::nominees(path);
        let claims = self.sources.claims_on(&nominees).into_iter();
        let mut claims = claims.filter_map(|(which, claim)| Some((claim, nominees.get(which)?)));
        claims.any(|(claim, nominee)| self.first_accepted(vec![claim], nominee))
    }

    /// By the init of its pid namespace: a process that came in from outside has a cgroup of the host's.
    fn by_init(&mut self) -> bool {
        let cgroups = init_of(self.origin, &self.resolver.host).unwrap_or_default();
        for line in cgroups.iter().filter(|line| line.path != b"/") {
            for nominee in names::nominees(&line.path) {
                let claims = self.sources.claims(&nominee, &mut Vec::new());
                for claim in claims.into_iter().filter(|claim| claim.owner == 0) {
                    let Ok(leader) = Leader::open(&claim.init, &self.resolver.host) else {
                        continue;
                    };
                    if !check::lives_below(self.origin, &leader) {
                        continue;
                    }
                    let by = ["leader", "namespaces"];
                    let container = self.resolver.describe(claim, nominee.root, leader, &by);
                    let why = "its cgroup is not the container's".to_owned();
                    self.resolution.host_only = Some((Reason::FromOutside, why));
                    self.resolution.container = Some(container);
                    return true;
                }
            }
        }
        false
    }

    /// Compares; says whether the search is over.
    fn first_accepted(&mut self, claims: Vec<Claim>, nominee: &Nominee<'_>) -> bool {
        let (origin, host) = (self.origin, &self.resolver.host);
        for claim in claims {
            match check::accept(origin, &claim, nominee.component, host) {
                Ok(leader) => {
                    let container = self
                        .resolver
                        .describe(claim, nominee.root, leader, &ACCEPTED);
                    self.resolution.host_only = check::outside(origin, &container, host);
                    self.resolution.container = Some(container);
                    return true;
                }
                Err(refused) => {
                    let why = format!("{claim}: {refused}");
                    if claim.owner == 0 && refused.leaves_open() {
                        self.open.get_or_insert_with(|| why.clone());
                    }
                    self.resolution.refused.push(why);
                }
            }
        }
        false
    }
}

/// The cgroups of the init of a process's pid namespace, of the outermost that is not the host's.
fn init_of(origin: &Origin, host: &NsSet) -> Option<Vec<CgroupLine>> {
    let namespace = origin.namespaces.get(Ns::Pid)?;
    if namespace.id() == host.id(Ns::Pid) {
        return None;
    }
    // Nested pid namespaces: the outermost below ours is the container's, if any is.
    let mut pids = vec![sys::pid_from_namespace(namespace.fd(), 1).ok()?];
    for _ in 0..NESTING_MAX {
        let directory = ProcDir::open(*pids.last()?).ok()?;
        let parent = directory.stat().ok()?.parent;
        let parent_namespace = ProcDir::open(parent).ok();
        let nested = parent_namespace
            .and_then(|directory| NsSet::of_directory(&directory).ok())
            .filter(|namespaces| namespaces.id(Ns::Pid) != host.id(Ns::Pid));
        match nested
            .and_then(|namespaces| sys::pid_from_namespace(namespaces.get(Ns::Pid)?.fd(), 1).ok())
        {
            Some(pid) if !pids.contains(&pid) => pids.push(pid),
            _ => break,
        }
    }
    ProcDir::open(*pids.last()?).ok()?.cgroups().ok()
}
