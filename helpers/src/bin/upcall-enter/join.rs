//! The joiner: everything between the host and the container's pid namespace, one checked step after the other.
//!
//! It runs in the helper's cgroup, forked by the keeper, single-threaded. From the first step it cannot be traced or
//! looked into (`PR_SET_DUMPABLE`), and until it has the container's ids it holds no directory but through
//! descriptors of the host's /proc that name nothing a container can use. Its last step forks the helper-to-be into
//! the pid namespace, as the keeper's child, and ends.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::{get_dumpable, set_dumpable, set_pdeathsig, set_timerslack};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fstatat, umask};
use nix::unistd::{Gid, Uid, chdir, chroot, fchdir, setgroups, setresgid, setresuid, setsid};
use upcall_helpers::sys::{self, CLONE_PARENT, Fork};
use upcall_helpers::wire::{Enter, FdRole, NAMESPACES, NamespaceId, Place, Rlimit, Stage};

use crate::failure::{At, Failure, require};
use crate::inside;
use crate::keeper::{Fds, number};
use crate::launcher::Context;
use crate::status::{Message, Sender};

/// What the keeper gives the joiner.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) fds: Fds,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    /// A byte comes here when the keeper has put us into the cgroup v1 hierarchies.
    pub(crate) go: OwnedFd,
    pub(crate) sender: Sender,
}

/// What the helper-to-be takes over from the joiner.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The host's /proc, for the steps that need it; closed before the exec.
    pub(crate) proc: OwnedFd,
    /// The program, where it is executed by descriptor.
    pub(crate) program: Option<OwnedFd>,
    pub(crate) sender: Sender,
}

/// The joiner's whole life.
pub(crate) fn start(context: &Context<'_>, enter: &Enter, mut given: Given) -> ! {
    match enter_place(context, enter, &mut given) {
        Ok(proc) => {
            let Given {
                mut fds, sender, ..
            } = given;
            let program = fds.take(FdRole::Program);
            become_helper(
                context,
                enter,
                Joined {
                    proc,
                    program,
                    sender,
                },
            )
        }
        Err(failure) => give_up(&given.sender, failure),
    }
}

fn enter_place(
    context: &Context<'_>,
    enter: &Enter,
    given: &mut Given,
) -> Result<OwnedFd, Failure> {
    let proc = prepare(context, enter, given)?;
    if enter.place == Place::Container {
        enter_container(enter, &mut given.fds, &proc)?;
    }
    // Into the pid namespace only from within the cgroups that bound it.
    let mut go = [0; 1];
    let going = nix::unistd::read(&given.go, &mut go).at(Stage::Cgroup)?;
    require(going == 1, Stage::Cgroup, Errno::ESRCH)?;
    Ok(proc)
}

/// Says why and ends.
pub(crate) fn give_up(sender: &Sender, failure: Failure) -> ! {
    sender.send(Message::Failed(failure));
    sys::exit(127)
}

/// Steps that need nothing of the container: what we were given, put off; what the helper gets, put on.
/// Returns our descriptor of the host's /proc.
fn prepare(context: &Context<'_>, enter: &Enter, given: &mut Given) -> Result<OwnedFd, Failure> {
    die_with_parent(&given.sender)?;
    let proc = context.proc.try_clone().at(Stage::Scheduling)?;
    if enter.place == Place::Container {
        raise_oom_score(proc.as_fd(), enter.leader)?;
        match sys::share_core_cookie(enter.leader) {
            // No simultaneous multithreading, or a kernel without core scheduling: nobody to be kept apart from.
            Ok(()) | Err(Errno::ENODEV | Errno::EINVAL) => {}
            Err(errno) => {
                return Err(Failure {
                    stage: Stage::Scheduling,
                    errno,
                });
            }
        }
    }
    sys::reset_scheduling().at(Stage::Scheduling)?;
    set_timerslack(0).at(Stage::Scheduling)?;
    sys::reset_sigpipe();
    umask(Mode::from_bits_truncate(0o022));
    become_undumpable()?;
    setsid().at(Stage::Session)?;
    match sys::new_session_keyring() {
        Ok(()) | Err(Errno::ENOSYS) => {} // a kernel without keys
        Err(errno) => {
            return Err(Failure {
                stage: Stage::Session,
                errno,
            });
        }
    }
    arrange_descriptors(given, &proc).at(Stage::Descriptors)?;
    set_limits(context, enter)?;
    Ok(proc)
}

/// Ends this process when its parent ends, and now if that has ended already: then nobody reads the status pipe.
pub(crate) fn die_with_parent(sender: &Sender) -> Result<(), Failure> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    set_pdeathsig(Signal::SIGKILL).at(Stage::Fork)?;
    let mut fds = [PollFd::new(sender.file().as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).at(Stage::Fork)?;
    let alone = fds.iter().any(|fd| fd.any().unwrap_or(true));
    require(!alone, Stage::Fork, Errno::ESRCH)
}

/// Nobody traces us or opens our /proc (prctl(2), `PR_SET_DUMPABLE`; ptrace(2)); checked, because a later change of
/// ids sets it anew.
pub(crate) fn become_undumpable() -> Result<(), Failure> {
    set_dumpable(false).at(Stage::Undumpable)?;
    require(get_dumpable() == Ok(false), Stage::Undumpable, Errno::EPERM)
}

/// The helper is ended before the container's init where memory runs out, never instead of it.
fn raise_oom_score(proc: BorrowedFd<'_>, leader: u32) -> Result<(), Failure> {
    let read = |path: &str| -> Result<i32, Errno> {
        let fd = openat(
            proc,
            path,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = [0; 16];
        let length = nix::unistd::read(&fd, &mut text)?;
        let text = text
            .get(..length)
            .and_then(|text| str::from_utf8(text).ok());
        text.and_then(|text| text.trim().parse().ok())
            .ok_or(Errno::EINVAL)
    };
    let wanted = read(&format!("{leader}/oom_score_adj"))
        .at(Stage::Scheduling)?
        .max(0);
    let path = "self/oom_score_adj";
    let fd = openat(
        proc,
        path,
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .at(Stage::Scheduling)?;
    match nix::unistd::write(&fd, wanted.to_string().as_bytes()) {
        // Lowering needs CAP_SYS_RESOURCE; a launcher that is already above the leader stays there.
        Ok(_) | Err(Errno::EACCES) => Ok(()),
        Err(errno) => Err(Failure {
            stage: Stage::Scheduling,
            errno,
        }),
    }
}

/// Standard input, output and error as the helper gets them, and nothing else open but what the next steps need:
/// the gaps between those are closed, whatever is in them.
fn arrange_descriptors(given: &Given, proc: &OwnedFd) -> Result<(), Errno> {
    sys::dup_to(given.stdin.as_fd(), 0)?;
    sys::dup_to(given.stdout.as_fd(), 1)?;
    sys::dup_to(given.stdout.as_fd(), 2)?;
    let needed = [FdRole::Leader, FdRole::Program]
        .into_iter()
        .filter_map(|role| given.fds.get(role));
    let mut kept: Vec<u32> = needed.chain([proc, &given.go]).map(number).collect();
    kept.push(given.sender.file().as_raw_fd().unsigned_abs());
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
    let groups: Vec<Gid> = enter
        .groups
        .iter()
        .map(|group| Gid::from_raw(*group))
        .collect();
    setgroups(&groups).at(Stage::Groups)?;
    // The root before the join too: a chrooted init's is not its mount namespace's. By number, so alive afterwards.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let path = format!("{}/root", enter.leader);
    let root = openat(proc, path.as_str(), flags, Mode::empty()).at(Stage::Root)?;
    sys::pidfd_send_signal(leader.as_fd(), 0).at(Stage::Join)?;
    let join = i32::try_from(enter.join)
        .map_err(|_| Errno::EINVAL)
        .at(Stage::Plan)?;
    setns(&leader, CloneFlags::from_bits_retain(join)).at(Stage::Join)?;
    drop(leader);
    verify_namespaces(proc.as_fd(), &enter.namespaces)?;
    change_root(root)?;
    // Joining a user namespace filled it up again (user_namespaces(7)), so only now.
    sys::limit_bounding_set(enter.capabilities).at(Stage::Bounding)?;
    if enter.join & NAMESPACES[0].1 != 0 {
        take_ids(enter)?;
    }
    Ok(())
}

/// We are where the plan says, in every namespace, joined or not.
fn verify_namespaces(proc: BorrowedFd<'_>, expected: &[NamespaceId; 8]) -> Result<(), Failure> {
    for ((name, _), expected) in NAMESPACES.iter().zip(expected) {
        // setns(2): a joined pid namespace is our children's, not ours.
        let name = if *name == "pid" {
            "pid_for_children"
        } else {
            name
        };
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

/// The leader's root, and nothing of the host's left to walk out by.
fn change_root(root: OwnedFd) -> Result<(), Failure> {
    fchdir(&root).at(Stage::Root)?;
    chroot(".").at(Stage::Root)?;
    chdir("/").at(Stage::Root)?;
    drop(root);
    let reachable = sys::working_directory_is_reachable().at(Stage::Root)?;
    require(reachable, Stage::Root, Errno::EXDEV)
}

/// The helper's ids. Until here we are the host's root to every file; from here the container's at most.
pub(crate) fn take_ids(enter: &Enter) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(enter.uid), Gid::from_raw(enter.gid));
    setresgid(gid, gid, gid).at(Stage::Ids)?;
    setresuid(uid, uid, uid).at(Stage::Ids)?;
    become_undumpable()
}

/// Into the pid namespace, as the keeper's child: a joiner that stayed would be one process more that a frozen or
/// dying container could hold. (A vfork would spare a copy of our few pages, and keep the status pipe open until we
/// run again: longer than the copy takes.)
fn become_helper(context: &Context<'_>, enter: &Enter, joined: Joined) -> ! {
    if enter.place == Place::Host {
        joined.sender.send(Message::Forked(std::process::id()));
        inside::run(context, enter, joined)
    }
    match sys::fork(CLONE_PARENT, None) {
        Ok(Fork::Child) => inside::run(context, enter, joined),
        Ok(Fork::Parent { pid, .. }) => {
            joined.sender.send(Message::Forked(pid));
            sys::exit(0)
        }
        Err(errno) => give_up(
            &joined.sender,
            Failure {
                stage: Stage::Inside,
                errno,
            },
        ),
    }
}
