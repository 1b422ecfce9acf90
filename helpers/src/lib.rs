//! What the programs of upcalld share: the wire, and the few system calls they are made of.
//!
//! The programs in `src/bin/` are what the kernel (`upcall-shim`) or the launcher (`upcall-enter`, `upcall-store`)
//! executes. The daemon links only [`wire`] and [`seqpacket`].

pub mod wire;

#[cfg(feature = "socket")]
pub mod seqpacket;

#[cfg(feature = "socket")]
pub mod sys;
