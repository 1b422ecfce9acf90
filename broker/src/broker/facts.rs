//! The facts that rules look at, from what identifying and resolving found. All checks that keep an upcall out of its
//! container come here, before any rule is looked at.

use upcall_config::facts::{Facts, ProcessFacts, Reason};

use crate::identify::core::CoreWords;
use crate::identify::past::Past;
use crate::identify::{Lost, Origin};
use crate::linux::parse::Status;
use crate::resolve::{Container, Resolution};

/// The facts about a core dump.
pub(super) fn core(
    words: &CoreWords,
    origin: Result<&Origin, &Lost>,
    resolution: &Resolution,
) -> Facts {
    let origin = match origin {
        Ok(origin) => origin,
        Err(lost) => {
            let host_only = Some(Reason::IdentityLost);
            return Facts {
                process: lost.facts.clone(),
                container: None,
                host_only,
            };
        }
    };
    let mut process = origin.facts();
    process.user_namespace = resolution.user_namespace;
    process.namespace_owner = resolution.namespace_owner;
    if let Some(container) = &resolution.container {
        numbers_inside(&mut process, words, &origin.status, container);
    }
    let found = resolution.host_only.as_ref().map(|(reason, _)| *reason);
    let host_only = match found {
        // Rules have to know that.
        Some(reason) if reason.hides_container() => found,
        _ if words.upcall().dumpable == Some(1) => found,
        // Its memory may hold what its user may not see (prctl(2), PR_SET_DUMPABLE).
        _ => Some(Reason::NotDumpable),
    };
    let container = resolution
        .container
        .as_ref()
        .map(|container| container.facts.clone());
    Facts {
        process,
        container,
        host_only,
    }
}

/// The facts about who waits for a key or a module.
pub(super) fn asker(origin: Result<&Origin, &Lost>, resolution: &Resolution) -> Facts {
    let origin = match origin {
        Ok(origin) => origin,
        Err(lost) => {
            return Facts {
                process: lost.facts.clone(),
                container: None,
                host_only: Some(Reason::IdentityLost),
            };
        }
    };
    let mut process = origin.facts();
    process.user_namespace = resolution.user_namespace;
    process.namespace_owner = resolution.namespace_owner;
    let container = resolution.container.as_ref();
    if let Some(container) = container {
        ids_inside(&mut process, &origin.status, container);
        let level = container.leader.status.pids.len().saturating_sub(1);
        process.tid_inside = origin.status.tids.get(level).copied();
    }
    Facts {
        process,
        container: container.map(|container| container.facts.clone()),
        host_only: resolution.host_only.as_ref().map(|(reason, _)| *reason),
    }
}

/// The facts about a cgroup that has lost its last process: whose it was is known whoever told.
pub(super) fn emptied(origin: Result<&Origin, &Lost>, resolution: &Resolution) -> Facts {
    let container = resolution.container.as_ref();
    Facts {
        process: origin.map_or_else(|lost| lost.facts.clone(), Origin::facts),
        container: container.map(|container| container.facts.clone()),
        // One whose name says whose it is and who is not there to answer for it may have been his.
        host_only: (container.is_none() && !resolution.refused.is_empty())
            .then_some(Reason::IdentityLost),
    }
}

/// The facts about a core dump of a process that is gone, but for why nothing may run for it.
pub(super) fn past(
    words: &CoreWords,
    past: Result<&Past, &Lost>,
    resolution: &Resolution,
) -> Facts {
    let mut process = past.map_or_else(|lost| lost.facts.clone(), |past| past.facts.clone());
    process.user_namespace = resolution.user_namespace;
    if let (Ok(past), Some(container)) = (past, &resolution.container) {
        numbers_inside(&mut process, words, &past.status, container);
    }
    let container = resolution.container.as_ref();
    Facts {
        process,
        container: container.map(|container| container.facts.clone()),
        host_only: None,
    }
}

/// The process's numbers as the container's init sees them.
fn numbers_inside(
    process: &mut ProcessFacts,
    words: &CoreWords,
    status: &Status,
    container: &Container,
) {
    ids_inside(process, status, container);
    if status.pids.len() == container.leader.status.pids.len() {
        // The kernel says the thread's number in the process's own pid namespace, which is the container's.
        process.tid_inside = crate::linux::parse::number(words.get("%i"));
    }
}

fn ids_inside(process: &mut ProcessFacts, status: &Status, container: &Container) {
    let leader = &container.leader;
    // NSpid lists a process's numbers from our pid namespace inwards; the init has one for each level down to its own.
    let level = leader.status.pids.len().saturating_sub(1);
    process.pid_inside = status.pids.get(level).copied();
    let ([uid, ..], [gid, ..]) = (status.uids, status.gids);
    process.uid_inside = leader.uids.inside(uid);
    process.gid_inside = leader.gids.inside(gid);
}
