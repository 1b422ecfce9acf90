//! What a failed step means to people: the reason word, what happened, what to do.

use nix::errno::Errno;
use upcall_config::facts::Reason;
use upcall_helpers::wire::{Stage, WaitStatus};

use crate::launch::{EnterError, LaunchError, Slot};
use crate::linux::memfd::SealError;

/// A failure in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Explained {
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// Too few descriptors are free to look at a process.
pub(super) fn scarce(errno: Errno) -> String {
    format!(
        "upcalld has too few descriptors free to look at who asked: {}; help: LimitNOFILE= of upcalld.service",
        name(errno)
    )
}

/// A core that has less than its own headers promise.
pub(super) fn ended_early(bytes: u64) -> String {
    format!(
        "the dump ended early, as when somebody kills the process or its container; {bytes} bytes kept"
    )
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
        (Stage::Files, _) => (
            Reason::JoinFailed,
            format!(
                "a file of {place} that {program} is to see cannot be read {at}; \
                 help: a plain file of at most 64 KiB, or take it out of run.files"
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

/// What our own program could not do: its exit code is the number of an error. `target` is the path that it was given.
pub(super) fn placed(slot: Slot, errno: Errno, target: &str, place: &str) -> Explained {
    let name = name(errno);
    let (reason, what, help) = match (slot, errno) {
        (Slot::Deliver, Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED) => (
            Reason::SocketMissing,
            format!("nobody listens at {target} in {place}"),
            "start what should, or look at deliver.socket",
        ),
        (Slot::Deliver, Errno::EPERM) => (
            Reason::SocketRefused,
            format!("{target} in {place} may be somebody else's"),
            "socket, its directory and who listens: root's or the init's user's, the directory chmod go-w",
        ),
        (Slot::Deliver, Errno::ELOOP) => (
            Reason::SocketRefused,
            format!("there is a symbolic link in {target} in {place}"),
            "name the place it leads to in deliver.socket",
        ),
        (Slot::Deliver, Errno::ENOTSOCK | Errno::EPROTOTYPE) => (
            Reason::SocketRefused,
            format!("{target} in {place} is no SOCK_SEQPACKET socket"),
            "look at deliver.socket and deliver.protocol",
        ),
        (Slot::Deliver, Errno::EXDEV) => (
            Reason::SocketRefused,
            format!("who listens at {target} in {place} is not in that container"),
            "a socket of the host's that is mounted there is not delivered to",
        ),
        (Slot::Deliver, Errno::EDEADLK) => (
            Reason::SocketRefused,
            format!("who listens at {target} in {place} is the process that crashed"),
            "nobody inside can take that core; keep it on the host (store)",
        ),
        (Slot::Deliver, Errno::EAGAIN | Errno::ETIMEDOUT) => (
            Reason::SocketRefused,
            format!("who listens at {target} in {place} does not answer"),
            "its queue of connections is full; look at the receiver",
        ),
        (Slot::Deliver, Errno::EACCES) => (
            Reason::SocketRefused,
            format!("the init's user of {place} may not connect to {target}"),
            "chown or chmod the socket inside",
        ),
        (Slot::Deliver, _) => (
            Reason::SocketRefused,
            format!("who listens at {target} in {place} did not take the core"),
            "look at the receiver's own log, inside",
        ),
        (_, Errno::ELOOP) => (
            Reason::FileRefused,
            format!("there is a symbolic link in {target}"),
            "name the place it leads to in file.path",
        ),
        (_, Errno::EEXIST) => (
            Reason::FileRefused,
            format!("{target} is there and is no plain file"),
            "remove it, or use another name in file.path",
        ),
        (_, Errno::ENOSPC | Errno::EDQUOT) => (
            Reason::FileRefused,
            format!("no more room for {target}"),
            "make room there, or keep the core on the host (store)",
        ),
        (_, Errno::EXDEV) => (
            Reason::FileRefused,
            "the process's working directory is not below its root".to_owned(),
            "a path that begins with / does not help either; keep the core on the host (store)",
        ),
        (_, _) => (
            Reason::FileRefused,
            format!("the process's user could not write {target}"),
            "let it write there, or name a directory in file.path where it may",
        ),
    };
    let stage = Stage::Place.as_str();
    let message = format!("{what} (stage {stage}: {name}); help: {help}");
    Explained { reason, message }
}

/// A launch that did not even reach the launcher.
pub(super) fn launch(error: &LaunchError, place: &str) -> Explained {
    let reason = match error {
        LaunchError::Enter(EnterError::NotMapped(_)) => Reason::UidNotMapped,
        LaunchError::Enter(EnterError::NoContainer) => Reason::Unregistered,
        LaunchError::Enter(EnterError::Origin(_)) => Reason::IdentityLost,
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
pub(crate) fn name(errno: Errno) -> String {
    format!("{errno:?}")
}
