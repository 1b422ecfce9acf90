//! The kernel's hooks: what stands in them, what stood there before us, putting ours in and taking it out.

pub mod file;
pub mod install;
pub mod pattern;
pub mod sysctl;
pub mod watch;
