//! The kernel's hooks: what stands in them, what stood there before us, putting ours in and taking it out.

pub mod file;
pub mod install;
pub mod key;
pub mod lock;
pub mod module;
pub mod pattern;
pub mod shim;
pub mod sysctl;
pub mod sysctl_d;
pub mod umh;
pub mod watch;

/// An error of the system's, by name: `ENOENT`.
pub fn errno_name(error: &std::io::Error) -> String {
    let errno = error.raw_os_error().map(nix::errno::Errno::from_raw);
    errno.map_or_else(|| error.to_string(), |errno| format!("{errno:?}"))
}

/// A file of the host's cannot be put in or taken out.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", path.display(), errno_name(source))]
pub struct InstallFileError {
    /// Which.
    path: std::path::PathBuf,
    /// Why not.
    source: std::io::Error,
}
