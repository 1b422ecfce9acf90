//! dpkg-divert(1): packages that bring the kernel's program shall unpack it elsewhere. It renames nothing here.
//!
//! dpkg knows names, not places: keyutils has the program as /sbin/request-key in one release and as /usr/sbin/request-key
//! in the next, and where /sbin is a link both are the same file. So both names are diverted.

use std::path::Path;
use std::process::{Command, Stdio};

/// The program.
const PROGRAM: &str = "/usr/bin/dpkg-divert";

/// The names that packages may have it by, as far as the second is not another file.
fn names() -> impl Iterator<Item = &'static str> {
    let linked = std::fs::symlink_metadata("/sbin").is_ok_and(|meta| meta.is_symlink());
    ["/sbin/request-key", "/usr/sbin/request-key"]
        .into_iter()
        .take(if linked { 2 } else { 1 })
}

/// Why packages could not be told.
#[derive(Debug, thiserror::Error)]
#[error("dpkg-divert: {0}")]
pub struct DivertError(String);

/// Whether there is a dpkg to be told.
pub(super) fn is_there() -> bool {
    Path::new(PROGRAM).exists()
}

/// Diverts.
pub(super) fn add() -> Result<(), DivertError> {
    names().try_for_each(|name| run("--add", name))
}

/// Ends what [`add`] did; what is not diverted is left.
pub(super) fn remove() -> Result<(), DivertError> {
    names().try_for_each(|name| run("--remove", name))
}

#[expect(
    clippy::disallowed_methods,
    reason = "an admin's command that installs; the daemon never does"
)]
fn run(what: &str, name: &str) -> Result<(), DivertError> {
    let other = format!("{name}.upcalld-was");
    let output = Command::new(PROGRAM)
        .args([
            "--quiet",
            "--local",
            "--no-rename",
            "--divert",
            &other,
            what,
            name,
        ])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| DivertError(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(DivertError(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}
