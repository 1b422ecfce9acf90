//! Keeps a core that the daemon did not take.
//!
//! Two files, both named by time and the upcall's id: `.facts` with the kernel's words and what /proc says now, whole from
//! the moment it has a name; and `.part`, which becomes `.core` when the core has ended. How it ended is written behind the
//! facts. While the shim is at work it holds a lock on the facts; a `.part` without one belongs to a shim that was ended.
//!
//! The spool is root's alone, bounded, and leaves the file system room. Nothing is decided here and nothing of a
//! container is touched; the daemon takes the files in when it starts, or when it hears of them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, SpliceFFlags, openat, renameat, splice};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::linkat;
use upcall_helpers::hookfile::HookFile;
use upcall_helpers::patience::{PATIENCE, left};
use upcall_helpers::wire::{Event, Report, Request, Why};

use crate::{FAILURE, SUCCESS, facts};

/// The most that one call moves.
const CHUNK: usize = 1 << 20;

/// What all facts together may take beside the cores: a core that has no room still leaves word.
const FACTS_MAX: u64 = 16 << 20;

/// How a core ended.
#[derive(Default)]
struct Kept {
    stored: u64,
    truncated: bool,
    error: Option<Errno>,
}

/// Keeps what comes through the pipe, or says in the kernel's log why it could not.
pub(crate) fn keep(
    hook: &HookFile,
    request: &Request,
    why: Why,
    pipe: &OwnedFd,
    pidfd: Option<&OwnedFd>,
) -> u8 {
    let kept = write(hook, request, why, pipe, pidfd);
    let (error, stored) = match kept {
        Ok(kept) => (kept.error, kept.stored),
        Err(error) => (Some(error), 0),
    };
    let Some(error) = error else { return SUCCESS };
    // The journal may be what crashed, and nobody reads our standard error.
    let pid = request.argv.first().map(Vec::as_slice).unwrap_or_default();
    let pid: String = pid
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .map(|byte| char::from(*byte))
        .collect();
    let line = match stored {
        0 => format!("upcalld: core of process {pid} lost: not spooled: {error}\n"),
        stored => {
            format!("upcalld: core of process {pid}: only {stored} bytes spooled: {error}\n")
        }
    };
    let kmsg = OpenOptions::new().write(true).open("/dev/kmsg");
    drop(kmsg.and_then(|mut kmsg| kmsg.write_all(line.as_bytes())));
    if stored == 0 { FAILURE } else { SUCCESS }
}

fn write(
    hook: &HookFile,
    request: &Request,
    why: Why,
    pipe: &OwnedFd,
    pidfd: Option<&OwnedFd>,
) -> Result<Kept, Errno> {
    let seen = facts::spooled(request, why, pidfd).ok_or(Errno::EINVAL)?;
    let record = seen.encode().map_err(|_| Errno::E2BIG)?;
    let directory = directory(&hook.spool)?;
    let used = Used::of(&hook.spool)?;
    let length = u64::try_from(record.len()).unwrap_or(u64::MAX);
    if used.facts.saturating_add(length) > FACTS_MAX {
        return Err(Errno::EDQUOT);
    }
    let id = String::from_utf8_lossy(&seen.id);
    let name = format!("{:016}-{id}", seen.time);
    let mut file = unnamed(&directory)?;
    // Held until we end, however that is.
    file.lock().map_err(errno)?;
    file.write_all(&record).map_err(errno)?;
    let facts = format!("{name}.facts");
    linkat(
        file.as_fd(),
        "",
        &directory,
        facts.as_str(),
        AtFlags::AT_EMPTY_PATH,
    )?;
    let room = room(hook, &directory, &used);
    let part = format!("{name}.part");
    let kept = core(&directory, &part, room, pipe);
    let ended = Report {
        id: seen.id.to_vec(),
        slot: 1,
        time: seen.started,
        event: Event::Stored {
            size: kept.stored,
            stored: kept.stored,
            truncated: kept.truncated,
            errno: kept.error.map_or(0, |errno| errno as u32),
        },
    };
    if let Ok(ended) = ended.encode() {
        file.write_all(&ended).map_err(errno)?;
    }
    if kept.stored > 0 {
        renameat(
            &directory,
            part.as_str(),
            &directory,
            format!("{name}.core").as_str(),
        )?;
    }
    Ok(kept)
}

/// Streams the core into a file of this name; there is none where there is no room.
fn core(directory: &File, name: &str, room: u64, pipe: &OwnedFd) -> Kept {
    let mut kept = Kept::default();
    let result = if room == 0 {
        Err(Errno::ENOSPC)
    } else {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        openat(directory, name, flags, mode).and_then(|file| stream(&file, room, pipe, &mut kept))
    };
    if let Err(error) = result {
        kept.error = Some(error);
        kept.truncated = true;
    }
    kept
}

fn stream(file: &OwnedFd, room: u64, pipe: &OwnedFd, kept: &mut Kept) -> Result<(), Errno> {
    let start = Instant::now();
    loop {
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        let left = left(PATIENCE, start.elapsed(), kept.stored);
        match poll(
            &mut fds,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO),
        ) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
        }
        if kept.stored == room {
            // Something is there that has no room, or the end.
            return match nix::unistd::read(pipe, &mut [0]) {
                Ok(0) => Ok(()),
                _ => Err(Errno::ENOSPC),
            };
        }
        let chunk = usize::try_from(room - kept.stored)
            .unwrap_or(CHUNK)
            .min(CHUNK);
        match splice(pipe, None, file, None, chunk, SpliceFFlags::empty()) {
            Ok(0) => return Ok(()),
            Ok(moved) => kept.stored += u64::try_from(moved).unwrap_or(0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The spool's directory, made if need be; refused unless it is root's alone.
fn directory(path: &Path) -> Result<File, Errno> {
    drop(DirBuilder::new().mode(0o700).create(path));
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(errno)?;
    let meta = directory.metadata().map_err(errno)?;
    if meta.uid() == 0 && meta.mode() & 0o077 == 0 {
        Ok(directory)
    } else {
        Err(Errno::EPERM)
    }
}

/// Bytes in the spool.
#[derive(Default)]
struct Used {
    cores: u64,
    facts: u64,
}

impl Used {
    fn of(path: &Path) -> Result<Self, Errno> {
        let mut used = Self::default();
        for entry in std::fs::read_dir(path).map_err(errno)?.take(100_000) {
            let Ok(entry) = entry else { continue };
            let length = entry.metadata().map_or(0, |meta| meta.len());
            let facts = entry.file_name().as_encoded_bytes().ends_with(b".facts");
            let sum = if facts {
                &mut used.facts
            } else {
                &mut used.cores
            };
            *sum = sum.saturating_add(length);
        }
        Ok(used)
    }
}

/// Bytes that a core may have now: under the cap with what is there already, and over the floor.
fn room(hook: &HookFile, directory: &File, used: &Used) -> u64 {
    let free = fstatvfs(directory).map_or(0, |vfs| {
        vfs.blocks_available().saturating_mul(vfs.fragment_size())
    });
    free.saturating_sub(hook.keep_free)
        .min(hook.spool_max.saturating_sub(used.cores))
}

/// A file without a name: whatever ends us, nothing half-written is ever found.
fn unnamed(directory: &File) -> Result<File, Errno> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(directory, ".", flags, Mode::from_bits_truncate(0o600)).map(File::from)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
