//! What the programs of upcalld share: the wire, and the few system calls they are made of.
//!
//! The programs in `src/bin/` are what the kernel (`upcall-shim`) or the launcher (`upcall-enter`, `upcall-store`)
//! executes.

pub mod keytype;

pub mod wire;

#[cfg(feature = "socket")]
pub mod cgroupfs;

#[cfg(feature = "socket")]
pub mod clock;

#[cfg(feature = "socket")]
pub mod hookfile;

#[cfg(feature = "programs")]
pub mod patience;

pub mod promise;

#[cfg(feature = "socket")]
pub mod seccomp;

#[cfg(feature = "socket")]
pub mod seqpacket;

#[cfg(feature = "socket")]
pub mod sys;

pub mod umh;
