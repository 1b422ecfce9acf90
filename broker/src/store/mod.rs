//! What is kept: one record per upcall, and cores.

pub mod cores;
pub mod id;
pub mod ledger;
pub mod record;
pub mod records;
pub mod space;
pub mod unclosed;
