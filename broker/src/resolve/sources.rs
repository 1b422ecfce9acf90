//! Everybody whose state can say something about a container, asked with one nominee after the other.

use super::Resolver;
use super::claim::Claim;
use super::names::{Family, Nominee};
use super::oci::{Root, StateError};

/// The sources as they are at one upcall.
pub(super) struct Sources {
    /// OCI runtimes' state directories.
    roots: Vec<Root>,
}

impl Sources {
    pub(super) fn new(resolver: &Resolver) -> Self {
        Self {
            roots: resolver.oci_roots(),
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
        claims
    }

    /// Claims on cgroups of the admin's own choice, whose names tell nothing; with each, on which of the nominees.
    pub(super) fn claims_on(&self, nominees: &[Nominee<'_>]) -> Vec<(usize, Claim)> {
        let paths: Vec<&[u8]> = nominees.iter().map(|nominee| nominee.root).collect();
        let roots = self.roots.iter();
        let mut claims: Vec<_> = roots.flat_map(|root| root.with_cgroups(&paths)).collect();
        // The innermost first, as everywhere.
        claims.sort_by_key(|(which, _)| *which);
        claims
    }
}
