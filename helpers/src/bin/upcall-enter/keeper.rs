//! The keeper of one helper: stays on the host, holds the kernel's pipe, feeds the helper, and ends it in time.
//!
//! It is a process of its own because it shares pipes with the tenant's program: whoever sits in read(2) of a pipe
//! holds that pipe's lock, for as long as its page faults take, and a tenant can make a page fault take for ever
//! (userfaultfd, FUSE). Then only this keeper waits, and neither the launcher nor another tenant.

mod ready;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus as WaitIdStatus, waitid};
use upcall_helpers::clock::monotonic;
use upcall_helpers::sys::{self, CLONE_CLEAR_SIGHAND, Fork};
use upcall_helpers::wire::{Enter, Event, FdRole, Launch, NAMESPACES, Place, Stage, WaitStatus};

use crate::beside;
use crate::board::Row;
use crate::cgroup::{self, HelperCgroup};
use crate::descriptors::{Fds, Pipes, TheirPipes};
use crate::failure::{At, Failure, require};
use crate::join;
use crate::launcher::{Context, wait_status};
use crate::relay::Relay;
use crate::reporter::Reporter;
use crate::status::{LENGTH, Message};

/// From the fork to the helper's first instruction: longer means a file system that does not answer. Nanoseconds.
const EXEC_DEADLINE: u64 = 5_000_000_000;

/// Who takes less than so many bytes in a second, on the whole, is at the other end of a socket on purpose.
const SLOWEST: u64 = 64 << 10;

/// Every wait ends after this, to beat. Milliseconds.
pub(crate) const TICK: u16 = 500;

/// What needs no launch is done before one comes: the pipes, and a session keyring, for the helper to inherit instead
/// of the one that the launcher was started with (session-keyring(7)).
pub(crate) fn prepare() -> Result<Pipes, Failure> {
    match sys::new_session_keyring() {
        Ok(()) | Err(Errno::ENOSYS) => {} // a kernel without keys
        Err(errno) => {
            let stage = Stage::Session;
            return Err(Failure { stage, errno });
        }
    }
    Pipes::new()
}

/// Runs one helper from start to end, in the forked child of the launcher.
pub(crate) fn keep(
    context: &Context<'_>,
    launch: &Launch,
    enter: &Enter,
    fds: Vec<OwnedFd>,
    prepared: Result<Pipes, Failure>,
    row: Row,
) -> ! {
    let mut fds = Fds::sort(&launch.fds, fds);
    let record = fds.take(FdRole::Record);
    let mut reporter = Reporter::new(context.socket, record, launch.id.clone(), launch.slot);
    let mut keeper = Keeper {
        context,
        launch,
        enter,
        row,
    };
    if let Err(failure) = prepared.and_then(|pipes| keeper.run(fds, pipes, &mut reporter)) {
        reporter.tell(Event::Failed {
            stage: failure.stage,
            errno: failure.errno as u32,
        });
        reap_children();
    }
    sys::exit(0)
}

struct Keeper<'a> {
    context: &'a Context<'a>,
    launch: &'a Launch,
    enter: &'a Enter,
    row: Row,
}

/// The helper, our child, to be reaped.
struct Helper {
    pid: u32,
    pidfd: OwnedFd,
    row: Row,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Before the descriptor closes: its number is anybody's then.
        self.row.forget_helper();
    }
}

impl Helper {
    /// Ends it, wherever it is: a tenant who may write to his cgroups moves who is in them, and cgroup.kill finds nobody.
    fn kill(&self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }
}

impl Keeper<'_> {
    fn run(
        &mut self,
        mut fds: Fds,
        pipes: Pipes,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), Failure> {
        let source = fds.need(FdRole::Stdin)?;
        let hold = fds.take(FdRole::Hold);
        let claim = fds.take(FdRole::Claim);
        let parent = fds.need(FdRole::Cgroup)?;
        let mut cgroup = HelperCgroup::create(parent, &self.launch.id, self.launch.slot)?;
        self.row.keep(cgroup.fd().as_raw_fd());
        let result = self
            .bound(&mut cgroup, &mut fds)
            .and_then(|()| self.run_in(&cgroup, pipes, fds, source, claim, reporter));
        // The helper has ended: the crashed process may go.
        drop(hold);
        if result.is_err() {
            cgroup.kill();
        }
        cgroup.remove();
        result
    }

    /// What the container's own cgroup does for a helper that is in it.
    fn bound(&self, cgroup: &mut HelperCgroup, fds: &mut Fds) -> Result<(), Failure> {
        if let Some(bytes) = self.enter.memory {
            cgroup.limit_memory(fds.take(FdRole::MemoryV1), bytes)?;
        }
        let devices = fds.take(FdRole::Devices);
        devices.map_or(Ok(()), |program| cgroup.bound_devices(&program))
    }

    /// Everything between its bounds and its removal.
    fn run_in(
        &self,
        cgroup: &HelperCgroup,
        pipes: Pipes,
        fds: Fds,
        source: OwnedFd,
        claim: Option<OwnedFd>,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), Failure> {
        let (ours, theirs) = pipes.split();
        // Before there is a joiner, which would have to wait for them.
        let leader = fds.get(FdRole::Leader);
        let files = beside::read_files(&self.context.proc, self.enter, leader)?;
        let helper = self.fork(cgroup, fds, &theirs, &ours.going, &files)?;
        drop((theirs, ours.going));
        let begun = self.executed(ours.status);
        let begun = begun.and_then(|()| self.ready(&ours.output, &helper));
        begun.inspect_err(|_| helper.kill())?;
        let claimed = claim.map_or(Ok(()), |claim| take_claim(&claim));
        if let Err(failure) = claimed {
            self.send_away(ours.stdin, &helper);
            return Err(failure);
        }
        reporter.tell(Event::Started { pid: helper.pid });
        let (limit, progress) = (self.enter.output, self.enter.progress);
        let mut relay = Relay::new(source, ours.stdin, ours.output, limit, progress);
        if self.enter.ready {
            relay.demand(SLOWEST);
        }
        relay.in_all = self.enter.in_all;
        let timed_out = relay.run(&helper.pidfd, self.row).is_err();
        if timed_out {
            cgroup.kill();
            helper.kill();
        }
        let (fed, output) = relay.finish();
        let status = self.reap(&helper).unwrap_or(WaitStatus::Signaled(9));
        reporter.tell(Event::Ended {
            status,
            timed_out,
            fed,
            output,
        });
        Ok(())
    }

    /// Ends a helper that gets nothing. One of our own may have made something, and takes it back when it sees that.
    fn send_away(&self, feed: OwnedFd, helper: &Helper) {
        drop(feed);
        if self.enter.ready {
            self.reap(helper);
        }
        helper.kill();
    }

    /// Forks the joiner, into the helper's cgroups and the container's pid namespace.
    fn fork(
        &self,
        cgroup: &HelperCgroup,
        mut fds: Fds,
        pipes: &TheirPipes,
        going: &OwnedFd,
        files: &[Vec<u8>],
    ) -> Result<Helper, Failure> {
        let cgroups_v1 = std::mem::take(&mut fds.cgroups_v1);
        fds.take(FdRole::FreezerV1)
            .map(cgroup::refuse_frozen_v1)
            .transpose()?;
        let mut visit = None;
        if self.enter.place == Place::Container {
            join::share_core(self.enter.leader)?;
            if self.enter.join & NAMESPACES[2].1 != 0 {
                let leader = fds.get(FdRole::Leader).ok_or(Errno::EBADF);
                let leader = leader.at(Stage::Plan)?;
                visit = Some(Visit::begin(self.context, leader, self.enter.join)?);
            }
        }
        let forked = sys::fork(CLONE_CLEAR_SIGHAND, Some(cgroup.fd()));
        if let Ok(Fork::Child) = forked {
            drop(visit);
            join::start(self.context, self.enter, fds, pipes, files);
        }
        visit.map_or(Ok(()), Visit::end)?;
        let (pid, pidfd) = match forked {
            Ok(Fork::Child) => sys::exit(127),
            Ok(Fork::Parent { pid, pidfd }) => (pid, pidfd),
            Err(errno) => {
                // A pid namespace that has lost its init takes nobody, and this is how it says so.
                let inside = errno == Errno::ENOMEM;
                let stage = if inside { Stage::Inside } else { Stage::Clone };
                return Err(Failure { stage, errno });
            }
        };
        let row = self.row;
        row.start(pidfd.as_raw_fd());
        let helper = Helper { pid, pidfd, row };
        // Beside its first steps; it goes no further than them before it is told to.
        let mut v1 = cgroups_v1.iter().zip(&self.enter.cgroups_v1);
        v1.try_for_each(|(mount, path)| cgroup::join_v1(mount, path, pid))
            .and_then(|()| cgroup.join_memory_v1(pid))
            .and_then(|()| nix::unistd::write(going, b".").at(Stage::Cgroup))
            .inspect_err(|_| helper.kill())?;
        Ok(helper)
    }

    /// Waits until the joiner has executed the helper or says why not.
    fn executed(&self, status: OwnedFd) -> Result<(), Failure> {
        let deadline = monotonic().saturating_add(EXEC_DEADLINE);
        let mut status = File::from(status);
        let mut executing = false;
        loop {
            let now = self.row.beat();
            let left = deadline.saturating_sub(now) / 1_000_000;
            let wait = u16::try_from(left).unwrap_or(TICK).min(TICK);
            let mut fds = [PollFd::new(status.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(wait)) {
                // Whoever stood still with us has perhaps written meanwhile: looked at before it is too late.
                Ok(0) | Err(Errno::EINTR) => {
                    require(left > 0, Stage::Deadline, Errno::ETIMEDOUT)?;
                    continue;
                }
                Ok(_) => {}
                Err(errno) => {
                    return Err(Failure {
                        stage: Stage::Exec,
                        errno,
                    });
                }
            }
            let mut message = [0; LENGTH];
            match status.read(&mut message).at(Stage::Exec)? {
                0 => break,
                LENGTH => match Message::decode(message) {
                    Some(Message::Executing) => executing = true,
                    Some(Message::Failed(failure)) => return Err(failure),
                    None => {
                        return Err(Failure {
                            stage: Stage::Exec,
                            errno: Errno::EBADMSG,
                        });
                    }
                },
                _ => {
                    return Err(Failure {
                        stage: Stage::Exec,
                        errno: Errno::EBADMSG,
                    });
                }
            }
        }
        require(executing, Stage::Exec, Errno::ESRCH)
    }

    /// Waits for the helper's end; one that was killed and does not go is left to the kernel, and we to the launcher.
    fn reap(&self, helper: &Helper) -> Option<WaitStatus> {
        for _ in 0..4 {
            self.row.beat();
            let mut fds = [PollFd::new(helper.pidfd.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(TICK)) == Ok(1) {
                let status = waitid(Id::PIDFd(helper.pidfd.as_fd()), WaitPidFlag::WEXITED);
                return status.ok().map(wait_status);
            }
        }
        None
    }
}

/// The container's pid namespace for our children (pid_namespaces(7)), and its mounts and its network for ourselves until
/// one is born. From then on he is seen there, and whose mounts and sockets a process sees everybody may read of it
/// (proc_pid_mountinfo(5), proc_pid_net(5)): the host's are not for the container to know. Nobody there sees us meanwhile,
/// and we look nothing up.
struct Visit {
    home: Vec<OwnedFd>,
}

impl Visit {
    fn begin(context: &Context<'_>, leader: &OwnedFd, join: u32) -> Result<Self, Failure> {
        let shown = NAMESPACES
            .iter()
            .filter(|(name, flag)| ["mnt", "net"].contains(name) && join & flag != 0);
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let home: Result<Vec<OwnedFd>, Errno> = shown
            .clone()
            .map(|(name, _)| {
                let path = format!("self/ns/{name}");
                openat(&context.proc, path.as_str(), flags, Mode::empty())
            })
            .collect();
        let home = home.at(Stage::Join)?;
        let joined = shown.fold(NAMESPACES[2].1, |joined, (_, flag)| joined | flag);
        setns(leader, join::clone_flags(joined)?).at(Stage::Join)?;
        Ok(Self { home })
    }

    /// Back to the host.
    fn end(self) -> Result<(), Failure> {
        self.home
            .iter()
            .try_for_each(|home| setns(home, CloneFlags::empty()))
            .at(Stage::Join)
    }
}

/// Reaps what did not become a helper. Left to the host's init, which may take its time, it would keep the init of its
/// pid namespace from ending for as long (pid_namespaces(7)).
fn reap_children() {
    for pause in [0_u8, 1, 4, 20, 75, 200] {
        let _ = poll(&mut [], PollTimeout::from(pause));
        loop {
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
                Ok(WaitIdStatus::StillAlive) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return, // ECHILD: none is left
            }
        }
    }
}

/// Takes the token that says who reads the pipe (eventfd(2) with one token).
fn take_claim(claim: &OwnedFd) -> Result<(), Failure> {
    let mut token = [0; 8];
    match nix::unistd::read(claim, &mut token) {
        Ok(8) => Ok(()),
        Ok(_) => Err(Failure {
            stage: Stage::Claim,
            errno: Errno::EIO,
        }),
        Err(errno) => Err(Failure {
            stage: Stage::Claim,
            errno,
        }),
    }
}
