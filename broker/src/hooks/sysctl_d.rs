//! While our hook stands, a line in /run says so to whoever sets the kernel's settings from files (sysctl.d(5)).
//!
//! systemd-sysctl runs at boot, and again when a package with such files is installed or upgraded; systemd's own sets
//! core_pattern, and would take the hook from us in the middle of a day. The file sorts behind all others and is gone
//! with the next boot, where nothing but the admin's wish puts the hook in.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::sysctl::Standing;

/// Behind `99-sysctl.conf`, which is /etc/sysctl.conf.
const NAME: &str = "99-upcalld.conf";

/// The file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlD(PathBuf);

impl SysctlD {
    /// The system's.
    pub fn host() -> Self {
        Self::below(Path::new("/run/sysctl.d"))
    }

    /// One in another directory, for tests.
    pub fn below(directory: &Path) -> Self {
        Self(directory.join(NAME))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Has our values set again whenever others are.
    ///
    /// # Errors
    /// As mkdir(2), open(2), write(2), rename(2).
    pub fn keep(&self, ours: &Standing) -> std::io::Result<()> {
        let text = format!(
            "# While upcalld's hook is in (upcallctl uninstall removes this).\n\
             kernel.core_pipe_limit = {}\nkernel.core_pattern = {}\n",
            ours.pipe_limit,
            ours.pattern.text()
        );
        if let Some(directory) = self.0.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let new = self.0.with_extension("new");
        drop(std::fs::remove_file(&new));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&new, &self.0)
    }

    /// Leaves others' values alone from now on.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
