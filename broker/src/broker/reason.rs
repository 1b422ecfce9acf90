//! What a failed step means to people: the reason word, what happened, what to do.

use nix::errno::Errno;
use upcall_config::facts::Reason;
use upcall_helpers::wire::{Stage, WaitStatus};

use crate::launch::{EnterError, LaunchError};
use crate::linux::memfd::SealError;

/// A failure in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Explained {
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// A launch that ended at a stage. `program` and `place` are as people name them.
pub(super) fn stage(stage: Stage, errno: Errno, program: &str, place: &str) -> Explained {
    let name = name(errno);
    let at = format!("(stage {}: {name})", stage.as_str());
    let (reason, message) = match (stage, errno) {
        (Stage::Program, Errno::ENOENT | Errno::ENOTDIR) => (
            Reason::HelperMissing,
            format!(
                "{program} is not in {place} {at}; help: add it to the image, or use host_program"
            ),
        ),
        (Stage::Exec, Errno::ENOENT) => (
            Reason::HelperNotExecutable,
            format!("{program} in {place} needs an interpreter or loader that is not there {at}"),
        ),
        (Stage::Program | Stage::Exec, _) => (
            Reason::HelperNotExecutable,
            format!(
                "{program} in {place} cannot be executed {at}; help: a plain file, chmod +x, for its user"
            ),
        ),
        (Stage::Freezer, _) => (
            Reason::ContainerFrozen,
            format!("{place} is paused {at}; help: unpause it"),
        ),
        (Stage::Undumpable, Errno::EPERM) => (
            Reason::JoinFailed,
            format!(
                "{program} was not started in {place} {at}: processes that change ids can be traced on this host; \
                 help: sysctl fs.suid_dumpable=0 (or 2)"
            ),
        ),
        (
            Stage::Join | Stage::Inside | Stage::Root,
            Errno::ESRCH | Errno::ENOMEM | Errno::ENOENT,
        )
        | (Stage::Cgroup | Stage::Clone, Errno::ENODEV | Errno::ENOENT) => (
            Reason::ContainerGone,
            format!("{place} ended before its helper was there {at}"),
        ),
        (Stage::Deadline, _) => (
            Reason::HelperTimeout,
            format!(
                "{program} in {place} did not start in time {at}; a file system there does not answer"
            ),
        ),
        (Stage::Claim, _) => (
            Reason::Late,
            format!("the shim's deadline was over; the core is in the spool {at}"),
        ),
        _ => (
            Reason::JoinFailed,
            format!("{program} was not started in {place} {at}"),
        ),
    };
    Explained { reason, message }
}

/// A launch that did not even reach the launcher.
pub(super) fn launch(error: &LaunchError, place: &str) -> Explained {
    let reason = match error {
        LaunchError::Enter(EnterError::NotMapped(_)) => Reason::UidNotMapped,
        LaunchError::Enter(EnterError::NoContainer) => Reason::Unregistered,
        LaunchError::Enter(EnterError::Leader(_) | EnterError::Cgroup(_)) => Reason::ContainerGone,
        LaunchError::Program {
            source: SealError::Read(_),
            ..
        } => Reason::HelperMissing,
        LaunchError::Program { .. } => Reason::HelperNotExecutable,
        LaunchError::Enter(
            EnterError::OurCgroup(_) | EnterError::NoMemoryController | EnterError::Devices(_),
        )
        | LaunchError::Encode(_)
        | LaunchError::Send(_)
        | LaunchError::Descriptor(_) => Reason::JoinFailed,
    };
    Explained {
        reason,
        message: format!("{place}: {error}"),
    }
}

/// A helper that ended otherwise than it should.
pub(super) fn ended(status: WaitStatus, timed_out: bool, program: &str) -> Option<Explained> {
    let (reason, message) = match status {
        _ if timed_out => (
            Reason::HelperTimeout,
            format!(
                "{program} was ended: it took nothing and said nothing for too long (run.timeout)"
            ),
        ),
        WaitStatus::Exited(0) => return None,
        WaitStatus::Exited(code) => (Reason::HelperExit, format!("{program} exited with {code}")),
        WaitStatus::Signaled(signal) => (
            Reason::HelperSignal,
            format!("{program} was killed by signal {}", signal_name(signal)),
        ),
    };
    Some(Explained { reason, message })
}

/// A signal's name, or its number.
pub(super) fn signal_name(signal: u8) -> String {
    let known = upcall_config::upcall::Signal::from_number(u32::from(signal));
    known.map_or_else(|| signal.to_string(), |signal| signal.to_string())
}

/// An error's name, as `ENOENT`.
pub(super) fn name(errno: Errno) -> String {
    format!("{errno:?}")
}
