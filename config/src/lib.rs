//! The rule language of upcalld: what an admin writes, checked, and decided by.
//!
//! Pure data and pure functions. The crate reads nothing but its own configuration files, starts nothing, and knows
//! neither the kernel nor a runtime: facts come from the broker as plain values, and what is to be done goes back as
//! a [`plan::Plan`].
//!
//! [`file::load`] turns directories into a [`rule::Policy`] or into diagnostics; [`decide::decide`] turns a policy, an
//! upcall and facts into a verdict; [`explain::explain`] says why.

#![forbid(unsafe_code)]

pub mod decide;
pub mod diagnostic;
pub mod explain;
pub mod facts;
pub mod field;
pub mod file;
pub mod keys;
pub mod keytype;
pub mod matcher;
pub mod module;
pub mod placed;
pub mod plan;
pub mod rule;
pub mod settings;
pub mod template;
pub mod text;
pub mod upcall;

pub mod capability;
mod check;
mod dropin;
mod pattern;
mod secure;
mod suggest;

pub use dropin::Directories;
