//! A step that failed, and with which error.

use nix::errno::Errno;
use upcall_helpers::wire::Stage;

/// Where and why a launch ended before its program ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) errno: Errno,
}

/// Names the step of a result.
pub(crate) trait At<T> {
    fn at(self, stage: Stage) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|errno| Failure { stage, errno })
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            stage,
            errno: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        })
    }
}

/// Refuses with `errno` unless `condition` holds.
pub(crate) fn require(condition: bool, stage: Stage, errno: Errno) -> Result<(), Failure> {
    if condition {
        Ok(())
    } else {
        Err(Failure { stage, errno })
    }
}
