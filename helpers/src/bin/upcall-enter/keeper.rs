//! The keeper of one helper: stays on the host, holds the kernel's pipe, feeds the helper, and ends it in time.
//!
//! It is a process of its own because it shares pipes with the tenant's program: whoever sits in read(2) of a pipe
//! holds that pipe's lock, for as long as its page faults take, and a tenant can make a page fault take for ever
//! (userfaultfd, FUSE). Then only this keeper waits, and neither the launcher nor another tenant.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus as WaitIdStatus, waitid};
use nix::unistd::pipe2;
use upcall_helpers::sys::{self, CLONE_CLEAR_SIGHAND, Fork};
use upcall_helpers::wire::{Enter, Event, FdRole, Launch, Place, Stage, WaitStatus};

use crate::board::Row;
use crate::cgroup::{self, HelperCgroup};
use crate::failure::{At, Failure, require};
use crate::join;
use crate::launcher::{Context, wait_status};
use crate::relay::Relay;
use crate::reporter::{Reporter, monotonic};
use crate::status::{LENGTH, Message, Sender};

/// From the fork to the helper's first instruction: longer means a file system that does not answer. Nanoseconds.
const EXEC_DEADLINE: u64 = 5_000_000_000;

/// Every wait ends after this, to beat. Milliseconds.
pub(crate) const TICK: u16 = 500;

/// The launch's descriptors by what they are.
#[derive(Debug, Default)]
pub(crate) struct Fds {
    single: BTreeMap<FdRole, OwnedFd>,
    pub(crate) cgroups_v1: Vec<OwnedFd>,
}

impl Fds {
    pub(crate) fn sort(roles: &[FdRole], fds: Vec<OwnedFd>) -> Self {
        let mut sorted = Self::default();
        for (role, fd) in roles.iter().zip(fds) {
            if *role == FdRole::CgroupV1 {
                sorted.cgroups_v1.push(fd);
            } else {
                sorted.single.insert(*role, fd);
            }
        }
        sorted
    }

    pub(crate) fn take(&mut self, role: FdRole) -> Option<OwnedFd> {
        self.single.remove(&role)
    }

    pub(crate) fn get(&self, role: FdRole) -> Option<&OwnedFd> {
        self.single.get(&role)
    }

    pub(crate) fn need(&mut self, role: FdRole) -> Result<OwnedFd, Failure> {
        self.take(role).ok_or(Failure {
            stage: Stage::Plan,
            errno: Errno::EBADF,
        })
    }
}

/// Runs one helper from start to end, in the forked child of the launcher.
pub(crate) fn keep(
    context: &Context<'_>,
    launch: &Launch,
    enter: &Enter,
    fds: Vec<OwnedFd>,
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
    if let Err(failure) = keeper.run(fds, &mut reporter) {
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

/// The helper, forked and waiting to be reaped.
struct Helper {
    pid: u32,
    pidfd: OwnedFd,
}

impl Keeper<'_> {
    fn run(&mut self, mut fds: Fds, reporter: &mut Reporter<'_>) -> Result<(), Failure> {
        let source = fds.need(FdRole::Stdin)?;
        let hold = fds.take(FdRole::Hold);
        let claim = fds.take(FdRole::Claim);
        let parent = fds.need(FdRole::Cgroup)?;
        let cgroup = HelperCgroup::create(parent, &self.launch.id, self.enter.memory)?;
        self.row.keep(cgroup.fd().as_raw_fd());
        let result = self.run_in(&cgroup, fds, source, claim, reporter);
        // The helper has ended: the crashed process may go.
        drop(hold);
        if result.is_err() {
            cgroup.kill();
        }
        cgroup.remove();
        result
    }

    /// Everything between the cgroup's making and its removal.
    fn run_in(
        &self,
        cgroup: &HelperCgroup,
        mut fds: Fds,
        source: OwnedFd,
        claim: Option<OwnedFd>,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), Failure> {
        let (stdin, stdin_write) = pipe2(OFlag::O_CLOEXEC).at(Stage::Pipes)?;
        widen(&stdin);
        let (output, stdout) = pipe2(OFlag::O_CLOEXEC).at(Stage::Pipes)?;
        let (status, sender) = pipe2(OFlag::O_CLOEXEC).at(Stage::Pipes)?;
        let (go, going) = pipe2(OFlag::O_CLOEXEC).at(Stage::Pipes)?;
        let cgroups_v1 = std::mem::take(&mut fds.cgroups_v1);
        fds.take(FdRole::FreezerV1)
            .map(cgroup::refuse_frozen_v1)
            .transpose()?;
        let joiner = match sys::fork(CLONE_CLEAR_SIGHAND, Some(cgroup.fd())).at(Stage::Clone)? {
            Fork::Child => join::start(
                self.context,
                self.enter,
                join::Given {
                    fds,
                    stdin,
                    stdout,
                    go,
                    sender: Sender::new(sender),
                },
            ),
            Fork::Parent { pid, pidfd } => {
                // Beside its first steps; it goes no further than them before it is told to.
                for procs in &cgroups_v1 {
                    cgroup::join_v1(procs, pid)?;
                }
                nix::unistd::write(&going, b".").at(Stage::Cgroup)?;
                pidfd
            }
        };
        drop((fds, stdin, stdout, sender, go, cgroups_v1));
        let helper = self.executed(status)?;
        if self.enter.place == Place::Container {
            let _ = joiner_reaped(&joiner); // on the host it is the helper itself
        }
        if let Some(claim) = claim {
            take_claim(&claim)?;
        }
        reporter.tell(Event::Started { pid: helper.pid });
        let mut relay = Relay::new(
            source,
            stdin_write,
            output,
            self.enter.output,
            self.enter.progress,
        );
        let timed_out = relay.run(&helper.pidfd, self.row).is_err();
        if timed_out {
            cgroup.kill();
            let _ = sys::pidfd_send_signal(helper.pidfd.as_fd(), libc::SIGKILL);
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

    /// Waits until the helper-to-be is executed or says why not.
    fn executed(&self, status: OwnedFd) -> Result<Helper, Failure> {
        let deadline = monotonic().saturating_add(EXEC_DEADLINE);
        let mut status = File::from(status);
        let (mut pid, mut executing) = (None, false);
        loop {
            let now = self.row.beat();
            let left = deadline.saturating_sub(now) / 1_000_000;
            require(left > 0, Stage::Deadline, Errno::ETIMEDOUT)?;
            let left = u16::try_from(left).unwrap_or(TICK).min(TICK);
            let mut fds = [PollFd::new(status.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(left)) {
                Ok(0) | Err(Errno::EINTR) => continue,
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
                    Some(Message::Forked(number)) => pid = Some(number),
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
        require(executing, Stage::Exec, Errno::ESRCH)?;
        // Nobody but us reaps it, so the number is still its own.
        let pid = pid.ok_or(Failure {
            stage: Stage::Inside,
            errno: Errno::ECHILD,
        })?;
        Ok(Helper {
            pid,
            pidfd: sys::pidfd_open(pid).at(Stage::Inside)?,
        })
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

/// Reaps the joiner, which has ended or is about to: it forked the helper and has nothing left to do.
fn joiner_reaped(joiner: &OwnedFd) -> Result<(), Errno> {
    waitid(Id::PIDFd(joiner.as_fd()), WaitPidFlag::WEXITED).map(drop)
}

/// Gives a pipe room for a small core in one go: fewer rounds between the kernel, us and the helper. Where the kernel
/// does not allow it, it stays as it is.
fn widen(pipe: &OwnedFd) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(1 << 20));
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

/// The number of a descriptor, for the joiner's table.
pub(crate) fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}
