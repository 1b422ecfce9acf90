//! Launchers of former daemons: one whose daemon was killed goes on until what it has begun has ended.
//!
//! `launchers/PID` in the directory of sockets, which nobody else may write to, says when each started, in clock ticks since
//! boot: so one is not taken for whoever has its number now.

use std::path::Path;

use nix::errno::Errno;

use crate::linux::pidref::PidRef;
use crate::linux::procdir::ProcDir;

/// The directory's name.
const DIRECTORY: &str = "launchers";

/// Those that were there when we started.
#[derive(Debug, Default)]
pub struct Former(Vec<PidRef>);

impl Former {
    /// Finds them, and notes our own, of this number, for whoever starts next. Notes of those that are gone are removed.
    ///
    /// # Errors
    /// As mkdir(2), write(2), and what keeps /proc from being read.
    pub fn find(run: &Path, own: u32) -> std::io::Result<Self> {
        let directory = run.join(DIRECTORY);
        std::fs::create_dir_all(&directory)?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory)?.flatten() {
            // Who cannot be looked at is not taken for gone.
            match named(&entry.path())? {
                Some(launcher) => found.push(launcher),
                None => std::fs::remove_file(entry.path())?,
            }
        }
        let (_, start) = started(own)?;
        std::fs::write(directory.join(own.to_string()), start.to_string())?;
        Ok(Self(found))
    }

    /// Whether one of them is there still.
    pub fn is_any_there(&mut self) -> bool {
        self.0.retain(|launcher| !launcher.has_ended());
        !self.0.is_empty()
    }
}

/// The process of a note, if that is there still.
fn named(note: &Path) -> std::io::Result<Option<PidRef>> {
    let name = note.file_name().and_then(|name| name.to_str());
    let pid = name.and_then(|name| name.parse().ok());
    let start: Option<u64> = std::fs::read_to_string(note)?.parse().ok();
    let (Some(pid), Some(start)) = (pid, start) else {
        return Ok(None);
    };
    match started(pid) {
        Ok((process, now)) => Ok(Some(process).filter(|p| now == start && !p.has_ended())),
        Err(Errno::ESRCH | Errno::ENOENT | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A process, and when it started.
fn started(pid: u32) -> Result<(PidRef, u64), Errno> {
    let process = PidRef::open(pid)?;
    let start = ProcDir::open(pid)?.stat()?.start;
    process.verify().map_err(|_| Errno::ESRCH)?;
    Ok((process, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another process")]
    fn a_launcher_is_found_until_it_ends_and_nobody_else_with_its_number() {
        let run = tempfile::tempdir().unwrap();
        let own = std::process::id();
        assert!(!Former::find(run.path(), own).unwrap().is_any_there());
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        // The next daemon finds the one before it.
        let mut former = Former::find(run.path(), other.id()).unwrap();
        assert!(former.is_any_there());
        let mut both = Former::find(run.path(), own).unwrap();
        assert_eq!(both.0.len(), 2);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(both.is_any_there() && both.0.len() == 1);
        // Somebody else has its number, and what is no note is none.
        let directory = run.path().join(DIRECTORY);
        std::fs::write(directory.join(own.to_string()), "1").unwrap();
        for (name, text) in [("x", "1"), ("1", "x"), ("99999999", "7")] {
            std::fs::write(directory.join(name), text).unwrap();
        }
        assert!(!Former::find(run.path(), own).unwrap().is_any_there());
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1);
    }
}
