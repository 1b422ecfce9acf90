//! The spool: cores that the shim kept, and what it wrote beside them (`upcall-shim`, spool.rs).
//!
//! Everything in it is the shim's, so root's: what is not (a link, another owner, a name that no shim gives) was put
//! there by a mistake or worse, is never followed, and is set aside for a person to look at.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use upcall_helpers::wire::{DecodeError, Event, RECORD_MAX, Report, Spooled, is_id, reports};

use crate::linux::room;

/// The longest facts: two records.
const FACTS_MAX: u64 = 2 * RECORD_MAX as u64;

/// Entries that are looked at in one go; what is more waits for the next.
const ENTRIES_MAX: usize = 100_000;

/// Where what is not the shim's is put.
pub const ASIDE: &str = "aside";

/// The most that one call copies.
const CHUNK: u64 = 64 << 20;

/// Why something of the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory.
    #[error("{}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Others could have put something into the directory.
    #[error("{} is not root's alone (owner {uid}, mode {mode:04o}); help: chown root, chmod 700, look at what is in it", path.display())]
    NotRoots {
        /// Which.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// A name that no shim gives.
    #[error("no shim gives this name")]
    Name,
    /// A core whose facts are not there.
    #[error("a core without its facts")]
    NoFacts,
    /// Something else than a plain file of root's alone.
    #[error("{0} is not a plain file that is root's alone")]
    Untrusted(String),
    /// The facts do not say what facts say.
    #[error("the facts cannot be read: {0}")]
    Facts(#[from] DecodeError),
    /// They are another entry's.
    #[error("the facts are another entry's")]
    Another,
    /// Reading failed.
    #[error("{0}")]
    Read(#[from] std::io::Error),
}

impl SpoolError {
    /// Whether nothing is wrong but that there was nothing left to look with.
    pub fn is_want(&self) -> bool {
        let (Self::Directory { source, .. } | Self::Read(source)) = self else {
            return false;
        };
        room::is_want(source)
    }
}

/// Why a core stays in the spool.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// The store is on another file system, which has no room.
    #[error(
        "less would stay free than store.keep_free wants; help: make room below the state directory"
    )]
    Floor,
    /// A step failed.
    #[error("{}", .0.desc())]
    Errno(#[from] Errno),
}

/// An open spool.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    directory: File,
}

/// What is found under a name.
#[derive(Debug)]
pub enum Found {
    /// One core.
    Entry(Box<Entry>),
    /// A shim is still at work on it.
    Busy,
    /// Gone meanwhile.
    Gone,
}

/// One core and its facts, locked while this lives.
#[derive(Debug)]
pub struct Entry {
    /// What both files' names start with.
    pub name: String,
    /// The facts.
    pub spooled: Spooled,
    /// How the core ended; `None`: its shim was ended.
    pub ended: Option<Ended>,
    /// The core; `None`: there is none, or it was taken already.
    pub core: Option<Core>,
    _lock: File,
}

/// How a core ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Whether there was more.
    pub truncated: bool,
    /// Why.
    pub error: Option<Errno>,
}

/// A core's file.
#[derive(Debug)]
pub struct Core {
    file: File,
    name: String,
    /// Its length.
    pub size: u64,
}

impl Spool {
    /// Opens the spool; `None`: there is none.
    ///
    /// # Errors
    /// It is not a directory of root's alone.
    pub fn open(path: &Path) -> Result<Option<Self>, SpoolError> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let mut options = std::fs::OpenOptions::new();
        let opened = options.read(true).custom_flags(flags).open(path);
        let error = |source| SpoolError::Directory {
            path: path.to_owned(),
            source,
        };
        let directory = match opened {
            Ok(directory) => directory,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(error(source)),
        };
        let meta = directory.metadata().map_err(error)?;
        if meta.uid() != 0 || meta.mode() & 0o077 != 0 {
            return Err(SpoolError::NotRoots {
                path: path.to_owned(),
                uid: meta.uid(),
                mode: meta.mode() & 0o7777,
            });
        }
        Ok(Some(Self {
            path: path.to_owned(),
            directory,
        }))
    }

    /// Names of entries, and of what else is there, oldest first.
    ///
    /// # Errors
    /// As readdir(3).
    pub fn names(&self) -> Result<Vec<String>, SpoolError> {
        let listed = std::fs::read_dir(&self.path).map_err(|source| SpoolError::Directory {
            path: self.path.clone(),
            source,
        })?;
        let mut names: Vec<String> = listed
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name != ASIDE)
            .take(ENTRIES_MAX)
            .map(|name| stem(&name).map_or(name.clone(), str::to_owned))
            .collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// What is under a name.
    ///
    /// # Errors
    /// It is nothing that a shim leaves.
    pub fn entry(&self, name: &str) -> Result<Found, SpoolError> {
        if !is_entry(name) {
            return Err(SpoolError::Name);
        }
        let facts = self.plain(&format!("{name}.facts"))?;
        let mut core = None;
        for suffix in ["core", "part"] {
            let name = format!("{name}.{suffix}");
            if let Some(file) = self.plain(&name)? {
                let size = file.metadata()?.len();
                core = Some(Core { file, name, size });
            }
        }
        let facts = match (facts, &core) {
            (Some(facts), _) => facts,
            (None, Some(_)) => return Err(SpoolError::NoFacts),
            (None, None) => return Ok(Found::Gone),
        };
        if facts.try_lock().is_err() {
            return Ok(Found::Busy);
        }
        let mut bytes = Vec::new();
        (&facts).take(FACTS_MAX + 1).read_to_end(&mut bytes)?;
        let (spooled, behind) = Spooled::decode_first(&bytes)?;
        if !name.as_bytes().ends_with(&spooled.id) {
            return Err(SpoolError::Another);
        }
        Ok(Found::Entry(Box::new(Entry {
            name: name.to_owned(),
            ended: ended(behind),
            spooled,
            core,
            _lock: facts,
        })))
    }

    /// A plain file of root's alone; `None`: there is none.
    fn plain(&self, name: &str) -> Result<Option<File>, SpoolError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP | Errno::ENXIO) => return Err(SpoolError::Untrusted(name.to_owned())),
            Err(errno) => return Err(SpoolError::Read(errno.into())),
        };
        let meta = file.metadata()?;
        let alone = meta.uid() == 0 && meta.mode() & 0o077 == 0 && meta.nlink() == 1;
        if meta.is_file() && alone {
            Ok(Some(file))
        } else {
            Err(SpoolError::Untrusted(name.to_owned()))
        }
    }

    /// Puts everything under a name where nobody looks but a person.
    ///
    /// # Errors
    /// As mkdirat(2), renameat2(2).
    pub fn set_aside(&self, name: &str) -> Result<PathBuf, Errno> {
        match mkdirat(&self.directory, ASIDE, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let aside = openat(&self.directory, ASIDE, flags, Mode::empty())?;
        for suffix in ["", ".facts", ".core", ".part"] {
            let name = format!("{name}{suffix}");
            let flags = RenameFlags::RENAME_NOREPLACE;
            match renameat2(&self.directory, name.as_str(), &aside, name.as_str(), flags) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.path.join(ASIDE).join(name))
    }

    /// Puts a core into the store, under its own name there. A rename, where both are on one file system; else a
    /// copy that leaves `keep_free` bytes.
    ///
    /// # Errors
    /// See [`GiveError`]; the core is still in the spool then.
    pub fn give(
        &self,
        core: &Core,
        store: &File,
        name: &str,
        keep_free: u64,
    ) -> Result<(), GiveError> {
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(&self.directory, core.name.as_str(), store, name, flags) {
            Ok(()) => return Ok(()),
            Err(Errno::EXDEV) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let copy = openat(store, ".", flags, Mode::from_bits_truncate(0o600)).map(File::from)?;
        let mut left = core.size;
        while left > 0 {
            if free(store)? < left.saturating_add(keep_free) {
                return Err(GiveError::Floor);
            }
            let copied = std::io::copy(&mut (&core.file).take(CHUNK.min(left)), &mut &copy)
                .map_err(errno)?;
            if copied == 0 {
                break;
            }
            left = left.saturating_sub(copied);
        }
        copy.sync_all().map_err(errno)?;
        linkat(&copy, "", store, name, AtFlags::AT_EMPTY_PATH)?;
        self.remove(&core.name);
        Ok(())
    }

    /// Removes a core that nobody is to have.
    pub fn discard(&self, core: &Core) {
        self.remove(&core.name);
    }

    /// Removes what is left of an entry: its facts.
    pub fn done(&self, entry: &Entry) {
        self.remove(&format!("{}.facts", entry.name));
    }

    fn remove(&self, name: &str) {
        let _ = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
    }
}

/// The length of a core that stands in the store already.
pub fn stored(store: &File, name: &str) -> Option<u64> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file: OwnedFd = openat(store, name, flags, Mode::empty()).ok()?;
    Some(File::from(file).metadata().ok()?.len())
}

fn free(directory: &File) -> Result<u64, Errno> {
    let vfs = fstatvfs(directory)?;
    Ok(vfs.blocks_available().saturating_mul(vfs.fragment_size()))
}

fn ended(behind: &[u8]) -> Option<Ended> {
    reports(behind).into_iter().find_map(|report| match report {
        Report {
            event: Event::Stored {
                truncated, errno, ..
            },
            ..
        } => {
            let errno = i32::try_from(errno).ok().filter(|errno| *errno != 0);
            Some(Ended {
                truncated,
                error: errno.map(Errno::from_raw),
            })
        }
        _ => None,
    })
}

/// What a file's name is without what it is of its entry.
fn stem(name: &str) -> Option<&str> {
    let (stem, suffix) = name.rsplit_once('.')?;
    ["facts", "core", "part"].contains(&suffix).then_some(stem)
}

/// `TIME-ID`: sixteen digits and an upcall's id.
fn is_entry(name: &str) -> bool {
    name.split_once('-').is_some_and(|(time, id)| {
        time.len() == 16 && time.bytes().all(|b| b.is_ascii_digit()) && is_id(id.as_bytes())
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
