//! Programs of the host that run inside containers, as sealed copies; each is copied again when its file has changed.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use upcall_config::plan::{Program, Run};

use super::{LaunchError, program_error};
use crate::linux::memfd::{SealError, SealedProgram};

/// The copies at hand.
#[derive(Debug, Default)]
pub(super) struct Programs(Mutex<HashMap<PathBuf, Copy>>);

#[derive(Debug)]
struct Copy {
    version: (u64, u64, i64, i64, u64),
    program: Arc<SealedProgram>,
}

impl Programs {
    /// The program that a plan executes by descriptor; `None` where it executes a path.
    ///
    /// # Errors
    /// It cannot be read, is not root's alone, or is not static.
    pub(super) fn get(&self, run: &Run) -> Result<Option<Arc<SealedProgram>>, LaunchError> {
        let word = match (run.program(), run.argv().first()) {
            (Program::HostElf, Some(word)) => word,
            (Program::HostElf, None) | (Program::Path | Program::Place, _) => return Ok(None),
        };
        let path = Path::new(std::ffi::OsStr::from_bytes(word));
        self.copy(path)
            .map(Some)
            .map_err(|source| program_error(path, source))
    }

    fn copy(&self, path: &Path) -> Result<Arc<SealedProgram>, SealError> {
        let meta = path.metadata().map_err(SealError::Read)?;
        let version = (
            meta.dev(),
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.len(),
        );
        let mut copies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copies.get(path).filter(|copy| copy.version == version) {
            return Ok(Arc::clone(&copy.program));
        }
        let program = Arc::new(SealedProgram::copy(path)?);
        copies.insert(
            path.to_owned(),
            Copy {
                version,
                program: Arc::clone(&program),
            },
        );
        Ok(program)
    }
}
