//! The container of a process that is gone, from what was read of it while it dumped: for keeping its core by the right
//! rule. Nothing is ever entered by this.
//!
//! Only a container that still runs is found, and only for a process that was in its init's own user and pid namespaces:
//! what a namespace of then was nested in nobody can say any more.

use upcall_config::facts::UserNamespace;
use upcall_config::rule::Declared;

use super::leader::Leader;
use super::names;
use super::search::ACCEPTED;
use super::sources::Sources;
use super::{Resolution, Resolver, check};
use crate::identify::past::Past;
use crate::linux::namespace::Ns;

impl Resolver {
    /// Finds the container of a process that is gone.
    pub fn resolve_past(&self, past: &Past, declared: &[Declared]) -> Resolution {
        let mut resolution = Resolution::default();
        let user = past.namespace(Ns::User);
        if !past.this_boot || user.is_none() {
            return resolution;
        }
        if !self.was_on_host(past) {
            self.past_by_cgroup(past, declared, &mut resolution);
        }
        let is_containers = |leader: &Leader| {
            let of_leader = leader.namespaces.id(Ns::User);
            of_leader != self.host.id(Ns::User) && user == Some(of_leader.ino)
        };
        let found = resolution.container.as_ref();
        resolution.user_namespace = Some(if user == Some(self.host.id(Ns::User).ino) {
            UserNamespace::Initial
        } else if found.is_some_and(|found| is_containers(&found.leader)) {
            UserNamespace::Container
        } else {
            UserNamespace::Other
        });
        resolution
    }

    /// Whether a process that is gone had no namespace of its own, so lived in no container.
    pub fn was_on_host(&self, past: &Past) -> bool {
        past.this_boot
            && Ns::ALL
                .into_iter()
                .all(|kind| past.namespaces.get(kind as usize) == Some(&self.host.id(kind).ino))
    }

    fn past_by_cgroup(&self, past: &Past, declared: &[Declared], resolution: &mut Resolution) {
        let sources = Sources::new(self, declared, None);
        let paths = past.cgroups.iter().map(|line| line.path.as_slice());
        for nominee in paths.filter(|path| *path != b"/").flat_map(names::nominees) {
            for claim in sources.claims(&nominee, &mut Vec::new()) {
                let Ok(leader) = Leader::open(&claim.init, &self.host) else {
                    continue;
                };
                let same = |kind| past.namespace(kind) == Some(leader.namespaces.id(kind).ino);
                let shared = check::shares_cgroup(&past.cgroups, &leader, nominee.component);
                let accepted = shared.and_then(|()| {
                    let below = same(Ns::User) && same(Ns::Pid);
                    below.then_some(()).ok_or(check::Refused::Namespaces)
                });
                match accepted {
                    Ok(()) => {
                        let container = self.describe(claim, nominee.root, leader, &ACCEPTED);
                        resolution.container = Some(container);
                        return;
                    }
                    Err(refused) => {
                        let refused = format!("{claim}: {refused}");
                        if !resolution.refused.contains(&refused) {
                            resolution.refused.push(refused);
                        }
                    }
                }
            }
        }
    }
}
