//! What stands in a hook of ours: the shim, by a link that is called as the hook's own program.
//!
//! Where the hook's file is not where the shim looks by itself, a script of two lines says where.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::errno_name;
use super::pattern::DEFAULT_HOOKS;
use crate::linux::secure;

/// The longest script of ours.
const SIZE_MAX: u64 = 4096;

/// Starts every script of ours, whichever upcalld's.
const MARK: &[u8] = b"#!/bin/sh\n# Written by `upcallctl install";

/// The shim for one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shim {
    /// The link to it; its name is that of the program whose place it takes.
    pub(super) program: PathBuf,
    /// The directory of the hooks' files.
    pub(super) hooks: PathBuf,
    /// The daemon's socket.
    pub(super) socket: PathBuf,
}

/// Why the shim cannot be put in.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct ShimError {
    /// Where it should be.
    path: PathBuf,
    /// Why not.
    why: String,
}

impl Shim {
    /// As `name`, for an installation in these directories.
    pub(super) fn new(name: &str, libexec: &Path, hooks: &Path, run: &Path) -> Self {
        Self {
            program: libexec.join(name),
            hooks: hooks.to_owned(),
            socket: run.join("upcall.sock"),
        }
    }

    /// Whether the shim finds the hook's file by itself.
    pub(super) fn is_default(&self) -> bool {
        self.hooks == Path::new(DEFAULT_HOOKS)
    }

    /// What tells it where the hook's file is.
    pub(super) fn script(&self) -> String {
        let (mark, program) = (String::from_utf8_lossy(MARK), self.program.display());
        let hooks = self.hooks.display();
        format!("{mark}`.\nexec '{program}' '--hooks={hooks}' \"$@\"\n")
    }

    /// Writes the script; nothing may be there.
    ///
    /// # Errors
    /// As open(2), write(2).
    pub(super) fn write_script(&self, path: &Path) -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(path)?;
        file.write_all(self.script().as_bytes())?;
        file.sync_all()
    }

    /// Whether a file is this script.
    pub(super) fn is_script(&self, path: &Path) -> bool {
        text(path) == self.script().as_bytes()
    }

    /// The kernel starts it as root, so nobody else may have a hand in it.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub(super) fn check(&self) -> Result<(), ShimError> {
        let wrong = |why: String| ShimError {
            path: self.program.clone(),
            why,
        };
        let meta = std::fs::metadata(&self.program).map_err(|error| wrong(errno_name(&error)))?;
        if !meta.is_file() || meta.mode() & 0o111 == 0 {
            return Err(wrong("not a program".to_owned()));
        }
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(wrong("somebody else than root can write it".to_owned()));
        }
        let is_plain = |path: &PathBuf| {
            path.to_str()
                .is_some_and(|path| !path.contains(['\'', '\n']))
        };
        if ![&self.program, &self.hooks].into_iter().all(is_plain) {
            let why = "an apostrophe or an odd letter in its path or --config's";
            return Err(wrong(why.to_owned()));
        }
        Ok(())
    }
}

/// Whether a file is a script of any upcalld's.
pub(super) fn is_any_script(path: &Path) -> bool {
    text(path).starts_with(MARK)
}

/// Whether a path is a link to the shim of any upcalld's, as that hook's program.
pub(super) fn is_any_shim(path: &Path, name: &str) -> bool {
    path.ends_with(name) && path.with_file_name("upcall-shim").exists()
}

/// A small file's text; nothing where it is none.
fn text(path: &Path) -> Vec<u8> {
    secure::read_file(path, SIZE_MAX).unwrap_or_default()
}
