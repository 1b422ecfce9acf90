//! What a helper may be and have, worked out from its container's init: never more than that.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use upcall_config::plan::{Cgroup, Place, Program, Run, User};
use upcall_config::text::escape;
use upcall_helpers::wire::{self, Enter, FdRole, NamespaceId, RLIMITS, Rlimit};

use super::Slot;
use crate::identify::Origin;
use crate::linux::cgroup::Cgroups;
use crate::linux::devices;
use crate::linux::namespace::Ns;
use crate::linux::parse;
use crate::linux::stranger;
use crate::resolve::Container;
use crate::resolve::leader::Leader;
use crate::store::record::Action;
use upcall_config::capability;

/// Of a helper's own output so much is kept, in bytes.
const OUTPUT: u32 = 4096;

/// The whole environment of every helper, and the record's id.
const ENVIRONMENT: [&str; 3] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/",
    "UPCALL_KIND=core",
];

/// Limits by the kernel's numbers (asm-generic/resource.h).
const RLIMIT_FSIZE: usize = 1;
const RLIMIT_CORE: usize = 4;
const RLIMIT_MEMLOCK: usize = 8;
const RLIMIT_AS: usize = 9;
const RLIMIT_NICE: usize = 13;
const RLIMIT_RTPRIO: usize = 14;

/// Why a helper's place or rights cannot be worked out.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The plan is for a container, and there is none.
    #[error("there is no container to enter")]
    NoContainer,
    /// Ids that the container does not have.
    #[error("{0} does not exist in the container")]
    NotMapped(&'static str),
    /// The container's init cannot be read any more.
    #[error("the container's init is ending: {0}")]
    Leader(Errno),
    /// The process that crashed cannot be read any more.
    #[error("the process that crashed is gone: {0}")]
    Origin(Errno),
    /// A cgroup of the container's is not there any more.
    #[error("the container's cgroup: {0}")]
    Cgroup(Errno),
    /// Nor can one of our own be had.
    #[error("upcalld's own cgroup: {0}")]
    OurCgroup(Errno),
    /// Its devices cannot be bounded there.
    #[error(
        "the kernel does not bound devices by a program (CONFIG_CGROUP_BPF): {0}; use cgroup = \"container\""
    )]
    Devices(Errno),
    /// There is a limit, and nothing that would hold it.
    #[error(
        "the kernel cannot limit its memory here: +memory is missing in cgroup.subtree_control of the root of cgroup2; \
         use run.address_space instead"
    )]
    NoMemoryController,
}

/// A helper worked out.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) enter: Enter,
    pub(super) fds: Vec<(FdRole, OwnedFd)>,
    pub(super) action: Action,
}

/// As whom.
struct Ids {
    uid_inside: u32,
    gid_inside: u32,
    groups: Vec<u32>,
}

/// Works it out.
pub(super) fn plan(
    run: &Run,
    container: Option<&Container>,
    origin: Option<&Origin>,
    cgroups: &Cgroups,
    (id, slot): (&str, Slot),
) -> Result<Planned, EnterError> {
    let planned = match (run.place(), run.user()) {
        (Place::Container, _) => {
            let container = container.ok_or(EnterError::NoContainer)?;
            inside(run, container, origin, cgroups, (id, slot))
        }
        (Place::Beside, _) => {
            let container = container.ok_or(EnterError::NoContainer)?;
            beside(run, container, cgroups, (id, slot))
        }
        (Place::Host, User::OriginItself) => as_user(run, origin, cgroups, (id, slot)),
        (Place::Host, _) => on_host(run, cgroups, (id, slot)),
    };
    let mut planned = planned?;
    planned.enter.ready = run.program() == Program::Place;
    // Who gets no core makes no progress but its own words, of which there is no end.
    planned.enter.in_all = slot == Slot::Post || !run.reads_core();
    if run.user() == User::OriginItself {
        let origin = origin.ok_or(EnterError::NotMapped("an unknown process"))?;
        as_the_origin(&mut planned.enter, origin)?;
    }
    Ok(planned)
}

fn inside(
    run: &Run,
    container: &Container,
    origin: Option<&Origin>,
    cgroups: &Cgroups,
    (id, slot): (&str, Slot),
) -> Result<Planned, EnterError> {
    let leader = &container.leader;
    let ids = ids(run.user(), leader, origin)?;
    let capabilities = match run.user() {
        User::OriginItself => 0,
        User::Init | User::Root | User::Origin => leader.capabilities(),
    };
    let (mut fds, mut cgroups_v1) = (Vec::new(), Vec::new());
    if run.cgroup() == Cgroup::Broker {
        fds.extend(our_cgroup(run, cgroups)?);
        // The container's own cgroup bounds its devices; this one has to as well.
        let devices = devices::standard().map_err(EnterError::Devices)?;
        fds.push((FdRole::Devices, devices));
    } else {
        let parent = cgroups.unified(&leader.cgroups);
        fds.push((FdRole::Cgroup, parent.map_err(EnterError::Cgroup)?));
        let v1 = cgroups.v1(&leader.cgroups).map_err(EnterError::Cgroup)?;
        for (mount, path) in v1.cgroups {
            let mount = mount.try_clone_to_owned();
            let mount = mount.map_err(|_| EnterError::Cgroup(Errno::EMFILE))?;
            fds.push((FdRole::CgroupV1, mount));
            cgroups_v1.push(path);
        }
        fds.extend(v1.freezer.map(|fd| (FdRole::FreezerV1, fd)));
    }
    let label = leader.directory.label().map_err(EnterError::Leader)?;
    let limits = limits(leader, run.address_space())?;
    leader
        .process
        .verify()
        .map_err(|_| EnterError::Leader(Errno::ESRCH))?;
    let namespaces = leader.namespaces.ids();
    let mut action = described(slot, run);
    action.namespaces = Some(by_name(&namespaces));
    action.uid = leader.uids.outside(ids.uid_inside);
    action.gid = leader.gids.outside(ids.gid_inside);
    (action.uid_inside, action.gid_inside) = (Some(ids.uid_inside), Some(ids.gid_inside));
    // Only uid 0 keeps capabilities across an exec without file capabilities and ambient ones (capabilities(7)).
    let held = if ids.uid_inside == 0 { capabilities } else { 0 };
    action.capabilities = Some(capability::names(held));
    let enter = Enter {
        place: wire::Place::Container,
        leader: leader.process.pid(),
        join: container.own_namespaces,
        namespaces,
        uid: ids.uid_inside,
        gid: ids.gid_inside,
        groups: ids.groups,
        capabilities,
        label,
        limits,
        cgroups_v1,
        ..plain(run, id)
    };
    Ok(Planned { enter, fds, action })
}

fn on_host(run: &Run, cgroups: &Cgroups, (id, slot): (&str, Slot)) -> Result<Planned, EnterError> {
    let fds = our_cgroup(run, cgroups)?;
    let mut enter = plain(run, id);
    if let Some(limit) = enter.limits.get_mut(RLIMIT_CORE) {
        *limit = Rlimit { soft: 1, hard: 1 };
    }
    if let (Some(limit), Some(bytes)) = (enter.limits.get_mut(RLIMIT_AS), run.address_space()) {
        *limit = Rlimit {
            soft: bytes,
            hard: bytes,
        };
    }
    let mut action = described(slot, run);
    (action.uid, action.gid) = (Some(0), Some(0));
    Ok(Planned { enter, fds, action })
}

/// As a user of the host: the process that crashed, where that is in no container.
fn as_user(
    run: &Run,
    origin: Option<&Origin>,
    cgroups: &Cgroups,
    (id, slot): (&str, Slot),
) -> Result<Planned, EnterError> {
    let origin = origin.ok_or(EnterError::NotMapped("an unknown process"))?;
    let mut planned = on_host(run, cgroups, (id, slot))?;
    let ([.., uid], [.., gid]) = (origin.status.uids, origin.status.gids);
    (planned.action.uid, planned.action.gid) = (Some(uid), Some(gid));
    planned.action.capabilities = Some(Vec::new());
    planned.enter = Enter {
        place: wire::Place::User,
        uid,
        gid,
        groups: origin.status.groups.clone(),
        ..planned.enter
    };
    Ok(planned)
}

/// Where the process that crashed was, and with no larger files than it may have.
fn as_the_origin(enter: &mut Enter, origin: &Origin) -> Result<(), EnterError> {
    let read = origin.directory.read("limits");
    let limits = read.map_err(EnterError::Origin)?;
    let limits = parse::limits(&limits).ok_or(EnterError::Origin(Errno::EBADMSG))?;
    if let (Some(limit), Some((soft, _))) =
        (enter.limits.get_mut(RLIMIT_FSIZE), limits.get(RLIMIT_FSIZE))
    {
        let soft = limit.soft.min(*soft);
        *limit = Rlimit { soft, hard: soft };
    }
    enter.capabilities = 0;
    enter.origin = Some([origin.process.pid(), origin.tid]);
    let alive = origin.process.verify();
    alive.map_err(|_| EnterError::Origin(Errno::ESRCH))
}

/// A program of the host in the container's network, as a user who is nobody's.
fn beside(
    run: &Run,
    container: &Container,
    cgroups: &Cgroups,
    (id, slot): (&str, Slot),
) -> Result<Planned, EnterError> {
    let leader = &container.leader;
    let Planned {
        enter,
        fds,
        mut action,
    } = on_host(run, cgroups, (id, slot))?;
    let nobody = stranger::in_turn();
    let ([uid, ..], [gid, ..]) = (leader.status.uids, leader.status.gids);
    leader
        .process
        .verify()
        .map_err(|_| EnterError::Leader(Errno::ESRCH))?;
    let namespaces = leader.namespaces.ids();
    let joined = container.own_namespaces & Ns::Net.flag();
    let net = by_name(&namespaces).remove(Ns::Net.name());
    action.namespaces = net.map(|net| BTreeMap::from([(Ns::Net.name().to_owned(), net)]));
    (action.uid, action.gid) = (Some(nobody), Some(nobody));
    action.capabilities = Some(Vec::new());
    let enter = Enter {
        place: wire::Place::Beside,
        leader: leader.process.pid(),
        join: joined,
        namespaces,
        uid: nobody,
        gid: nobody,
        files: run
            .files()
            .iter()
            .map(|file| file.as_bytes().to_vec())
            .collect(),
        reader: [uid, gid],
        ..enter
    };
    Ok(Planned { enter, fds, action })
}

/// Where a helper is that no container pays for.
fn our_cgroup(run: &Run, cgroups: &Cgroups) -> Result<Vec<(FdRole, OwnedFd)>, EnterError> {
    if run.memory().is_none() {
        let parent = cgroups.for_broker().map_err(EnterError::OurCgroup)?;
        return Ok(vec![(FdRole::Cgroup, parent)]);
    }
    let limited = cgroups.for_limited().map_err(|errno| {
        if errno == Errno::EOPNOTSUPP {
            return EnterError::NoMemoryController;
        }
        EnterError::OurCgroup(errno)
    })?;
    let memory = limited.memory_v1.map(|fd| (FdRole::MemoryV1, fd));
    let mut fds = vec![(FdRole::Cgroup, limited.unified)];
    fds.extend(memory);
    Ok(fds)
}

/// What is the same in every place.
fn plain(run: &Run, id: &str) -> Enter {
    let mut env: Vec<Vec<u8>> = ENVIRONMENT
        .iter()
        .map(|word| word.as_bytes().to_vec())
        .collect();
    env.push(format!("UPCALL_ID={id}").into_bytes());
    let progress = u32::try_from(run.timeout().as_millis()).unwrap_or(u32::MAX);
    Enter {
        place: wire::Place::Host,
        argv: run.argv().to_vec(),
        env,
        leader: 0,
        join: 0,
        namespaces: [NamespaceId::default(); 8],
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        capabilities: 0,
        label: Vec::new(),
        limits: [Rlimit {
            soft: u64::MAX,
            hard: u64::MAX,
        }; RLIMITS],
        cgroups_v1: Vec::new(),
        origin: None,
        ready: false,
        in_all: false,
        memory: run.memory(),
        progress,
        output: OUTPUT,
        key: None,
        files: Vec::new(),
        reader: [0; 2],
    }
}

/// The init's ids unless the rule says otherwise; always ids that exist inside.
fn ids(user: User, leader: &Leader, origin: Option<&Origin>) -> Result<Ids, EnterError> {
    let missing = EnterError::NotMapped;
    match user {
        User::Init => {
            let ([uid, ..], [gid, ..]) = (leader.status.uids, leader.status.gids);
            Ok(Ids {
                uid_inside: leader
                    .uids
                    .inside(uid)
                    .ok_or(missing("the uid of its init"))?,
                gid_inside: leader
                    .gids
                    .inside(gid)
                    .ok_or(missing("the gid of its init"))?,
                groups: leader.status.groups.clone(),
            })
        }
        User::Root => {
            leader.uids.outside(0).ok_or(missing("uid 0"))?;
            leader.gids.outside(0).ok_or(missing("gid 0"))?;
            Ok(Ids {
                uid_inside: 0,
                gid_inside: 0,
                groups: Vec::new(),
            })
        }
        User::Origin => {
            let status = &origin.ok_or(missing("an unknown process's uid"))?.status;
            let ([uid, ..], [gid, ..]) = (status.uids, status.gids);
            Ok(Ids {
                uid_inside: leader
                    .uids
                    .inside(uid)
                    .ok_or(missing("the process's uid"))?,
                gid_inside: leader
                    .gids
                    .inside(gid)
                    .ok_or(missing("the process's gid"))?,
                groups: Vec::new(),
            })
        }
        User::OriginItself => {
            let status = &origin.ok_or(missing("an unknown process's uid"))?.status;
            let ([.., uid], [.., gid]) = (status.uids, status.gids);
            Ok(Ids {
                uid_inside: leader
                    .uids
                    .inside(uid)
                    .ok_or(missing("the process's uid"))?,
                gid_inside: leader
                    .gids
                    .inside(gid)
                    .ok_or(missing("the process's gid"))?,
                groups: status.groups.clone(),
            })
        }
    }
}

/// The init's limits, and less where a handler needs none: no core of its own (1 is the kernel's word for "I handle
/// cores"), no locked memory, no priority.
fn limits(leader: &Leader, address_space: Option<u64>) -> Result<[Rlimit; RLIMITS], EnterError> {
    let text = leader
        .directory
        .read("limits")
        .map_err(EnterError::Leader)?;
    let read = parse::limits(&text).ok_or(EnterError::Leader(Errno::EBADMSG))?;
    let mut limits = read.map(|(soft, hard)| Rlimit { soft, hard });
    let mut cut = |number: usize, most: u64| {
        if let Some(limit) = limits.get_mut(number) {
            *limit = Rlimit {
                soft: limit.soft.min(most),
                hard: limit.hard.min(most),
            };
        }
    };
    cut(RLIMIT_MEMLOCK, 64 * 1024);
    cut(RLIMIT_NICE, 0);
    cut(RLIMIT_RTPRIO, 0);
    cut(RLIMIT_AS, address_space.unwrap_or(u64::MAX));
    if let Some(limit) = limits.get_mut(RLIMIT_CORE) {
        *limit = Rlimit { soft: 1, hard: 1 };
    }
    Ok(limits)
}

fn described(slot: Slot, run: &Run) -> Action {
    let mut action = Action::new(slot.as_str());
    action.argv = Some(run.argv().iter().map(|word| escape(word)).collect());
    action
}

/// Inodes of namespaces by their names; a kind that the kernel does not have is left out.
pub(crate) fn by_name(ids: &[NamespaceId; 8]) -> BTreeMap<String, u64> {
    let known = Ns::ALL.into_iter().zip(ids).filter(|(_, id)| id.ino != 0);
    known
        .map(|(kind, id)| (kind.name().to_owned(), id.ino))
        .collect()
}
