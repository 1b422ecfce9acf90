//! From the kernel's pipe to the file and to the takers: one core's way.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::linkat;

use upcall_helpers::patience;
use upcall_helpers::promise::Promise;
use upcall_helpers::sys;

use crate::copy::{CHUNK, Copy, Format};
use crate::feed::{Core, Feeds};
use crate::room::Room;

/// What to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) pipe: OwnedFd,
    pub(crate) directory: OwnedFd,
    /// Write ends of the pipes of those who take it as well.
    pub(crate) feeds: Vec<OwnedFd>,
    /// What the copy is called; without, the file is there for the takers alone, and gone with us.
    pub(crate) name: Option<String>,
    pub(crate) format: Format,
    /// Bytes of the core.
    pub(crate) max_size: u64,
    pub(crate) keep_free: u64,
    /// The user who may read the copy, beside root.
    pub(crate) reader: Option<u32>,
    /// Where room is taken from: the tenant's own, and everybody's.
    pub(crate) tokens: Option<(OwnedFd, OwnedFd)>,
    pub(crate) patience: Duration,
}

/// What was done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Bytes of the core that were kept.
    pub(crate) size: u64,
    /// Bytes that were written for them.
    pub(crate) stored: u64,
    /// Whether more came, or would have, than was kept.
    pub(crate) truncated: bool,
    /// Why nothing, or not everything, was kept; `ENODATA`: less came than the core's own headers promise.
    pub(crate) error: Option<Errno>,
}

/// Keeps the core; `tell` is called once, as soon as the copy is complete or given up, before slow takers are done.
pub(crate) fn run(job: Job, tell: &mut dyn FnMut(&Kept)) {
    let mut feeds = Feeds::new(job.feeds);
    let mut memory = vec![0; CHUNK];
    let made = Room::new(job.directory, job.keep_free, job.tokens).and_then(|room| {
        let copy = Copy::new(create(&room)?, job.format)?;
        Ok((room, copy))
    });
    let (room, copy) = match made {
        Ok(made) => made,
        Err(error) => {
            tell(&Kept {
                error: Some(error),
                ..Kept::default()
            });
            // The takers still get their core, straight from the pipe.
            let nothing = Core {
                copy: None,
                base: 0,
                memory: &[],
            };
            return pass_on(nothing, &mut feeds, &job.pipe, true);
        }
    };
    let mut keeping = Keeping {
        pipe: &job.pipe,
        patience: job.patience,
        max_size: job.max_size,
        room,
        copy,
        feeds,
        filled: 0,
        promise: Promise::default(),
    };
    let stopped = keeping.keep(&mut memory);
    let Keeping {
        room,
        mut copy,
        mut feeds,
        filled,
        promise,
        ..
    } = keeping;
    let mut kept = Kept {
        size: copy.end(),
        stored: copy.written(),
        ..Kept::default()
    };
    let (at, more) = match stopped {
        Stopped::End(at) => {
            if kept.size < promise.length() {
                (kept.truncated, kept.error) = (true, Some(Errno::ENODATA));
            }
            (at, false)
        }
        Stopped::Cut(at, error) => {
            (kept.truncated, kept.error) = (true, error);
            // What nobody writes any more is not waited for.
            (at, error != Some(Errno::ETIMEDOUT))
        }
    };
    if let Some(reader) = job.reader {
        // Who may not read it finds it root's alone; that is no reason not to keep it.
        let _ = allow(copy.file(), reader);
    }
    // Nothing came, as from a process that was killed before its first byte: then there is no core to keep.
    let name = job.name.as_deref().filter(|_| kept.size > 0);
    match link(copy.file(), room.directory(), name) {
        Ok(()) if kept.size > 0 => {}
        Ok(()) => kept.stored = 0,
        Err(error) => (kept.stored, kept.error) = (0, Some(error)),
    }
    tell(&kept);
    let core = Core {
        copy: Some(&mut copy),
        base: at,
        memory: memory.get(..filled).unwrap_or_default(),
    };
    pass_on(core, &mut feeds, &job.pipe, more);
}

/// A file without a name.
fn create(room: &Room) -> Result<File, Errno> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o600);
    openat(room.directory(), ".", flags, mode).map(File::from)
}

/// Lets a user read the file (acl(5); the attribute's form is linux/posix_acl_xattr.h's).
fn allow(file: &File, uid: u32) -> Result<(), Errno> {
    const NOBODY: u32 = u32::MAX;
    let (read, write) = (4_u16, 2_u16);
    let entries = [
        (0x01_u16, read | write, NOBODY), // the owner, root
        (0x02, read, uid),                // this user
        (0x04, 0, NOBODY),                // the group
        (0x10, read, NOBODY),             // the most that users and groups may
        (0x20, 0, NOBODY),                // others
    ];
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(may.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    sys::set_attribute(file.as_fd(), c"system.posix_acl_access", &value)
}

/// Gives the file its name, if it is to have one.
fn link(file: &File, directory: &OwnedFd, name: Option<&str>) -> Result<(), Errno> {
    let flags = AtFlags::AT_EMPTY_PATH;
    name.map_or(Ok(()), |name| {
        linkat(file.as_fd(), "", directory, name, flags)
    })
}

/// Gives the takers what they lack, and then what still comes, if more does. Who is fed decides how long this takes; a
/// taker's keeper ends it where nothing goes on.
fn pass_on(core: Core<'_>, feeds: &mut Feeds, source: &OwnedFd, more: bool) {
    let Core {
        copy,
        mut base,
        memory,
    } = core;
    let length = memory.len();
    feeds.give_all(&mut Core { copy, base, memory }, more);
    if !more {
        return;
    }
    base += bytes(length);
    let mut memory = vec![0; CHUNK];
    while let Some(length) = feeds.next(source, &mut memory) {
        let mut core = Core {
            copy: None,
            base,
            memory: memory.get(..length).unwrap_or_default(),
        };
        feeds.give_all(&mut core, true);
        base += bytes(length);
    }
}

/// How the copying came to its end, and from which byte of the core on the memory holds what is not in the file.
enum Stopped {
    /// The core's end.
    End(u64),
    /// There is more, or would have been; without an error it is over the most that is to be kept.
    Cut(u64, Option<Errno>),
}

/// A copy being made.
struct Keeping<'a> {
    pipe: &'a OwnedFd,
    patience: Duration,
    max_size: u64,
    room: Room,
    copy: Copy,
    feeds: Feeds,
    /// Bytes in memory that are not in the file.
    filled: usize,
    promise: Promise,
}

impl Keeping<'_> {
    /// Copies until the end, the most that may be kept, or an error, feeding the takers beside it.
    fn keep(&mut self, memory: &mut [u8]) -> Stopped {
        let start = Instant::now();
        loop {
            let left = self.max_size.saturating_sub(self.copy.end());
            let target = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            if self.filled >= target {
                if target == 0 {
                    return self.is_more(memory);
                }
                if let Err(stopped) = self.append(memory) {
                    return stopped;
                }
                continue;
            }
            let came = self.copy.end() + bytes(self.filled);
            match self.wait(memory, patience::left(self.patience, start.elapsed(), came)) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    let appended = self.append(memory);
                    return appended
                        .err()
                        .unwrap_or(Stopped::Cut(self.copy.end(), Some(error)));
                }
            }
            let rest = memory.get_mut(self.filled..target).unwrap_or_default();
            match nix::unistd::read(self.pipe, rest) {
                Ok(0) => {
                    let appended = self.append(memory);
                    return appended.err().unwrap_or(Stopped::End(self.copy.end()));
                }
                Ok(length) => {
                    self.promise.see(rest.get(..length).unwrap_or_default());
                    self.filled += length;
                    self.give(memory);
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => {
                    let appended = self.append(memory);
                    return appended
                        .err()
                        .unwrap_or(Stopped::Cut(self.copy.end(), Some(error)));
                }
            }
        }
    }

    /// Writes what is in memory into the file.
    fn append(&mut self, memory: &[u8]) -> Result<(), Stopped> {
        let base = self.copy.end();
        let part = memory.get(..self.filled).unwrap_or_default();
        let room = &mut self.room;
        match self.copy.append(part, &mut |bytes| room.take(bytes)) {
            Ok(()) => {
                self.filled = 0;
                Ok(())
            }
            Err(error) => Err(Stopped::Cut(base, Some(error))),
        }
    }

    /// At the most that may be kept: whether that was all.
    fn is_more(&mut self, memory: &mut [u8]) -> Stopped {
        let base = self.copy.end();
        loop {
            match self.wait(memory, self.patience) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => return Stopped::Cut(base, Some(error)),
            }
            match nix::unistd::read(self.pipe, memory) {
                Ok(0) => return Stopped::End(base),
                Ok(length) => {
                    self.filled = length;
                    return Stopped::Cut(base, None);
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Stopped::Cut(base, Some(error)),
            }
        }
    }

    /// Waits until the pipe has something (`true`) or a taker was given something that there is (`false`).
    fn wait(&mut self, memory: &[u8], patience: Duration) -> Result<bool, Errno> {
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
        let core = Core {
            base: self.copy.end(),
            copy: Some(&mut self.copy),
            memory: memory.get(..self.filled).unwrap_or_default(),
        };
        let mut fds = vec![PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.feeds.poll(&core));
        match poll(&mut fds, patience) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(false),
            Err(error) => return Err(error),
        }
        let ready = fds.first().and_then(PollFd::any).unwrap_or(true);
        if !ready {
            self.give(memory);
        }
        Ok(ready)
    }

    fn give(&mut self, memory: &[u8]) {
        self.feeds.give(&mut Core {
            base: self.copy.end(),
            copy: Some(&mut self.copy),
            memory: memory.get(..self.filled).unwrap_or_default(),
        });
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
