//! Children of the shim's: they have the authority over its key, because they are that.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus as NixStatus, waitid};
use nix::unistd::{execve, execveat};
use upcall_helpers::seqpacket;
use upcall_helpers::sys::{self, Fork};
use upcall_helpers::wire::{Answered, Event, FdRole, Launch, Report, WaitStatus, cgroup_name};

use crate::FAILURE;
use crate::key::{Key, SHORT};

/// So much longer than its helper's deadline the keeper is waited for: it ends the helper, unless it is itself held.
const GRACE: Duration = Duration::from_secs(1);

/// Runs a launch to the end of its helper, all reports of which go to `tell`. Returns what the helper printed.
///
/// # Errors
/// `EKEYREJECTED` where it could not be started, or ended badly; `ETIMEDOUT` where it did not end.
pub(crate) fn here(
    key: &Key,
    record: &[u8],
    mut fds: Vec<OwnedFd>,
    deadline: Duration,
    tell: impl Fn(&[u8]),
) -> Result<Vec<u8>, Errno> {
    let end = Instant::now() + deadline + GRACE;
    if fds.is_empty() {
        return Err(Errno::EKEYREJECTED);
    }
    let program = fds.remove(0);
    let launch = Launch::decode(record, fds.len()).map_err(|_| Errno::EKEYREJECTED)?;
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let keeper = match sys::fork(0, None)? {
        Fork::Child => keeper(&program, &theirs),
        Fork::Parent { pidfd, .. } => pidfd,
    };
    drop((theirs, program));
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    // Whoever asked is told of no socket of ours.
    seqpacket::send(ours.as_fd(), record, &borrowed).map_err(|_| Errno::EKEYREJECTED)?;
    loop {
        if !ready(&ours, end) {
            // The keeper is held by something it cannot leave, and what it keeps is ended for it.
            kill_helper(&launch, &fds);
            let _ = sys::pidfd_send_signal(keeper.as_fd(), libc::SIGKILL);
            return Err(Errno::ETIMEDOUT);
        }
        let received = seqpacket::receive(ours.as_fd());
        let Some((said, report)) = received.ok().and_then(|received| {
            let report = Report::decode(&received.record).ok()?;
            Some((received.record, report))
        }) else {
            return Err(Errno::EKEYREJECTED); // it has ended without a word
        };
        tell(&said);
        match report.event {
            Event::Ended {
                timed_out: true, ..
            } => return Err(Errno::ETIMEDOUT),
            Event::Ended {
                status: WaitStatus::Exited(0),
                output,
                ..
            } => return Ok(output),
            // One that ended badly may have answered before.
            Event::Ended { .. } if key.is_answered() => return Ok(Vec::new()),
            Event::Ended { .. } | Event::Failed { .. } => return Err(Errno::EKEYREJECTED),
            Event::Started { .. }
            | Event::Stored { .. }
            | Event::Gone { .. }
            | Event::Answered { .. } => {}
        }
    }
}

/// The child that becomes upcall-enter.
fn keeper(program: &OwnedFd, socket: &OwnedFd) -> ! {
    let words = [c"upcall-enter".to_owned(), c"--key".to_owned()];
    let environment: [CString; 0] = [];
    if sys::dup_to(socket.as_fd(), 0).is_ok() {
        let flags = AtFlags::AT_EMPTY_PATH;
        let _ = execveat(program, c"", &words, &environment, flags);
    }
    sys::exit(127)
}

/// Waits until there is something to read, or too long.
fn ready(fd: &OwnedFd, end: Instant) -> bool {
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_millis();
        if left == 0 {
            return false;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            // Anything else is seen by whoever reads.
            Ok(_) | Err(_) => return true,
        }
    }
}

/// Ends everything in the helper's cgroup.
fn kill_helper(launch: &Launch, fds: &[OwnedFd]) {
    let mut pairs = launch.fds.iter().zip(fds);
    let Some((_, parent)) = pairs.find(|(role, _)| **role == FdRole::Cgroup) else {
        return;
    };
    let name = cgroup_name(&launch.id, launch.slot);
    let name = format!("{name}/cgroup.kill");
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let opened = openat(parent, name.as_str(), flags, Mode::empty());
    let _ = opened.and_then(|file| nix::unistd::write(&file, b"1"));
}

/// Runs what stood before us as the kernel would have, and waits for its end. A key that it leaves unanswered is the
/// kernel's to refuse, as ever.
pub(crate) fn previous(
    key: &Key,
    words: &[Vec<u8>],
    deadline: Duration,
    tell: impl Fn(&[u8]),
) -> (Answered, u32) {
    let (pid, pidfd) = match sys::fork(0, None) {
        Ok(Fork::Child) => sys::exit(become_previous(words).into()),
        Ok(Fork::Parent { pid, pidfd }) => (pid, pidfd),
        Err(errno) => return key.reject(SHORT, errno as u32),
    };
    key.report(Event::Started { pid }, &tell);
    let timed_out = !ready(&pidfd, Instant::now() + deadline);
    if timed_out {
        let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    }
    let answer = match (timed_out, key.is_answered()) {
        (_, true) => (Answered::ByHelper, 0),
        (true, false) => key.reject(SHORT, Errno::ETIMEDOUT as u32),
        (false, false) => (Answered::Failed, 0),
    };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    let status = match waitid(Id::PIDFd(pidfd.as_fd()), flags) {
        Ok(NixStatus::Exited(_, code)) => {
            WaitStatus::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
        }
        Ok(NixStatus::Signaled(_, signal, _)) => {
            WaitStatus::Signaled(u8::try_from(signal as i32).unwrap_or(u8::MAX))
        }
        Ok(_) | Err(_) => WaitStatus::Signaled(9), // it was killed, and is not gone yet
    };
    let ended = Event::Ended {
        status,
        timed_out,
        fed: 0,
        output: Vec::new(),
    };
    key.report(ended, &tell);
    answer
}

/// Executes what stood before us, with our environment; returns where it is not there.
pub(crate) fn become_previous(words: &[Vec<u8>]) -> u8 {
    let strings = |words: Vec<Vec<u8>>| -> Vec<CString> {
        let strings = words.into_iter().map(CString::new);
        strings.filter_map(Result::ok).collect()
    };
    let environment = std::env::vars_os().map(|(name, value)| {
        let (name, value) = (name.into_vec(), value.into_vec());
        [name.as_slice(), b"=", &value].concat()
    });
    let (argv, environment) = (strings(words.to_vec()), strings(environment.collect()));
    if let Some(program) = argv.first() {
        let _ = execve(program, &argv, &environment);
    }
    FAILURE
}
