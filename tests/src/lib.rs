//! upcalld from outside: what the tests on real namespaces, real runtimes and the real kernel stand on.
//!
//! Two kinds of code meet here. What runs *inside* containers (`upcall-probe`, `crash-me`, `key-me`) is static, small and knows
//! only [`report`]; everything else is the harness, behind the feature of that name.

pub mod report;

#[cfg(feature = "harness")]
pub mod bundle;
#[cfg(feature = "harness")]
pub mod cgroup;
#[cfg(feature = "harness")]
pub mod command;
#[cfg(feature = "harness")]
pub mod container;
#[cfg(feature = "harness")]
pub mod containerd;
#[cfg(feature = "harness")]
pub mod cores;
#[cfg(feature = "harness")]
pub mod cri;
#[cfg(feature = "harness")]
pub mod daemon;
#[cfg(feature = "harness")]
pub mod docker;
#[cfg(feature = "harness")]
pub mod fuse;
#[cfg(feature = "harness")]
pub mod gdb;
#[cfg(feature = "harness")]
pub mod hook;
#[cfg(feature = "harness")]
pub mod image;
#[cfg(feature = "harness")]
pub mod kernel_like;
#[cfg(feature = "harness")]
pub mod key_hook;
#[cfg(feature = "harness")]
pub mod leader;
#[cfg(feature = "harness")]
pub mod lxc;
#[cfg(feature = "harness")]
pub mod machine;
#[cfg(feature = "harness")]
pub mod nspawn;
#[cfg(feature = "harness")]
pub mod podman;
#[cfg(feature = "harness")]
pub mod profile;
#[cfg(feature = "harness")]
pub mod programs;
#[cfg(feature = "harness")]
pub mod records;
#[cfg(feature = "harness")]
pub mod registered;
#[cfg(feature = "harness")]
pub mod rootfs;
#[cfg(feature = "harness")]
pub mod runc;
#[cfg(feature = "harness")]
pub mod sandbox;
#[cfg(feature = "harness")]
pub mod service;
#[cfg(feature = "harness")]
pub mod skip;
#[cfg(feature = "harness")]
pub mod sys;
