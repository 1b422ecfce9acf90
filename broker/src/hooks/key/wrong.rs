//! What can be wrong with a key hook that was put in.

use std::fmt;
use std::path::PathBuf;

use super::line::{Lines, NOBODY};
use super::{KeyHook, MARK, SIZE_MAX, Standing};
use crate::hooks::file;
use crate::linux::secure;

/// The hook's file says that it is in, and it is not, or not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The kernel starts somebody else's program: a package was upgraded, or somebody wrote it.
    Taken(PathBuf),
    /// There is no program any more.
    Gone(PathBuf),
    /// Our lines of request-key.conf are gone.
    NoLines(PathBuf),
    /// Somebody else's stand in their place.
    OtherLines(PathBuf),
    /// What `pass` means is not there any more.
    NoPrevious(PathBuf),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, what) = match self {
            Self::Taken(path) | Self::OtherLines(path) => (path, "is not ours any more"),
            Self::Gone(path) | Self::NoLines(path) | Self::NoPrevious(path) => (path, "is gone"),
        };
        write!(f, "{} {what}", path.display())
    }
}

impl Wrong {
    /// What that means for keys.
    pub fn meaning(&self) -> &'static str {
        match self {
            Self::Taken(_) => "keys go by it, and no rule applies to them",
            Self::Gone(_) => "the kernel refuses every key",
            Self::NoLines(_) | Self::OtherLines(_) => {
                "keys of its types go where they went before us, and no rule applies to them"
            }
            Self::NoPrevious(_) => {
                "what a rule passes, and keys that come while upcalld is stopped, are refused"
            }
        }
    }

    /// What of `upcallctl` mends it.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::Taken(_) | Self::Gone(_) => "install key",
            Self::NoLines(_) | Self::OtherLines(_) => "install key --mode line",
            Self::NoPrevious(_) => "uninstall key",
        }
    }
}

impl KeyHook {
    /// What is wrong with it; `None` also where it was never put in.
    pub fn wrong(&self) -> Option<Wrong> {
        let file = secure::read_file(&self.path(), SIZE_MAX).ok()?;
        let file = String::from_utf8(file).ok()?;
        // An admin may have written one before.
        if !file.starts_with(MARK) {
            return None;
        }
        let lines = self.lines();
        let by_lines = file::value(&file, "program").is_some_and(|value| value.trim() == NOBODY);
        if by_lines {
            return match lines.standing() {
                Lines::Ours(_) => None,
                Lines::Nothing => Some(Wrong::NoLines(lines.path())),
                Lines::Another | Lines::Foreign => Some(Wrong::OtherLines(lines.path())),
            };
        }
        match self.standing() {
            Standing::Ours => {
                let was = self.was();
                let previous = file::value(&file, "previous").map(str::trim);
                let expected = previous == was.to_str();
                (expected && was.symlink_metadata().is_err()).then_some(Wrong::NoPrevious(was))
            }
            Standing::Nothing => Some(Wrong::Gone(self.place())),
            Standing::Another | Standing::Lost | Standing::Foreign => {
                Some(Wrong::Taken(self.place()))
            }
        }
    }
}
