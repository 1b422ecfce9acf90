//! Pipe to file, and the ends of one core's way.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::linkat;

use upcall_helpers::patience::left;

use crate::feed::{Feed, pass_on, rest_of};
use crate::source::Source;

/// The most that one call moves: what the shim made the kernel's pipe hold.
const CHUNK: usize = 1 << 20;

/// What to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) pipe: OwnedFd,
    pub(crate) directory: OwnedFd,
    /// Write ends of the pipes of those who take it as well.
    pub(crate) feeds: Vec<OwnedFd>,
    /// What the copy is called; without, the file is there for the takers alone, and gone with us.
    pub(crate) name: Option<String>,
    pub(crate) max_size: u64,
    pub(crate) keep_free: u64,
    pub(crate) patience: Duration,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Bytes that came.
    pub(crate) size: u64,
    /// Bytes that are in the file.
    pub(crate) stored: u64,
    /// Whether more came, or would have, than was kept.
    pub(crate) truncated: bool,
    /// Why nothing, or not everything, was kept.
    pub(crate) error: Option<Errno>,
}

/// Keeps the core; `tell` is called once, as soon as the copy is complete or given up, before slow takers are done.
pub(crate) fn run(job: Job, tell: &mut dyn FnMut(&Kept)) {
    let Job {
        pipe,
        directory,
        feeds,
        name,
        max_size,
        keep_free,
        patience,
    } = job;
    let mut feeds: Vec<Feed> = feeds.into_iter().map(Feed::new).collect();
    let mut kept = Kept::default();
    let file = match create(&directory, keep_free) {
        Ok(file) => file,
        Err(error) => {
            kept.error = Some(error);
            tell(&kept);
            // The takers still get their core, straight from the pipe.
            return pass_on(&mut feeds, &pipe, 0);
        }
    };
    let room = room(&directory, keep_free).unwrap_or(0).min(max_size);
    let mut source = Source::new(&pipe);
    copy(&mut source, patience, &file, room, &mut feeds, &mut kept);
    if kept.truncated && kept.error.is_none() && room < max_size {
        kept.error = Some(Errno::ENOSPC);
    }
    let copied = kept.stored;
    if let Err(error) = link(&file, &directory, name.as_deref()) {
        kept.stored = 0;
        kept.error = Some(error);
    }
    tell(&kept);
    // Whoever is fed decides how long this takes; its keeper ends it where nothing goes on.
    rest_of(&mut feeds, &file, copied);
    if kept.truncated && kept.error != Some(Errno::ETIMEDOUT) {
        pass_on(&mut feeds, &pipe, copied);
    }
}

/// Gives the file its name, if it is to have one.
fn link(file: &File, directory: &OwnedFd, name: Option<&str>) -> Result<(), Errno> {
    let flags = AtFlags::AT_EMPTY_PATH;
    name.map_or(Ok(()), |name| {
        linkat(file.as_fd(), "", directory, name, flags)
    })
}

/// A file without a name; refused where the file system is below its floor already.
fn create(directory: &OwnedFd, keep_free: u64) -> Result<File, Errno> {
    if room(directory, keep_free)? == 0 {
        return Err(Errno::ENOSPC);
    }
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    openat(directory, ".", flags, Mode::from_bits_truncate(0o600)).map(File::from)
}

/// Bytes that may be written before the floor is reached.
fn room(directory: &OwnedFd, keep_free: u64) -> Result<u64, Errno> {
    let vfs = fstatvfs(directory)?;
    if vfs.files() != 0 && vfs.files_available() < 16 {
        return Ok(0);
    }
    Ok(vfs
        .blocks_available()
        .saturating_mul(vfs.fragment_size())
        .saturating_sub(keep_free))
}

/// Copies until the end, the room's end, or an error, feeding the takers beside it.
fn copy(
    source: &mut Source<'_>,
    patience: Duration,
    file: &File,
    room: u64,
    feeds: &mut [Feed],
    kept: &mut Kept,
) {
    let start = Instant::now();
    loop {
        let left = left(patience, start.elapsed(), kept.stored);
        match wait(source.end, feeds, kept.stored, left) {
            Ok(true) => {}
            Ok(false) => {
                some_of(feeds, file, kept.stored);
                continue;
            }
            Err(error) => {
                kept.truncated = true;
                kept.error = Some(error);
                return;
            }
        }
        let left = usize::try_from(room - kept.stored)
            .unwrap_or(CHUNK)
            .min(CHUNK);
        if left == 0 {
            // Something is there that has no room: poll said so.
            kept.truncated = !source.at_end();
            return;
        }
        match source.move_to(file, left) {
            Ok(0) => return,
            Ok(moved) => {
                kept.stored += u64::try_from(moved).unwrap_or(0);
                kept.size = kept.stored;
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => {
                kept.truncated = true;
                kept.error = Some(error);
                return;
            }
        }
        some_of(feeds, file, kept.stored);
    }
}

fn some_of(feeds: &mut [Feed], file: &File, stored: u64) {
    for feed in feeds {
        feed.some_of(file, stored);
    }
}

/// Waits until the pipe has something (`true`) or a taker wants something that the file has (`false`).
fn wait(pipe: &OwnedFd, feeds: &[Feed], stored: u64, patience: Duration) -> Result<bool, Errno> {
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    let mut fds = vec![PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let wanting = feeds.iter().filter(|feed| feed.wants(stored));
    fds.extend(wanting.filter_map(Feed::poll));
    match poll(&mut fds, patience) {
        Ok(0) => Err(Errno::ETIMEDOUT),
        Ok(_) => Ok(fds.first().and_then(PollFd::any).unwrap_or(true)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
