//! Where upcalls come in: accept, see who it is, and turn what they say into an upcall.

pub mod accepted;
pub mod call;
pub mod coresock;
pub mod helper;
pub mod key;
pub mod shim;
pub mod spool;
