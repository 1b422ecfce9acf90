//! The core as a file, by the rules by which the kernel writes one (fs/coredump.c, `coredump_file`), and stricter in one:
//! no part of the path may be a symbolic link. What the user could not do, this cannot.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};

use crate::{ready, say, sys};

/// What is read at once: all that the pipe may hold.
const BUFFER: usize = 1 << 20;

/// A hole is made of this much at least.
const PAGE: usize = 4096;

/// Writes standard input to a new file of at most `max` bytes.
///
/// # Errors
/// Before anything is read: the file cannot be made. Later: it cannot be written.
pub(crate) fn write(path: &[u8], max: u64) -> Result<(), Errno> {
    sys::survive_file_size_limit();
    let made = create(Path::new(std::ffi::OsStr::from_bytes(path)))?;
    ready().inspect_err(|_| made.remove())?;
    let mut written = copy(&mut std::io::stdin().lock(), &made.file, max);
    if let Err(error) = made.file.set_len(written.length) {
        written.error.get_or_insert(errno(&error));
    }
    let Written { length, error, .. } = written;
    if length == 0 {
        made.remove();
    }
    match error {
        None if length == 0 => say("nothing came, and there is no file"),
        None if written.cut => say(&format!("{length} bytes, cut at its core limit")),
        None => say(&format!("{length} bytes")),
        Some(Errno::EFBIG) => say(&format!("{length} bytes, cut at its file size limit")),
        Some(error) => {
            say(&format!("{length} bytes, then {error:?}"));
            return Err(error);
        }
    }
    Ok(())
}

/// A new file, where it is.
struct Made {
    directory: OwnedFd,
    name: OsString,
    file: File,
}

impl Made {
    /// Takes the name away again, if it is this file's: of nothing there is no core, and somebody else may have the core.
    fn remove(&self) {
        let at = AtFlags::AT_SYMLINK_NOFOLLOW;
        let here = fstatat(&self.directory, self.name.as_os_str(), at);
        if let (Ok(here), Ok(made)) = (here, fstat(&self.file))
            && (here.st_dev, here.st_ino) == (made.st_dev, made.st_ino)
        {
            let _ = unlinkat(
                &self.directory,
                self.name.as_os_str(),
                UnlinkatFlags::NoRemoveDir,
            );
        }
    }
}

/// A new file in the place of one that may be there. Only the last name is replaced, and only a plain file.
fn create(path: &Path) -> Result<Made, Errno> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let directory = openat2(AT_FDCWD, parent, how)?;
    match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG => {
            unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(_) => return Err(Errno::EEXIST),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlag::O_WRONLY
        | OFlag::O_CREAT
        | OFlag::O_EXCL
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let made = Made {
        file: File::from(openat(&directory, name, flags, mode)?),
        name: name.to_owned(),
        directory,
    };
    check(&made.file).inspect_err(|_| made.remove())?;
    Ok(made)
}

/// What the kernel asks of a core's file after it was opened: ours alone, and nowhere else.
fn check(file: &File) -> Result<(), Errno> {
    let meta = file.metadata().map_err(|error| errno(&error))?;
    let ours = meta.is_file()
        && meta.nlink() == 1
        && meta.uid() == Uid::effective().as_raw()
        && meta.mode() & 0o677 == 0o600;
    if ours { Ok(()) } else { Err(Errno::EPERM) }
}

/// What became of a copy.
#[derive(Debug, Default, PartialEq, Eq)]
struct Written {
    length: u64,
    /// There was more than may be kept.
    cut: bool,
    error: Option<Errno>,
}

/// Copies until the end or `max`, leaving holes where nothing but zeroes is.
fn copy(source: &mut impl Read, file: &File, max: u64) -> Written {
    let mut written = Written::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut filled = 0;
        // Whole pages, so that a hole is not missed because the pipe brought it in two parts.
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match source.read(room) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    written.error = Some(errno(&error));
                    return written;
                }
            }
        }
        let room = usize::try_from(max - written.length).unwrap_or(usize::MAX);
        let Some(part) = buffer.get(..filled.min(room)) else {
            return written;
        };
        if let Err(error) = put(file, part, written.length) {
            written.error = Some(error);
            return written;
        }
        written.length += u64::try_from(part.len()).unwrap_or(0);
        written.cut = filled > room;
        if filled < BUFFER || written.cut {
            return written;
        }
    }
}

/// Writes the pages that are not empty.
fn put(file: &File, part: &[u8], at: u64) -> Result<(), Errno> {
    let mut offset = at;
    let pages = part.chunks(PAGE).collect::<Vec<_>>();
    for run in pages.chunk_by(|a, b| is_empty(a) == is_empty(b)) {
        let length: usize = run.iter().map(|page| page.len()).sum();
        let from = usize::try_from(offset - at).unwrap_or(usize::MAX);
        if let Some(bytes) = part.get(from..from.saturating_add(length))
            && !run.first().is_some_and(|page| is_empty(page))
        {
            file.write_all_at(bytes, offset)
                .map_err(|error| errno(&error))?;
        }
        offset += u64::try_from(length).unwrap_or(0);
    }
    Ok(())
}

fn is_empty(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests;
