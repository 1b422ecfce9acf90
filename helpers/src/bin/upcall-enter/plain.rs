//! A trusted program of the host that gets its descriptors as they are: the store worker, or the previous handler,
//! which is to find everything as if the kernel had started it (core(5), "Piping core dumps to a program").

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, fcntl};
use nix::unistd::{AccessFlags, access, execve, execveat};
use upcall_helpers::sys;
use upcall_helpers::wire::{Event, Exec, FdRole, Launch, Stage};

use crate::failure::{At, Failure};
use crate::launcher::{Context, NUMBERS};
use crate::reporter::Reporter;

/// `RLIMIT_CORE` of everything that handles a core: the kernel ends the dump of a process with exactly this limit, so
/// that a crashing handler is not handled by itself (fs/coredump.c).
const RLIMIT_CORE: u32 = 4;

/// Where a program that reports itself finds the socket to the daemon.
const REPORTS: i32 = 4;

/// Executes in the forked child of the launcher.
pub(crate) fn exec(context: &Context<'_>, launch: &Launch, exec: &Exec, fds: Vec<OwnedFd>) -> ! {
    let Ok(mut given) = Given::sort(context, exec, &launch.fds, fds) else {
        sys::exit(127) // out of descriptors; the launcher reports our end
    };
    let record = given.record.take();
    let mut reporter = Reporter::new(context.socket, record, launch.id.clone(), launch.slot);
    let failure = match given
        .prepare(exec, &mut reporter)
        .and_then(|()| given.execute(exec))
    {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    reporter.tell(Event::Failed {
        stage: failure.stage,
        errno: failure.errno as u32,
    });
    sys::exit(127)
}

/// The launch's descriptors, all of them out of the way of the numbers that the program is to find.
#[derive(Debug, Default)]
struct Given {
    record: Option<OwnedFd>,
    claim: Option<OwnedFd>,
    program: Option<OwnedFd>,
    numbered: Vec<(i32, OwnedFd)>,
}

impl Given {
    fn sort(
        context: &Context<'_>,
        exec: &Exec,
        roles: &[FdRole],
        fds: Vec<OwnedFd>,
    ) -> Result<Self, Errno> {
        let mut given = Self::default();
        if exec.reports {
            let socket = fcntl(context.socket, FcntlArg::F_DUPFD_CLOEXEC(NUMBERS))?;
            given.numbered.push((REPORTS, sys::inherited(socket)?));
        }
        for (role, fd) in roles.iter().zip(fds) {
            let fd = sys::inherited(fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(NUMBERS))?)?;
            match role {
                FdRole::Record => given.record = Some(fd),
                FdRole::Claim => given.claim = Some(fd),
                FdRole::Program => given.program = Some(fd),
                FdRole::Number(number) => given.numbered.push((i32::from(*number), fd)),
                FdRole::Leader
                | FdRole::Cgroup
                | FdRole::CgroupV1
                | FdRole::FreezerV1
                | FdRole::Stdin
                | FdRole::MemoryV1
                | FdRole::Devices
                | FdRole::Origin
                | FdRole::Hold => {}
            }
        }
        Ok(given)
    }

    /// What must hold before the claim is taken, and the claim.
    fn prepare(&self, exec: &Exec, reporter: &mut Reporter<'_>) -> Result<(), Failure> {
        sys::reset_sigpipe();
        sys::set_rlimit(RLIMIT_CORE, 1, 1).at(Stage::Limits)?;
        if self.program.is_none() {
            // Whoever has the claim has to do the work: a program that is not there must be found out before.
            let path = exec.argv.first().ok_or(Errno::EINVAL).at(Stage::Plan)?;
            access(path.as_slice(), AccessFlags::X_OK).at(Stage::Program)?;
        }
        if let Some(claim) = &self.claim {
            let mut token = [0; 8];
            nix::unistd::read(claim, &mut token).at(Stage::Claim)?;
        }
        reporter.tell(Event::Started {
            pid: std::process::id(),
        });
        Ok(())
    }

    /// Puts every descriptor at its number, closes the other numbers, executes.
    fn execute(&self, exec: &Exec) -> Result<Infallible, Failure> {
        let words = |words: &[Vec<u8>]| -> Result<Vec<CString>, Failure> {
            let strings = words.iter().map(|word| CString::new(word.as_slice()));
            strings
                .collect::<Result<_, _>>()
                .map_err(|_| Errno::EINVAL)
                .at(Stage::Plan)
        };
        let (argv, env) = (words(&exec.argv)?, words(&exec.env)?);
        let path = argv.first().ok_or(Errno::EINVAL).at(Stage::Plan)?;
        // 0 to 2 are closed where not named: so the kernel starts a core handler.
        for number in 0..NUMBERS {
            match self.numbered.iter().find(|(wanted, _)| *wanted == number) {
                Some((_, fd)) => sys::dup_to(fd.as_fd(), number),
                None => sys::close_range(number.unsigned_abs(), number.unsigned_abs()),
            }
            .at(Stage::Descriptors)?;
        }
        match &self.program {
            Some(program) => execveat(program, c"", &argv, &env, AtFlags::AT_EMPTY_PATH),
            None => execve(path, &argv, &env),
        }
        .at(Stage::Exec)
    }
}
