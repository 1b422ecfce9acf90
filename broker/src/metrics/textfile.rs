//! The text in a file, for a collector that reads files (node_exporter's textfile directory).
//!
//! The directory may be another user's. So it is opened once, as a directory and not by a link; a file is made anew in
//! it and renamed: readers see the old text or the new one, and nobody can have us write into a file of his choice.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::warn;

/// How often the file is written: what collectors scrape with most often.
const EVERY: Duration = Duration::from_secs(15);

/// Why it is not written.
#[derive(Debug, thiserror::Error)]
pub enum TextfileError {
    /// The path names no file in a directory.
    #[error("metrics.textfile: {} is no file's path", .0.display())]
    Path(PathBuf),
    /// A step of it failed.
    #[error("metrics.textfile: {}: {step}: {errno:?}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Which.
        step: &'static str,
        /// Why.
        errno: Errno,
    },
}

/// Writes `path` anew, at once and whole, for everybody to read.
///
/// # Errors
/// As open(2), write(2), rename(2).
pub fn write(path: &Path, text: &str) -> Result<(), TextfileError> {
    let step = |step| {
        move |errno| TextfileError::Io {
            path: path.to_owned(),
            step,
            errno,
        }
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(TextfileError::Path(path.to_owned()));
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(directory, flags, Mode::empty()).map_err(step("open"))?;
    // Not *.prom, so no collector takes it for one of its own.
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".upcalld");
    match unlinkat(
        &directory,
        temporary.as_os_str(),
        UnlinkatFlags::NoRemoveDir,
    ) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(step("unlink")(errno)),
    }
    let flags =
        OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = openat(
        &directory,
        temporary.as_os_str(),
        flags,
        Mode::from_bits_truncate(0o600),
    );
    let mut file = File::from(file.map_err(step("create"))?);
    file.write_all(text.as_bytes())
        .and_then(|()| file.set_permissions(PermissionsExt::from_mode(0o644)))
        .map_err(|error| step("write")(errno(&error)))?;
    renameat(&directory, temporary.as_os_str(), &directory, name).map_err(step("rename"))
}

/// Writes it for ever; a failure is logged once, and so is its end.
pub async fn keep_current(path: PathBuf, text: impl Fn() -> String) {
    let mut failed = false;
    loop {
        match write(&path, &text()) {
            Ok(()) => failed = false,
            Err(error) if !failed => {
                failed = true;
                warn!("{error}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
