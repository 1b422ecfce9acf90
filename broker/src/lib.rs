//! The daemon that answers the kernel's upcalls for containers.
pub mod admit;
pub mod hooks;
pub mod identify;
pub mod intake;
pub mod linux;
pub mod resolve;
pub mod store;
