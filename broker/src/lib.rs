//! The daemon that answers the kernel's upcalls for containers, and what its command line shares with it.
//!
//! One upcall's way is [`broker`]; docs/architecture.md draws it.

pub mod admit;
pub mod broker;
pub mod control;
pub mod corefile;
pub mod daemon;
pub mod explain;
pub mod hooks;
pub mod identify;
pub mod intake;
pub mod launch;
pub mod linux;
pub mod metrics;
pub mod options;
pub mod policy;
pub mod resolve;
pub mod store;
