//! Upcalls for which the shim becomes the program that the kernel wanted, in this very process and with the kernel's
//! words and environment, or refuses.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::stat;
use upcall_helpers::clock::monotonic;
use upcall_helpers::hookfile::HookFile;
use upcall_helpers::wire::{Event, ID_LENGTH, Report, Request, Stage, Verdict};
use upcall_helpers::{seqpacket, sys};

use crate::{FAILURE, SUCCESS, link, run};

/// What is wanted, and what holds without a daemon.
pub(crate) struct Wanted<'a> {
    pub(crate) hook: &'a HookFile,
    pub(crate) id: [u8; ID_LENGTH],
    pub(crate) request: Request,
    /// The program's own argv.
    pub(crate) argv: Vec<Vec<u8>>,
    /// It goes on where nobody listens.
    pub(crate) alone: bool,
    /// It goes on unless it is refused.
    pub(crate) always: bool,
}

/// Asks, and obeys. Returns where there is nothing to become.
pub(crate) fn ask(wanted: &Wanted<'_>) -> u8 {
    let answer = match link::ask(wanted.hook, &wanted.request, &[]) {
        Ok(answer) => answer,
        Err(Errno::ENOENT | Errno::ECONNREFUSED) if wanted.alone => {
            return run::become_previous(&wanted.argv);
        }
        Err(_) if wanted.always => return run::become_previous(&wanted.argv),
        // Late, or it has ended meanwhile: that is no leave to do more than it would have.
        Err(_) => return FAILURE,
    };
    let capabilities = match answer.verdict {
        Verdict::Pass { capabilities, .. } => capabilities,
        // There is nothing to become, and nothing wrong with that.
        Verdict::Done => return SUCCESS,
        Verdict::Deny { .. }
        | Verdict::Fallback
        | Verdict::Answer { .. }
        | Verdict::RunHere { .. } => return FAILURE,
    };
    let tell = |event: Event| {
        let time = monotonic();
        let report = Report {
            id: wanted.id.to_vec(),
            slot: 0,
            time,
            event,
        };
        let report = report.encode().unwrap_or_default();
        seqpacket::send(answer.socket.as_fd(), &report, &[])
    };
    let failed = |stage: Stage, errno: Errno| {
        let errno = errno as u32;
        let _ = tell(Event::Failed { stage, errno });
        FAILURE
    };
    if capabilities != u64::MAX
        && let Err(errno) = sys::limit_bounding_set(capabilities)
    {
        return failed(Stage::Bounding, errno);
    }
    // One that cannot be told has given up on us; the requester need not.
    let pid = std::process::id();
    let _ = tell(Event::Started { pid });
    run::become_previous(&wanted.argv);
    failed(Stage::Exec, Errno::last())
}

/// Whether this is our own program, which would start itself without end.
pub(crate) fn is_own(program: &[u8]) -> bool {
    let file = |path: &Path| stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    let own = file(Path::new("/proc/self/exe"));
    own.is_ok() && own == file(Path::new(std::ffi::OsStr::from_bytes(program)))
}
