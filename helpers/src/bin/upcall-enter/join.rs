//! The joiner: from the host into the container, one checked step after the other, until it is the helper.
//!
//! It is forked by the keeper into the helper's cgroup and into the container's pid namespace, single-threaded, so the
//! container sees it while it is still more than the container. It cannot be traced or looked into, or robbed of a
//! descriptor: its memory belongs to the host's user namespace and is not dumpable, from the launcher on until the
//! exec (ptrace(2), "Ptrace access mode checking"). Changing credentials may set that back to what fs.suid_dumpable
//! says, so where that says 1 we do not start. A second fork after those changes would keep the joiner out of the
//! container's sight too, but not where the container shares the host's pid namespace, and for a tenth of the way.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::{get_dumpable, set_dumpable, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{Gid, Uid, chdir, chroot, fchdir, setgroups, setresgid, setresuid, setsid};
use upcall_helpers::sys::{self, keys};
use upcall_helpers::wire::{Enter, FdRole, NAMESPACES, NamespaceId, Place, Rlimit, Stage};

use crate::beside;
use crate::descriptors::{Fds, TheirPipes};
use crate::failure::{At, Failure, require};
use crate::inside;
use crate::launcher::Context;
use crate::status::{Message, Sender};

/// The joiner's whole life. `fds` came with the launch.
pub(crate) fn start(
    context: &Context<'_>,
    enter: &Enter,
    mut fds: Fds,
    pipes: &TheirPipes,
    files: &[Vec<u8>],
) -> ! {
    let failure = match join(context, enter, &mut fds, pipes, files) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    pipes.sender.send(Message::Failed(failure));
    sys::exit(127)
}

fn join(
    context: &Context<'_>,
    enter: &Enter,
    fds: &mut Fds,
    pipes: &TheirPipes,
    files: &[Vec<u8>],
) -> Result<Infallible, Failure> {
    let proc = prepare(context, enter, fds, pipes)?;
    match enter.place {
        Place::Container => enter_container(enter, fds, &proc)?,
        Place::User => become_user(enter, fds, &proc)?,
        Place::Host | Place::Beside => {}
    }
    // Nothing of the container's is looked at before we are in the cgroups that bound us.
    let mut go = [0; 1];
    let going = nix::unistd::read(&pipes.go, &mut go).at(Stage::Cgroup)?;
    require(going == 1, Stage::Cgroup, Errno::ESRCH)?;
    match enter.place {
        Place::Container | Place::User => inside::drop_rights(enter, &proc)?,
        Place::Beside => beside::enter(enter, fds, &proc, files)?,
        Place::Host => {}
    }
    // Changing ids took it away (kernel/cred.c, commit_creds).
    die_with_parent(&pipes.sender)?;
    if let Some(key) = enter.key.filter(|key| key.authority) {
        // Joining a user namespace took it away (kernel/user_namespace.c, set_cred_user_ns).
        let serial = i32::try_from(key.serial).map_err(|_| Errno::EINVAL);
        let assumed = serial.and_then(keys::assume_authority);
        assumed.at(Stage::Authority)?;
    }
    drop(proc);
    inside::execute(context, enter, fds.get(FdRole::Program), &pipes.sender)
}

/// Steps that need nothing of the container: what we were given, put off; what the helper gets, put on.
/// Returns our descriptor of the host's /proc.
fn prepare(
    context: &Context<'_>,
    enter: &Enter,
    fds: &Fds,
    pipes: &TheirPipes,
) -> Result<OwnedFd, Failure> {
    die_with_parent(&pipes.sender)?;
    let proc = context.proc.try_clone().at(Stage::Scheduling)?;
    if enter.place != Place::Host {
        refuse_dumpable(proc.as_fd())?;
    }
    if enter.place == Place::Container {
        raise_oom_score(proc.as_fd(), enter.leader)?;
    }
    sys::reset_sigpipe();
    become_undumpable()?;
    setsid().at(Stage::Session)?;
    let prints = enter.key.is_some_and(|key| !key.authority);
    arrange_descriptors(fds, pipes, &proc, prints).at(Stage::Descriptors)?;
    set_limits(context, enter)?;
    Ok(proc)
}

/// Runs from here on, with all that is born of us, where the container's init may run. For the keeper: the number is the
/// host's, and whoever is born in the container's pid namespace knows its init by another.
pub(crate) fn share_core(leader: u32) -> Result<(), Failure> {
    match sys::share_core_cookie(leader) {
        // No simultaneous multithreading, or a kernel without core scheduling: nobody to be kept apart from.
        Ok(()) | Err(Errno::ENODEV | Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno).at(Stage::Scheduling),
    }
}

/// Ends this process when its parent ends, and now if that has ended already: then nobody reads the status pipe.
fn die_with_parent(sender: &Sender) -> Result<(), Failure> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    set_pdeathsig(Signal::SIGKILL).at(Stage::Fork)?;
    let mut fds = [PollFd::new(sender.file().as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).at(Stage::Fork)?;
    let alone = fds.iter().any(|fd| fd.any().unwrap_or(true));
    require(!alone, Stage::Fork, Errno::ESRCH)
}

/// Nobody traces us or opens our /proc (prctl(2), `PR_SET_DUMPABLE`; ptrace(2)); checked, because a later change of
/// ids sets it anew.
fn become_undumpable() -> Result<(), Failure> {
    set_dumpable(false).at(Stage::Undumpable)?;
    require(get_dumpable() == Ok(false), Stage::Undumpable, Errno::EPERM)
}

/// Where a change of credentials would make us traceable (proc_sys_fs(5), `suid_dumpable` 1) nobody enters.
fn refuse_dumpable(proc: BorrowedFd<'_>) -> Result<(), Failure> {
    let policy = read_number(proc, "sys/fs/suid_dumpable").at(Stage::Undumpable)?;
    require(policy != 1, Stage::Undumpable, Errno::EPERM)
}

/// The helper is ended before the container's init where memory runs out, never instead of it.
fn raise_oom_score(proc: BorrowedFd<'_>, leader: u32) -> Result<(), Failure> {
    let wanted = read_number(proc, &format!("{leader}/oom_score_adj"))
        .at(Stage::Scheduling)?
        .max(0);
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let fd = openat(proc, "self/oom_score_adj", flags, Mode::empty()).at(Stage::Scheduling)?;
    match nix::unistd::write(&fd, wanted.to_string().as_bytes()) {
        // Lowering needs CAP_SYS_RESOURCE; a launcher that is already above the leader stays there.
        Ok(_) | Err(Errno::EACCES) => Ok(()),
        Err(errno) => Err(Failure {
            stage: Stage::Scheduling,
            errno,
        }),
    }
}

/// A file of /proc that holds one number.
fn read_number(proc: BorrowedFd<'_>, path: &str) -> Result<i32, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let fd = openat(proc, path, flags, Mode::empty())?;
    let mut text = [0; 16];
    let length = nix::unistd::read(&fd, &mut text)?;
    let text = text
        .get(..length)
        .and_then(|text| str::from_utf8(text).ok());
    text.and_then(|text| text.trim().parse().ok())
        .ok_or(Errno::EINVAL)
}

/// Standard input, output and error as the helper gets them, and nothing else open but what the next steps need:
/// the gaps between those are closed, whatever is in them.
fn arrange_descriptors(
    fds: &Fds,
    pipes: &TheirPipes,
    proc: &OwnedFd,
    prints: bool,
) -> Result<(), Errno> {
    if prints {
        // What it prints is the payload, and a warning is no part of that. Until here 0 is the host's /dev/null.
        sys::dup_to(std::io::stdin().as_fd(), 2)?;
    } else {
        sys::dup_to(pipes.stdout.as_fd(), 2)?;
    }
    sys::dup_to(pipes.stdin.as_fd(), 0)?;
    sys::dup_to(pipes.stdout.as_fd(), 1)?;
    let needed = [FdRole::Leader, FdRole::Origin, FdRole::Program]
        .into_iter()
        .filter_map(|role| fds.get(role));
    let numbers = needed.chain([proc, &pipes.go]).map(AsRawFd::as_raw_fd);
    let sender = pipes.sender.file().as_raw_fd();
    let kept = numbers.chain([sender]).map(i32::unsigned_abs).collect();
    sys::close_all_but(3, kept)
}

/// Never more than the container's init has, and never more than we have ourselves. Most are the same.
fn set_limits(context: &Context<'_>, enter: &Enter) -> Result<(), Failure> {
    for ((number, limit), ours) in (0_u32..).zip(enter.limits).zip(&context.limits) {
        let hard = limit.hard.min(ours.hard);
        let limit = Rlimit {
            soft: limit.soft.min(hard),
            hard,
        };
        if limit != *ours {
            sys::set_rlimit(number, limit.soft, limit.hard).at(Stage::Limits)?;
        }
    }
    Ok(())
}

/// The steps that enter: groups, namespaces, root, bounding set, ids.
fn enter_container(enter: &Enter, fds: &mut Fds, proc: &OwnedFd) -> Result<(), Failure> {
    require(enter.join != 0, Stage::Plan, Errno::EINVAL)?;
    let leader = fds.need(FdRole::Leader)?;
    // Before the join: inside, setgroups(2) may be forbidden, and these are the host's numbers.
    take_groups(enter)?;
    // The root before the join too: a chrooted init's is not its mount namespace's. By number, so alive afterwards.
    let room = Room::open(enter, proc)?;
    sys::pidfd_send_signal(leader.as_fd(), 0).at(Stage::Join)?;
    verify_origin(enter, fds)?;
    // All but the pid namespace, in which we were born.
    let join = enter.join & !NAMESPACES[2].1;
    if join != 0 {
        setns(&leader, clone_flags(join)?).at(Stage::Join)?;
    }
    drop(leader);
    verify_namespaces(proc.as_fd(), &enter.namespaces)?;
    room.change_to()?;
    // Joining a user namespace filled it up again (user_namespaces(7)), so only now.
    sys::limit_bounding_set(enter.capabilities).at(Stage::Bounding)?;
    if enter.join & NAMESPACES[0].1 != 0 {
        take_ids(enter)?;
    }
    Ok(())
}

/// The steps to a user of the host, where the process that crashed was; the ids follow with the rights.
fn become_user(enter: &Enter, fds: &mut Fds, proc: &OwnedFd) -> Result<(), Failure> {
    require(
        enter.join == 0 && enter.origin.is_some(),
        Stage::Plan,
        Errno::EINVAL,
    )?;
    take_groups(enter)?;
    let room = Room::open(enter, proc)?;
    verify_origin(enter, fds)?;
    room.change_to()?;
    sys::limit_bounding_set(enter.capabilities).at(Stage::Bounding)
}

fn take_groups(enter: &Enter) -> Result<(), Failure> {
    let groups = enter.groups.iter().map(|group| Gid::from_raw(*group));
    setgroups(&groups.collect::<Vec<_>>()).at(Stage::Groups)
}

/// Flags as setns(2) takes them.
pub(crate) fn clone_flags(join: u32) -> Result<CloneFlags, Failure> {
    let join = i32::try_from(join)
        .map_err(|_| Errno::EINVAL)
        .at(Stage::Plan)?;
    Ok(CloneFlags::from_bits_retain(join))
}

/// We are where the plan says, in every namespace, joined or not.
fn verify_namespaces(proc: BorrowedFd<'_>, expected: &[NamespaceId; 8]) -> Result<(), Failure> {
    for ((name, _), expected) in NAMESPACES.iter().zip(expected) {
        let path = format!("self/ns/{name}");
        let found = match fstatat(proc, path.as_str(), AtFlags::empty()) {
            Ok(stat) => NamespaceId {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
            // A kernel without this kind of namespace: the daemon found none either.
            Err(Errno::ENOENT) => NamespaceId::default(),
            Err(errno) => {
                return Err(Failure {
                    stage: Stage::Namespaces,
                    errno,
                });
            }
        };
        require(found == *expected, Stage::Namespaces, Errno::EXDEV)?;
    }
    Ok(())
}

/// Where the helper is to find itself: a root, and a directory below it if that is not the root.
struct Room {
    root: OwnedFd,
    directory: Option<OwnedFd>,
}

impl Room {
    /// The leader's root; or the origin's, and its working directory. By number, so [`verify_origin`] has to follow.
    fn open(enter: &Enter, proc: &OwnedFd) -> Result<Self, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open = |path: String| openat(proc, path.as_str(), flags, Mode::empty()).at(Stage::Root);
        let Some([process, thread]) = enter.origin else {
            let (root, directory) = (open(format!("{}/root", enter.leader))?, None);
            return Ok(Self { root, directory });
        };
        let of = |what| open(format!("{process}/task/{thread}/{what}"));
        let (root, directory) = (of("root")?, Some(of("cwd")?));
        Ok(Self { root, directory })
    }

    /// Goes there, with nothing of the host's left to walk out by.
    fn change_to(self) -> Result<(), Failure> {
        fchdir(&self.root).at(Stage::Root)?;
        chroot(".").at(Stage::Root)?;
        match &self.directory {
            Some(directory) => fchdir(directory),
            None => chdir("/"),
        }
        .at(Stage::Root)?;
        drop(self);
        let reachable = sys::working_directory_is_reachable().at(Stage::Root)?;
        require(reachable, Stage::Root, Errno::EXDEV)
    }
}

/// What was opened by the origin's number was the origin's: it still has it.
fn verify_origin(enter: &Enter, fds: &mut Fds) -> Result<(), Failure> {
    if enter.origin.is_some() {
        let origin = fds.need(FdRole::Origin)?;
        sys::pidfd_send_signal(origin.as_fd(), 0).at(Stage::Root)?;
    }
    Ok(())
}

/// The helper's ids. Until here we are the host's root to every file; from here the container's at most.
pub(crate) fn take_ids(enter: &Enter) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(enter.uid), Gid::from_raw(enter.gid));
    setresgid(gid, gid, gid).at(Stage::Ids)?;
    setresuid(uid, uid, uid).at(Stage::Ids)?;
    become_undumpable()
}
