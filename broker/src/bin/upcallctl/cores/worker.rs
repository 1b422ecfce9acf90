//! The processes that touch a tenant's bytes: one reads the core, one opens files of the container for it. Both are
//! this program again, confined before they look at anything; neither can do what the other does.
//!
//! They are given a socket as standard input: the reader gets the core through it, asks for files by their paths and
//! gets descriptors; the opener answers. The reader's answer is JSON in a pipe: what the core says alone, and then, since
//! files can be anything and anywhere, the same with the stack.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use upcall_helpers::seqpacket::{receive, send};
use upcalld::corefile::{Core, Crash, Files, Mapped, Stream};
use upcalld::linux::confine::{Work, confine};

use super::args::WorkArgs;
use crate::failure::Failure;

/// The longest path that is opened.
const PATH_MAX: usize = 4096;

/// The largest file that is looked at.
const SIZE_MAX: u64 = 8 << 30;

/// How many files are opened for one core.
const FILES_MAX: usize = 512;

/// Does one of the works. Never returns an error for what is in a core: that is in the answer.
pub(crate) fn run(asked: &WorkArgs) -> Result<(), Failure> {
    let work = if asked.open { Work::Open } else { Work::Read };
    confine(work).map_err(|error| Failure::Odd(error.to_string()))?;
    let socket = std::io::stdin();
    let ended = match work {
        Work::Open => open(socket.as_fd()),
        Work::Read => read(socket.as_fd(), asked),
    };
    ended.map_err(|errno| Failure::Odd(errno.to_string()))
}

/// Answers until nobody asks any more: a path, and a file for it or nothing.
fn open(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    for _ in 0..FILES_MAX {
        let asked = receive(socket)?;
        if asked.record.is_empty() {
            return Ok(());
        }
        match opened(&asked.record) {
            Some(file) => send(socket, b"+", &[file.as_fd()])?,
            None => send(socket, b"-", &[])?,
        }
    }
    Ok(())
}

/// Below the directory that this process was put into, whatever links say.
fn opened(path: &[u8]) -> Option<File> {
    if path.len() > PATH_MAX || path.first() != Some(&b'/') || path.contains(&0) {
        return None;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let file = File::from(openat2(AT_FDCWD, path, how).ok()?);
    let meta = file.metadata().ok()?;
    (meta.is_file() && meta.len() <= SIZE_MAX).then_some(file)
}

/// Reads the core that comes first through the socket, and prints what is in it: a line, and one more with the stack.
fn read(socket: BorrowedFd<'_>, asked: &WorkArgs) -> Result<(), Errno> {
    let core = receive(socket)?.fds.pop().ok_or(Errno::EBADF)?;
    let mut core = File::from(core);
    let core = if asked.compressed {
        let decoder = zstd::stream::read::Decoder::new(core).map_err(|_| Errno::ENOMEM)?;
        Core::read(&mut Stream(decoder))
    } else {
        Core::read(&mut core)
    };
    let mut core = match core {
        Ok(core) => core,
        Err(error) => return answer(&Err(error.to_string())),
    };
    answer(&Ok(&core.crash))?;
    if asked.files {
        core.walk(&mut Asking(socket));
        answer(&Ok(&core.crash))?;
    }
    Ok(())
}

/// One line.
fn answer(crash: &Result<&Crash, String>) -> Result<(), Errno> {
    let mut line = serde_json::to_vec(crash).map_err(|_| Errno::EINVAL)?;
    line.push(b'\n');
    let written = std::io::stdout().write_all(&line);
    written.map_err(|_| Errno::EPIPE)
}

/// Whom the reader asks for files.
struct Asking<'a>(BorrowedFd<'a>);

impl Files for Asking<'_> {
    fn open(&mut self, path: &[u8]) -> Option<Box<dyn Mapped>> {
        if path.is_empty() || path.len() > PATH_MAX {
            return None;
        }
        send(self.0, path, &[]).ok()?;
        let file = receive(self.0).ok()?.fds.pop()?;
        Some(Box::new(File::from(file)))
    }
}
