//! `cores dump`: the core itself.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use upcalld::store::record::Record;

use super::args::DumpArgs;
use super::progress::Progress;
use super::state;
use super::stored::Stored;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::complain;

/// What is read at once; so much of nothing becomes a hole.
const CHUNK: usize = 64 << 10;

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
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|source| failed(path, source))?;
    unpack(context, &record, stored, &file, path).inspect_err(|_| {
        // Half a core under the name of a whole one would be found by somebody.
        drop(std::fs::remove_file(path));
    })
}

/// Writes a core to a file with holes; `path` is how it is called in errors.
pub(super) fn unpack(
    context: &Context,
    record: &Record,
    stored: Stored,
    mut file: &File,
    path: &Path,
) -> Result<(), Failure> {
    let mut end = 0;
    copy(context, record, stored, |bytes| {
        end += u64::try_from(bytes.len()).unwrap_or(0);
        let result = if bytes.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Start(end)).map(drop)
        } else {
            file.write_all(bytes)
        };
        result.map_err(|source| failed(path, source))
    })?;
    file.set_len(end).map_err(|source| failed(path, source))
}

fn to_stdout(context: &Context, record: &Record, stored: Stored) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    copy(context, record, stored, |bytes| {
        out.write_all(bytes).map_err(|error| {
            if error.kind() == ErrorKind::BrokenPipe {
                Failure::Closed
            } else {
                Failure::Output(error)
            }
        })
    })
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
