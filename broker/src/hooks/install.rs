//! Putting our core hook in, and what stood there back.
//!
//! What the kernel accepts is not what it does: some kernels take any string, and another program may write the next
//! moment. So everything is read back, and `upcallctl` then lets a child crash and waits for its record.

use std::path::{Path, PathBuf};

use super::file::{CoreHook, HookFileError};
use super::pattern::{CORE_PATTERN, CORE_PIPE_LIMIT, Pattern, PatternError};

/// Default of core_pipe_limit: above every limit of our own, so that the kernel never skips a dump for it.
pub const PIPE_LIMIT: u64 = 1024;

/// What is to be put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Ours.
    pub pattern: Pattern,
    /// core_pipe_limit.
    pub pipe_limit: u64,
    /// The hook's file.
    pub file: CoreHook,
    /// The directory it goes to.
    pub hooks: PathBuf,
    /// What stands in core_pattern now.
    pub current: Pattern,
    /// What stands in core_pipe_limit now.
    pub current_pipe_limit: u64,
}

/// Why the hook cannot be put in or taken out. Nothing is changed then, or it was changed back.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Our pattern cannot be made.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The hook's file.
    #[error(transparent)]
    File(#[from] HookFileError),
    /// A sysctl cannot be read or written.
    #[error("{path}: {source}")]
    Sysctl {
        /// Which.
        path: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The kernel has something else than was written.
    #[error("{path} reads back as {found:?} after {wrote:?} was written")]
    ReadBack {
        /// Which.
        path: &'static str,
        /// What is there.
        found: String,
        /// What was written.
        wrote: String,
    },
    /// The program that the kernel would start is not there.
    #[error("{}: {source}; run `make install`, or name its directory with --libexec", path.display())]
    Program {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// What stands in the kernel now.
///
/// # Errors
/// A sysctl cannot be read.
pub fn current() -> Result<(Pattern, u64), InstallError> {
    let pattern = Pattern::parse(&read(CORE_PATTERN)?);
    let limit = read(CORE_PIPE_LIMIT)?.trim().parse().unwrap_or(0);
    Ok((pattern, limit))
}

impl Installation {
    /// Works out what to put in. What stood there before us is taken from the kernel, or, where the kernel has ours
    /// already, from our own file: never our own line.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn plan(
        program: &Path,
        hooks: &Path,
        default_hooks: &Path,
        mut file: CoreHook,
    ) -> Result<Self, InstallError> {
        std::fs::metadata(program).map_err(|source| InstallError::Program {
            path: program.to_owned(),
            source,
        })?;
        let (current, current_pipe_limit) = current()?;
        (file.previous, file.previous_pipe_limit) = if current.is_ours() {
            let known = current
                .hooks_directory()
                .unwrap_or_else(|| default_hooks.to_owned());
            CoreHook::read(&known).map_or((Pattern::parse("core"), 0), |old| {
                (old.previous, old.previous_pipe_limit)
            })
        } else {
            (current.clone(), current_pipe_limit)
        };
        let named = (hooks != default_hooks).then_some(hooks);
        Ok(Self {
            pattern: Pattern::ours(program, named)?,
            pipe_limit: PIPE_LIMIT,
            file,
            hooks: hooks.to_owned(),
            current,
            current_pipe_limit,
        })
    }

    /// Puts it in: the file first, so that the first upcall finds it; the limit before the pattern, so that the first
    /// upcall is waited for.
    ///
    /// # Errors
    /// See [`InstallError`]; what was changed is changed back.
    pub fn apply(&self) -> Result<(), InstallError> {
        self.file.write(&self.hooks)?;
        write_both(&self.pattern, self.pipe_limit).inspect_err(|_| self.undo())
    }

    /// Puts back what stood there when this was planned, as well as it can.
    pub fn undo(&self) {
        drop(write(CORE_PATTERN, self.current.text()));
        drop(write(CORE_PIPE_LIMIT, &self.current_pipe_limit.to_string()));
    }
}

/// Writes core_pipe_limit and core_pattern, in this order, and reads both back.
///
/// # Errors
/// See [`InstallError`].
pub fn write_both(pattern: &Pattern, pipe_limit: u64) -> Result<(), InstallError> {
    write(CORE_PIPE_LIMIT, &pipe_limit.to_string())?;
    write(CORE_PATTERN, pattern.text())
}

/// What `uninstall` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uninstalled {
    /// What stood there before us is there again, read back.
    Restored(CoreHook),
    /// Somebody else's hook is there, and was left.
    Foreign(Pattern),
}

/// Puts back what stood there before us, if the kernel still has ours.
///
/// # Errors
/// See [`InstallError`].
pub fn uninstall(hooks: &Path) -> Result<Uninstalled, InstallError> {
    let (current, _) = current()?;
    if !current.is_ours() {
        return Ok(Uninstalled::Foreign(current));
    }
    let file = CoreHook::read(hooks)?;
    // The pattern first: while ours stands, our limit does too.
    write(CORE_PATTERN, file.previous.text())?;
    write(CORE_PIPE_LIMIT, &file.previous_pipe_limit.to_string())?;
    drop(std::fs::remove_file(hooks.join("core")));
    Ok(Uninstalled::Restored(file))
}

fn read(path: &'static str) -> Result<String, InstallError> {
    std::fs::read_to_string(path).map_err(|source| InstallError::Sysctl { path, source })
}

/// Writes a sysctl and reads it back.
fn write(path: &'static str, value: &str) -> Result<(), InstallError> {
    // An empty pattern is written as a lone newline: a write of no bytes changes nothing.
    let text = format!("{value}\n");
    std::fs::write(path, text).map_err(|source| InstallError::Sysctl { path, source })?;
    let found = read(path)?;
    let found = found.trim_end_matches('\n');
    if found == value {
        Ok(())
    } else {
        Err(InstallError::ReadBack {
            path,
            found: found.to_owned(),
            wrote: value.to_owned(),
        })
    }
}
