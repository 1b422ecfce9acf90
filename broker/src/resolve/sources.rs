//! Everybody whose state can say something about a container, asked with one nominee after the other.

use std::cell::Cell;
use std::time::Duration;

use upcall_config::rule::Declared;

use super::Resolver;
use super::admin::Admin;
use super::claim::Claim;
use super::lxc::PATIENCE;
use super::names::{Family, Nominee};
use super::oci::{Root, StateError};

/// The sources as they are at one upcall.
pub(super) struct Sources<'a> {
    resolver: &'a Resolver,
    /// OCI runtimes' state directories.
    roots: Vec<Root>,
    /// Those of the user whose namespaces the process lives in.
    of_user: Vec<Root>,
    admin: Admin<'a>,
    /// How long LXC's monitors may still be waited for.
    patience: Cell<Duration>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(
        resolver: &'a Resolver,
        declared: &'a [Declared],
        owner: Option<u32>,
    ) -> Self {
        let of_user = owner.filter(|uid| *uid != 0);
        let of_user = of_user.map(|uid| Root::of_user(&resolver.users, uid).to_vec());
        Self {
            resolver,
            roots: resolver.oci_roots(),
            of_user: of_user.unwrap_or_default(),
            admin: resolver.admin(declared),
            patience: Cell::new(PATIENCE),
        }
    }

    /// What anybody's state says about a nominee; `refused` gets what is there and is not to be believed.
    pub(super) fn claims(&self, nominee: &Nominee<'_>, refused: &mut Vec<String>) -> Vec<Claim> {
        if nominee.family == Family::Monitor {
            return Vec::new();
        }
        let mut claims = Vec::new();
        for root in &self.roots {
            match root.get(&nominee.id) {
                Ok(claim) => claims.push(claim),
                Err(StateError::Absent { .. }) => {}
                Err(error) => refused.push(error.to_string()),
            }
        }
        if nominee.family == Family::Lxc {
            let paths = self.resolver.lxc.iter();
            claims.extend(paths.flat_map(|path| path.claims(&nominee.id, &self.patience)));
        }
        claims.extend(self.resolver.machines.of_unit(nominee.component));
        claims.extend(self.admin.claims(nominee, refused));
        // What a user says about his own comes last: it is never believed before root's word.
        let his = self.of_user.iter();
        claims.extend(his.filter_map(|root| root.get(&nominee.id).ok()));
        claims
    }

    /// Claims on cgroups of the admin's own choice, whose names tell nothing; with each, on which of the nominees.
    pub(super) fn claims_on(&self, nominees: &[Nominee<'_>]) -> Vec<(usize, Claim)> {
        let paths: Vec<&[u8]> = nominees.iter().map(|nominee| nominee.root).collect();
        let mut claims = self.resolver.states.with_cgroups(&self.roots, &paths);
        // The innermost first, as everywhere.
        claims.sort_by_key(|(which, _)| *which);
        claims
    }
}
