//! The kernel's hooks: what stands in them, what stood there before us, putting ours in and taking it out.

pub mod file;
pub mod install;
pub mod pattern;
pub mod sysctl;
pub mod sysctl_d;
pub mod watch;

/// An error of the system's, by name: `ENOENT`.
pub fn errno_name(error: &std::io::Error) -> String {
    let errno = error.raw_os_error().map(nix::errno::Errno::from_raw);
    errno.map_or_else(|| error.to_string(), |errno| format!("{errno:?}"))
}
