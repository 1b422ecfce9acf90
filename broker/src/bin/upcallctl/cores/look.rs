//! Has a core looked at, by processes that may do nothing else.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde_json::Value;
use upcall_config::text::printable;
use upcall_helpers::seqpacket::send;
use upcalld::corefile::Crash;

use super::stored::Stored;

/// How long it may take: zstd unpacks about 1 GiB in a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much longer files may take.
const PATIENCE_FILES: Duration = Duration::from_secs(5);

/// The longest answer: of one that is longer only what comes before is taken, whole lines.
const ANSWER_MAX: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// The processes cannot be started.
    #[error("the process that reads cores cannot be started: {0}")]
    Start(std::io::Error),
    /// It took too long.
    #[error("it is not read within {} s", PATIENCE.as_secs())]
    Late,
    /// It ended without an answer, or with one that is none.
    #[error("the process that reads it ended early")]
    Died,
    /// The core is none.
    #[error("{0}")]
    Core(String),
}

/// Looks at a core; files come from below `root`, a directory, if there is one.
///
/// # Errors
/// See [`LookError`].
pub(crate) fn look(stored: &Stored, root: Option<&OwnedFd>) -> Result<Crash, LookError> {
    let start = |error: Errno| LookError::Start(error.into());
    let (ours, readers) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(start)?;
    send(ours.as_fd(), b"core", &[stored.file.as_fd()]).map_err(start)?;
    let mut reader = worker();
    if stored.compressed {
        reader.arg("--compressed");
    }
    if root.is_some() {
        reader.arg("--files");
    }
    reader.stdin(readers).stdout(Stdio::piped());
    let mut reader = Ended(reader.spawn().map_err(LookError::Start)?);
    let mut opener = worker();
    opener.arg("--open");
    let _opener = match root {
        Some(root) => {
            // The directory as it is now, through a descriptor: nothing below it was followed to come there.
            opener.current_dir(format!("/proc/self/fd/{}", root.as_raw_fd()));
            opener.stdin(ours).stdout(Stdio::null());
            Some(Ended(opener.spawn().map_err(LookError::Start)?))
        }
        None => None,
    };
    // Our copies of the socket's ends, or neither would see the other's end.
    drop(opener);
    let answer = reader.0.stdout.take().ok_or(LookError::Died)?;
    let answer = all(answer.into())?;
    let lines = answer.split_inclusive(|byte| *byte == b'\n');
    let whole: Vec<&[u8]> = lines.filter(|line| line.ends_with(b"\n")).collect();
    let last = whole.last().ok_or(LookError::Died)?;
    let mut last: Value = serde_json::from_slice(last).map_err(|_| LookError::Died)?;
    shown(&mut last);
    let crash: Result<Crash, String> = serde_json::from_value(last).map_err(|_| LookError::Died)?;
    let mut crash = crash.map_err(LookError::Core)?;
    if root.is_some() && whole.len() < 2 {
        let why = "stack: the files cannot be read, or not in time";
        crash.unread.push(why.to_owned());
    }
    Ok(crash)
}

/// Makes all text fit for a terminal: it is, unless a core has taken over its reader.
fn shown(value: &mut Value) {
    match value {
        Value::String(text) => *text = printable(text),
        Value::Array(values) => values.iter_mut().for_each(shown),
        Value::Object(fields) => fields.values_mut().for_each(shown),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// This program again, to be confined.
#[expect(
    clippy::disallowed_methods,
    reason = "it gives up all rights before it does anything"
)]
fn worker() -> Command {
    let mut worker = Command::new("/proc/self/exe");
    worker.arg("look-at-core").env_clear().stderr(Stdio::null());
    worker
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        // One that a tenant's file server holds cannot be waited for; it ends when it is let go.
        let until = Instant::now() + Duration::from_secs(1);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < until {
            let _ = poll(&mut [], PollTimeout::from(5_u8));
        }
    }
}

/// Everything that comes, while there is time: for the first line, and then a little more.
fn all(pipe: OwnedFd) -> Result<Vec<u8>, LookError> {
    let mut deadline = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut pipe = File::from(pipe);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(0) if answer.contains(&b'\n') => return Ok(answer),
            Ok(0) => return Err(LookError::Late),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(LookError::Start(error.into())),
        }
        match pipe.read(&mut chunk).map_err(LookError::Start)? {
            0 => return Ok(answer),
            more => {
                let more = chunk.get(..more).unwrap_or_default();
                if more.contains(&b'\n') {
                    deadline = deadline.min(Instant::now() + PATIENCE_FILES);
                }
                answer.extend_from_slice(more);
            }
        }
        if u64::try_from(answer.len()).unwrap_or(u64::MAX) > ANSWER_MAX {
            // The first line alone may be well.
            return Ok(answer);
        }
    }
}
