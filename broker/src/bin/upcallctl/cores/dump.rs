//! `cores dump`: the core itself.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use upcalld::policy;
use upcalld::store::record::Record;
use upcalld::store::space::free;

use super::args::DumpArgs;
use super::progress::Progress;
use super::state;
use super::stored::Stored;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::complain;

/// What is read at once; so much of nothing becomes a hole.
const CHUNK: usize = 64 << 10;

/// After so many chunks it is looked how much is free: 64 MiB.
const ASKED: u64 = 1 << 10;

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &DumpArgs) -> Result<(), Failure> {
    if asked.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::Usage {
            what: "a core is not for a terminal".to_owned(),
            help: "-o FILE, or a pipe".to_owned(),
        });
    }
    let record = super::record(context, &asked.id)?;
    let stored = super::open(context, &record)?;
    let Some(path) = &asked.output else {
        return to_stdout(context, &record, stored);
    };
    let taken = || failed(path, Errno::EEXIST.into());
    if path.symlink_metadata().is_ok() {
        return Err(taken());
    }
    // Half a core under the name of a whole one would be found by somebody; so it has none before it is whole.
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let file = match unnamed(parent.unwrap_or(Path::new("."))) {
        // NFS, FAT and the like.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return named(context, &record, stored, path);
        }
        file => file.map_err(|source| failed(path, source))?,
    };
    unpack(context, &record, stored, &file, (path, Room::All))?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = linkat(
        AT_FDCWD,
        &*unnamed,
        AT_FDCWD,
        path,
        AtFlags::AT_SYMLINK_FOLLOW,
    );
    linked.map_err(|errno| failed(path, errno.into()))
}

/// Where a file has to have its name from the beginning. It loses it again where the core does not come out; Ctrl-C leaves
/// what there is.
fn named(context: &Context, record: &Record, stored: Stored, path: &Path) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|source| failed(path, source))?;
    let unpacked = unpack(context, record, stored, &file, (path, Room::All));
    unpacked.inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// A new file in a directory, readable by its owner alone, that has no name and is gone when nobody has it open.
///
/// # Errors
/// As open(2); `EOPNOTSUPP` on a file system that has no such files.
pub(super) fn unnamed(directory: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).mode(0o600);
    options.custom_flags(libc::O_TMPFILE).open(directory)
}

/// How much of a file system may be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// All of it: the admin said where.
    All,
    /// What `store.keep_free` leaves.
    Kept,
}

/// Writes a core to a file with holes; `path` is how it is called in errors.
pub(super) fn unpack(
    context: &Context,
    record: &Record,
    stored: Stored,
    mut file: &File,
    (path, room): (&Path, Room),
) -> Result<(), Failure> {
    let keep = match room {
        Room::All => 0,
        Room::Kept => policy::check(&context.config).settings.store.keep_free,
    };
    let (mut end, mut written) = (0_u64, 0_u64);
    copy(context, record, stored, |bytes| {
        let length = u64::try_from(bytes.len()).unwrap_or(0);
        end += length;
        if bytes.iter().all(|byte| *byte == 0) {
            let past = file.seek(SeekFrom::Start(end));
            return past.map(drop).map_err(|source| failed(path, source));
        }
        // What a few bytes unpack to is the tenant's choice.
        if keep > 0 && written.is_multiple_of(ASKED) && free(path).is_some_and(|free| free < keep) {
            return Err(Failure::Odd(format!(
                "{}: less is free than store.keep_free wants; TMPDIR names another place",
                path.display()
            )));
        }
        written += 1;
        file.write_all(bytes).map_err(|source| failed(path, source))
    })?;
    file.set_len(end).map_err(|source| failed(path, source))
}

fn to_stdout(context: &Context, record: &Record, stored: Stored) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let failed = |error: std::io::Error| {
        if error.kind() == ErrorKind::BrokenPipe {
            Failure::Closed
        } else {
            Failure::Output(error)
        }
    };
    copy(context, record, stored, |bytes| {
        out.write_all(bytes).map_err(failed)
    })?;
    out.flush().map_err(failed)
}

/// Reads the core to its end, a chunk at a time.
fn copy(
    context: &Context,
    record: &Record,
    stored: Stored,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let action = state::store(record);
    if action.is_some_and(|store| store.truncated == Some(true)) {
        complain("warning: this core is truncated\n");
    }
    let all = action.and_then(|store| store.size_bytes).unwrap_or(0);
    let mut progress = Progress::new("unpacking", all, &context.look);
    let path = stored.path.clone();
    let file = |source| failed(&path, source);
    let mut reader = stored.reader().map_err(file)?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let length = fill(&mut reader, &mut buffer).map_err(file)?;
        if length == 0 {
            return Ok(());
        }
        take(buffer.get(..length).unwrap_or_default())?;
        done += u64::try_from(length).unwrap_or(0);
        progress.at(done);
    }
}

/// Reads as much as there is room for, or is left.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn failed(path: &Path, source: std::io::Error) -> Failure {
    Failure::File {
        path: path.to_owned(),
        source,
    }
}
