//! The container of a cgroup that has lost its last process, by the path that cgroup v1 tells its release agent. Nothing
//! is ever entered by this: what runs is the host's.
//!
//! The kernel does not say in which hierarchy the cgroup was (kernel/cgroup/cgroup-v1.c), so it counts as the container's
//! where the container's init is, in any of them, in a cgroup of that name above it.

use upcall_config::rule::Declared;

use super::leader::Leader;
use super::search::ACCEPTED;
use super::sources::Sources;
use super::{Resolution, Resolver, check, names};
use crate::linux::parse::CgroupLine;

impl Resolver {
    /// Finds the container that a path of cgroup v1 belongs to, while it runs.
    pub fn resolve_emptied(&self, path: &[u8], declared: &[Declared]) -> Resolution {
        let mut resolution = Resolution::default();
        let sources = Sources::new(self, declared, None);
        for nominee in names::nominees(path) {
            for claim in sources.claims(&nominee, &mut Vec::new()) {
                let leader = Leader::open(&claim.init, &self.host).map_err(check::Refused::Leader);
                let accepted = leader.and_then(|leader| {
                    let v1 = |line: &&CgroupLine| !line.controllers.is_empty();
                    let mut lines = leader.cgroups.iter().filter(v1);
                    let below = |line: &CgroupLine| check::holds(line, nominee.component, path);
                    let is_its = lines.any(below);
                    is_its.then_some(leader).ok_or(check::Refused::Cgroup)
                });
                match accepted {
                    Ok(leader) => {
                        let container = self.describe(claim, nominee.root, leader, &ACCEPTED[..1]);
                        resolution.container = Some(container);
                        return resolution;
                    }
                    Err(refused) => resolution.refused.push(format!("{claim}: {refused}")),
                }
            }
        }
        resolution
    }
}
