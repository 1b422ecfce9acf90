//! kernel.core_pattern and kernel.core_pipe_limit, and how such settings are written: read back.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::errno_name;
use super::lock::{Lock, LockError, OneWriter};
use super::pattern::Pattern;

/// Where the two are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreSysctl {
    pattern: PathBuf,
    pipe_limit: PathBuf,
    modes: PathBuf,
    writer: OneWriter,
}

/// What stands in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// kernel.core_pattern.
    pub pattern: Pattern,
    /// kernel.core_pipe_limit: how many dumps to programs run at once, and whether the kernel waits for them.
    pub pipe_limit: u64,
}

/// Why the kernel's settings cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// As open(2), read(2), write(2).
    #[error("{}: {}", path.display(), errno_name(source))]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The kernel has something else than was written.
    #[error("{} reads back as {found:?} after {wrote:?} was written", path.display())]
    ReadBack {
        /// Which.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What was written.
        wrote: String,
    },
}

/// kernel.core_uses_pid: whether a file's name without `%p` gets the process's number behind it (core(5)).
pub fn core_uses_pid() -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/core_uses_pid");
    text.is_ok_and(|text| text.trim() != "0")
}

impl CoreSysctl {
    /// The kernel's own.
    pub fn host() -> Self {
        Self {
            writer: OneWriter::host(),
            ..Self::below(Path::new("/proc/sys/kernel"))
        }
    }

    /// Files of the same names elsewhere, for tests.
    pub fn below(directory: &Path) -> Self {
        Self {
            pattern: directory.join("core_pattern"),
            pipe_limit: directory.join("core_pipe_limit"),
            modes: directory.join("core_modes"),
            writer: OneWriter::below(directory),
        }
    }

    /// What stands there now.
    ///
    /// # Errors
    /// As open(2), read(2).
    pub fn read(&self) -> Result<Standing, SysctlError> {
        let pipe_limit = read(&self.pipe_limit)?;
        Ok(Standing {
            pattern: Pattern::parse(&read(&self.pattern)?),
            pipe_limit: pipe_limit
                .trim()
                .parse()
                .map_err(|_| io(&self.pipe_limit)(ErrorKind::InvalidData.into()))?,
        })
    }

    /// Whether the kernel dumps to sockets (6.16): kernel.core_modes says so.
    ///
    /// # Errors
    /// Why not, in a clause.
    pub fn has_socket(&self) -> Result<(), String> {
        let path = self.modes.display();
        match std::fs::read_to_string(&self.modes) {
            Ok(modes) if modes.split_whitespace().any(|mode| mode == "socket") => Ok(()),
            Ok(_) => Err(format!("{path} has no line `socket`")),
            Err(error) => Err(format!("{path}: {}", errno_name(&error))),
        }
    }

    /// Waits until nobody else of ours writes; see [`OneWriter::wait`].
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn lock(&self) -> Result<Lock, LockError> {
        self.writer.wait()
    }

    /// The same without waiting; `None` while somebody else of ours writes.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn try_lock(&self) -> Result<Option<Lock>, LockError> {
        self.writer.now()
    }

    /// Puts a program in: the limit first, so that the kernel waits for the program from its first call on.
    ///
    /// # Errors
    /// See [`SysctlError`].
    pub fn put_in(&self, standing: &Standing, _lock: &Lock) -> Result<(), SysctlError> {
        write(&self.pipe_limit, &standing.pipe_limit.to_string())?;
        write(&self.pattern, standing.pattern.text())
    }

    /// Puts back what stood there: the pattern first, so that while a program of ours stands its limit does too.
    ///
    /// # Errors
    /// See [`SysctlError`].
    pub fn put_back(&self, standing: &Standing, _lock: &Lock) -> Result<(), SysctlError> {
        write(&self.pattern, standing.pattern.text())?;
        write(&self.pipe_limit, &standing.pipe_limit.to_string())
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> SysctlError {
    move |source| SysctlError::Io {
        path: path.to_owned(),
        source,
    }
}

/// A setting's text, its newline included.
pub(super) fn read(path: &Path) -> Result<String, SysctlError> {
    std::fs::read_to_string(path).map_err(io(path))
}

/// Writes a value and reads it back: the kernel takes any text and keeps as many characters of it as it has room for.
pub(super) fn write(path: &Path, value: &str) -> Result<(), SysctlError> {
    // An empty value is written as a lone newline: a write of no bytes changes nothing.
    std::fs::write(path, format!("{value}\n")).map_err(io(path))?;
    let found = read(path)?;
    let found = found.trim_end_matches('\n');
    if found == value {
        Ok(())
    } else {
        Err(SysctlError::ReadBack {
            path: path.to_owned(),
            found: found.to_owned(),
            wrote: value.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_read_and_written() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("core_pattern"), "core\n").unwrap();
        std::fs::write(directory.path().join("core_pipe_limit"), "0\n").unwrap();
        let sysctl = CoreSysctl::below(directory.path());
        let before = sysctl.read().unwrap();
        assert_eq!(before.pattern, Pattern::File("core".to_owned()));
        let lock = sysctl.lock().unwrap();
        let other = Standing {
            pattern: Pattern::parse("|/x %P "),
            pipe_limit: 7,
        };
        sysctl.put_in(&other, &lock).unwrap();
        assert_eq!(sysctl.read().unwrap(), other);
        sysctl.put_back(&before, &lock).unwrap();
        assert_eq!(sysctl.read().unwrap(), before);
        std::fs::write(directory.path().join("core_pipe_limit"), "many\n").unwrap();
        let error = sysctl.read().unwrap_err().to_string();
        assert!(error.contains("core_pipe_limit"), "{error}");
    }
}
