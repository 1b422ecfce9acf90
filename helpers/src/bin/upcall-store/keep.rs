//! Pipe to file, and the two ends of one core's way.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, SpliceFFlags, openat, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::linkat;

use upcall_helpers::patience::left;

use crate::feed::Feed;

/// The most that one call moves: what the shim made the kernel's pipe hold.
const CHUNK: usize = 1 << 20;

/// What to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) pipe: OwnedFd,
    pub(crate) directory: OwnedFd,
    pub(crate) feed: Option<OwnedFd>,
    pub(crate) name: String,
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

/// Keeps the core; `tell` is called once, as soon as the copy is complete or given up, before a slow helper is done.
pub(crate) fn run(job: Job, tell: &mut dyn FnMut(&Kept)) {
    let Job {
        pipe,
        directory,
        feed,
        name,
        max_size,
        keep_free,
        patience,
    } = job;
    let mut kept = Kept::default();
    let file = match create(&directory, keep_free) {
        Ok(file) => file,
        Err(error) => {
            kept.error = Some(error);
            tell(&kept);
            // The helper still gets its core, straight from the pipe.
            if let Some(feed) = feed {
                Feed::new(feed).all_from(&pipe).unwrap_or(());
            }
            return;
        }
    };
    let mut feed = feed.map(Feed::new);
    let room = room(&directory, keep_free).unwrap_or(0).min(max_size);
    let source = Source {
        pipe: &pipe,
        patience,
    };
    copy(&source, &file, room, feed.as_mut(), &mut kept);
    if kept.truncated && kept.error.is_none() && room < max_size {
        kept.error = Some(Errno::ENOSPC);
    }
    let linked = linkat(
        file.as_fd(),
        "",
        &directory,
        name.as_str(),
        AtFlags::AT_EMPTY_PATH,
    );
    if let Err(error) = linked {
        kept.stored = 0;
        kept.error = Some(error);
    }
    tell(&kept);
    if let Some(mut feed) = feed {
        // Whoever is fed decides how long this takes; its keeper ends it where nothing goes on.
        let complete = feed.rest_of(&file, kept.stored).is_ok();
        if complete && kept.truncated && kept.error != Some(Errno::ETIMEDOUT) {
            feed.all_from(&pipe).unwrap_or(());
        }
    }
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

/// Where the core comes from.
struct Source<'a> {
    pipe: &'a OwnedFd,
    patience: Duration,
}

/// Copies until the end, the room's end, or an error, feeding the helper beside it.
fn copy(source: &Source<'_>, file: &File, room: u64, mut feed: Option<&mut Feed>, kept: &mut Kept) {
    let Source { pipe, patience } = *source;
    let start = Instant::now();
    loop {
        let left = left(patience, start.elapsed(), kept.stored);
        match wait(pipe, feed.as_deref(), kept.stored, left) {
            Ok(true) => {}
            Ok(false) => {
                if let Some(feed) = feed.as_deref_mut() {
                    feed.some_of(file, kept.stored);
                }
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
            kept.truncated = !at_end(pipe);
            return;
        }
        match splice(
            pipe,
            None,
            file,
            None,
            left,
            SpliceFFlags::SPLICE_F_NONBLOCK,
        ) {
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
        if let Some(feed) = feed.as_deref_mut() {
            feed.some_of(file, kept.stored);
        }
    }
}

/// Waits until the pipe has something (`true`) or the helper wants something that the file has (`false`).
fn wait(
    pipe: &OwnedFd,
    feed: Option<&Feed>,
    stored: u64,
    patience: Duration,
) -> Result<bool, Errno> {
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    let mut fds = vec![PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    if let Some(feed) = feed.filter(|feed| feed.wants(stored)) {
        fds.extend(feed.poll());
    }
    match poll(&mut fds, patience) {
        Ok(0) => Err(Errno::ETIMEDOUT),
        Ok(_) => Ok(fds.first().and_then(PollFd::any).unwrap_or(true)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the writer is gone and nothing is left to read.
fn at_end(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let found = poll(&mut fds, PollTimeout::ZERO).is_ok();
    let events = fds
        .first()
        .and_then(PollFd::revents)
        .unwrap_or(PollFlags::empty());
    found && events.contains(PollFlags::POLLHUP) && !events.contains(PollFlags::POLLIN)
}
#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    use nix::unistd::pipe;

    use upcall_helpers::patience::PATIENCE;

    use super::*;

    fn job(max_size: u64, feed: Option<OwnedFd>, directory: &std::path::Path) -> (File, Job) {
        let (read, write) = pipe().unwrap();
        let job = Job {
            pipe: read,
            directory: OwnedFd::from(File::open(directory).unwrap()),
            feed,
            name: "x.core".to_owned(),
            max_size,
            keep_free: 0,
            patience: PATIENCE,
        };
        (File::from(write), job)
    }

    fn directory(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("upcall-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Runs the job while `bytes` are written to its pipe and `fed`, if any, is read to its end.
    fn run_with(bytes: &[u8], max_size: u64, fed: bool, name: &str) -> (Kept, Vec<u8>, Vec<u8>) {
        let directory = directory(name);
        let (feed_read, feed_write) = pipe().unwrap();
        let (mut write, job) = job(max_size, fed.then_some(feed_write), &directory);
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || {
            // A reader that has had enough closes the pipe.
            write.write_all(&bytes).unwrap_or(());
        });
        let reader = fed.then(|| {
            std::thread::spawn(move || {
                let mut all = Vec::new();
                File::from(feed_read).read_to_end(&mut all).unwrap();
                all
            })
        });
        let mut told = None;
        run(job, &mut |kept| {
            told = Some(Kept { ..*kept });
        });
        writer.join().unwrap();
        let fed = reader
            .map(|reader| reader.join().unwrap())
            .unwrap_or_default();
        let path = directory.join("x.core");
        let stored = std::fs::read(&path).unwrap_or_default();
        if let Ok(meta) = path.metadata() {
            assert_eq!(meta.mode() & 0o777, 0o600, "root's alone");
        }
        std::fs::remove_dir_all(&directory).unwrap();
        (told.unwrap(), stored, fed)
    }

    fn noise(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 13 & 0xff).unwrap())
            .collect()
    }

    #[test]
    fn everything_is_kept_and_everything_is_fed() {
        let core = noise(3_000_001);
        let (kept, stored, fed) = run_with(&core, u64::MAX, true, "whole");
        assert_eq!(
            kept,
            Kept {
                size: 3_000_001,
                stored: 3_000_001,
                truncated: false,
                error: None
            }
        );
        assert!(stored == core && fed == core);
    }

    #[test]
    fn a_copy_stops_at_its_size_and_the_helper_still_gets_all() {
        let core = noise(1_000_000);
        let (kept, stored, fed) = run_with(&core, 300_000, true, "cut");
        assert_eq!(
            (kept.stored, kept.truncated, kept.error),
            (300_000, true, None)
        );
        assert!(stored == core[..300_000] && fed == core);
    }

    #[test]
    fn a_core_that_comes_in_crumbs_is_not_waited_for_without_end() {
        let directory = directory("crumbs");
        let (mut write, mut job) = job(u64::MAX, None, &directory);
        job.patience = Duration::from_millis(200);
        let writer = std::thread::spawn(move || {
            // Always something within the patience, for much longer than that.
            for _ in 0..500 {
                if write.write_all(b".").is_err() {
                    return true;
                }
                poll(&mut [], PollTimeout::from(20_u8)).unwrap_or(0);
            }
            false
        });
        let mut told = None;
        run(job, &mut |kept| told = Some(Kept { ..*kept }));
        assert!(writer.join().unwrap(), "the pipe was read to its end");
        let kept = told.unwrap();
        assert_eq!((kept.truncated, kept.error), (true, Some(Errno::ETIMEDOUT)));
        assert!(kept.stored > 1);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_copy_of_exactly_its_size_is_not_truncated() {
        let core = noise(4096);
        let (kept, stored, _) = run_with(&core, 4096, false, "exact");
        assert_eq!(
            (kept.stored, kept.truncated, kept.error),
            (4096, false, None)
        );
        assert!(stored == core);
    }
}
