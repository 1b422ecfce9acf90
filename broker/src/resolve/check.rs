//! What makes a nominee the container of a process: kernel facts alone.

use upcall_config::facts::Reason;

use super::Container;
use super::claim::Claim;
use super::leader::{Leader, LeaderError};
use crate::identify::Origin;
use crate::linux::namespace::{Ns, NsSet};
use crate::linux::parse::CgroupLine;

/// Why a nominee is not the container.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0}")]
    Leader(#[from] LeaderError),
    #[error("the process is not in its user and pid namespaces")]
    Namespaces,
    #[error("its user namespace is not uid {0}'s")]
    Owner(u32),
    #[error("forged cgroup name: its init is not in this cgroup")]
    Cgroup,
    #[error(
        "forged cgroup name, or its init has moved: it is not in this cgroup, and no namespace tells"
    )]
    Moved,
}

impl Refused {
    /// Whether the process may live in that container all the same. One whose init has ended, or has gone into a cgroup
    /// further down, cannot be entered; but those whom it leaves behind are not the host's for that.
    pub(super) fn leaves_open(&self) -> bool {
        matches!(self, Self::Leader(_) | Self::Moved)
    }
}

/// Opens the claim's init and compares. `component` is the part of the cgroup's path that the container's own starts
/// with, in every hierarchy.
pub(super) fn accept(
    origin: &Origin,
    claim: &Claim,
    component: &[u8],
    host: &NsSet,
) -> Result<Leader, Refused> {
    let leader = Leader::open(&claim.init, host)?;
    match (
        shares_cgroup(&origin.cgroups, &leader, component),
        lives_below(origin, &leader),
    ) {
        (Ok(()), true) => {}
        (Ok(()), false) => return Err(Refused::Namespaces),
        (Err(_), true) => return Err(Refused::Moved),
        (Err(refused), false) => return Err(refused),
    }
    if claim.owner != 0 && !belongs_to(&leader, claim.owner, host) {
        return Err(Refused::Owner(claim.owner));
    }
    Ok(leader)
}

/// Whether these cgroups are in the init's, in every hierarchy in which the init is confined by this name.
pub(super) fn shares_cgroup(
    cgroups: &[CgroupLine],
    leader: &Leader,
    component: &[u8],
) -> Result<(), Refused> {
    let mut shared = false;
    for line in &leader.cgroups {
        let own = cgroups
            .iter()
            .find(|own| own.controllers == line.controllers);
        // Where the init is not confined in a hierarchy by this name, that hierarchy says nothing.
        let Some(root) = root(&line.path, component) else {
            continue;
        };
        match own {
            Some(own) if is_below(&own.path, root) => shared = true,
            _ => return Err(Refused::Cgroup),
        }
    }
    if shared { Ok(()) } else { Err(Refused::Cgroup) }
}

/// Whether a path is in the cgroup of this name that the init is in by this line.
pub(super) fn holds(line: &CgroupLine, component: &[u8], path: &[u8]) -> bool {
    root(&line.path, component).is_some_and(|root| is_below(path, root))
}

/// Whether the init's user namespace is the user's own or below one of his: whatever he claims about it, the kernel
/// has given him power over nothing else.
fn belongs_to(leader: &Leader, owner: u32, host: &NsSet) -> bool {
    let Some(user) = leader.namespaces.get(Ns::User) else {
        return false;
    };
    user.id() != host.id(Ns::User)
        && user
            .owner_below(host.id(Ns::User))
            .is_ok_and(|uid| uid == owner)
}

/// Whether the process is in the init's user and pid namespaces or in ones below them.
pub(super) fn lives_below(origin: &Origin, leader: &Leader) -> bool {
    let within = |kind| {
        origin
            .namespaces
            .get(kind)
            .is_some_and(|own| own.is_within(leader.namespaces.id(kind)))
    };
    within(Ns::User) && within(Ns::Pid)
}

/// The path down to and with the innermost component of this name.
fn root<'a>(path: &'a [u8], component: &[u8]) -> Option<&'a [u8]> {
    let mut end = path.len();
    loop {
        let part = path.get(..end)?;
        let start = part.iter().rposition(|byte| *byte == b'/')?;
        if part.get(start + 1..) == Some(component) {
            return Some(part);
        }
        end = start;
    }
}

fn is_below(path: &[u8], root: &[u8]) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
}

/// Why a process of an accepted container must not be handled inside: what it has, the container did not give it. An
/// admin's nsenter, a network plugin: their memory is the host's.
pub(super) fn outside(
    origin: &Origin,
    container: &Container,
    host: &NsSet,
) -> Option<(Reason, String)> {
    let leader = &container.leader;
    let user = leader.namespaces.id(Ns::User);
    let shares_user = user == host.id(Ns::User);
    for kind in [Ns::Mnt, Ns::Net, Ns::Ipc, Ns::Uts, Ns::Cgroup, Ns::Time] {
        let Some(own) = origin.namespaces.get(kind) else {
            continue;
        };
        if own.id() == leader.namespaces.id(kind) {
            continue;
        }
        // Made inside, by somebody whose user namespace is the container's or below: the host's are owned above. A
        // container without one of its own owns nothing that could be told from the host's.
        let nested_user = origin.namespaces.id(Ns::User) != user;
        let made_inside = own.is_owned_within(user) && (!shares_user || nested_user);
        if !made_inside || own.id() == host.id(kind) {
            let why = format!("its {} namespace is not the container's", kind.name());
            return Some((Reason::FromOutside, why));
        }
    }
    // In a user namespace of its own it may hold everything, over nothing but that namespace.
    let same_user = origin.namespaces.id(Ns::User) == user;
    let held = origin.status.permitted | origin.status.effective;
    if same_user && held & !leader.status.bounding != 0 {
        let why = "it has capabilities that the container's init cannot get".to_owned();
        return Some((Reason::FromOutside, why));
    }
    let ids = origin
        .status
        .uids
        .iter()
        .all(|uid| leader.uids.inside(*uid).is_some())
        && origin
            .status
            .gids
            .iter()
            .all(|gid| leader.gids.inside(*gid).is_some());
    if !ids {
        let [uid, ..] = origin.status.uids;
        let why = format!("its ids (uid {uid}) do not exist in the container");
        return Some((Reason::UidNotMapped, why));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_cgroup_starts_at_the_component_that_named_it() {
        assert_eq!(
            root(b"/a/libpod-x/init.scope", b"libpod-x"),
            Some(&b"/a/libpod-x"[..])
        );
        assert_eq!(root(b"/x/y/x/z", b"x"), Some(&b"/x/y/x"[..]));
        assert_eq!(root(b"/a/libpod-xy", b"libpod-x"), None);
        assert_eq!(root(b"/", b"x"), None);
        assert!(is_below(b"/a/b", b"/a") && is_below(b"/a", b"/a") && !is_below(b"/ab", b"/a"));
    }
}
