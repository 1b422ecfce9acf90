//! Keeps a core that the daemon did not take: streamed to the spool, with the kernel's words beside it.
//!
//! The spool is root's alone, bounded, and leaves the file system room. Nothing is decided here and nothing of a
//! container is touched; the daemon takes the files in when it starts.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, SpliceFFlags, openat, splice};
use nix::libc;
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::linkat;
use upcall_helpers::hookfile::HookFile;

use crate::{FAILURE, SUCCESS};

/// The most that one call moves.
const CHUNK: usize = 1 << 20;

/// Keeps what comes through the pipe, or says in the kernel's log why it could not.
pub(crate) fn keep(hook: &HookFile, words: &[Vec<u8>], pipe: &OwnedFd) -> u8 {
    match write(hook, words, pipe) {
        Ok(()) => SUCCESS,
        Err(error) => {
            // The journal may be what crashed, and nobody reads our standard error.
            let pid = words
                .first()
                .map(|word| String::from_utf8_lossy(word))
                .unwrap_or_default();
            let pid: String = pid.chars().filter(char::is_ascii_digit).collect();
            let line = format!("upcalld: core of process {pid} lost: not spooled: {error}\n");
            let kmsg = OpenOptions::new().write(true).open("/dev/kmsg");
            drop(kmsg.and_then(|mut kmsg| kmsg.write_all(line.as_bytes())));
            FAILURE
        }
    }
}

fn write(hook: &HookFile, words: &[Vec<u8>], pipe: &OwnedFd) -> Result<(), Errno> {
    let directory = directory(&hook.spool)?;
    let room = room(hook, &directory)?;
    let name = format!("{}-{}", seconds(), std::process::id());
    // The words first: a core that is there has them.
    let mut file = unnamed(&directory)?;
    for word in words {
        file.write_all(word)
            .and_then(|()| file.write_all(b"\0"))
            .map_err(errno)?;
    }
    link(&file, &directory, &format!("{name}.words"))?;
    let core = unnamed(&directory)?;
    let mut written = 0;
    while written < room {
        let chunk = usize::try_from(room - written).unwrap_or(CHUNK).min(CHUNK);
        match splice(pipe, None, &core, None, chunk, SpliceFFlags::empty()) {
            Ok(0) => break,
            Ok(moved) => written += u64::try_from(moved).unwrap_or(0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    link(&core, &directory, &format!("{name}.core"))
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

/// Bytes that may be written now: under the cap with what is there already, and over the floor.
fn room(hook: &HookFile, directory: &File) -> Result<u64, Errno> {
    let vfs = fstatvfs(directory)?;
    let free = vfs.blocks_available().saturating_mul(vfs.fragment_size());
    let mut used = 0_u64;
    for entry in std::fs::read_dir(&hook.spool).map_err(errno)?.take(100_000) {
        used = used.saturating_add(
            entry
                .and_then(|e| e.metadata())
                .map_or(0, |meta| meta.len()),
        );
    }
    let room = free
        .saturating_sub(hook.keep_free)
        .min(hook.spool_max.saturating_sub(used));
    if room == 0 {
        Err(Errno::ENOSPC)
    } else {
        Ok(room)
    }
}

/// A file without a name: whatever ends us, nothing half-written is ever found.
fn unnamed(directory: &File) -> Result<File, Errno> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(directory, ".", flags, Mode::from_bits_truncate(0o600)).map(File::from)
}

fn link(file: &File, directory: &File, name: &str) -> Result<(), Errno> {
    linkat(file.as_fd(), "", directory, name, AtFlags::AT_EMPTY_PATH)
}

fn seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
