//! The rule language.
pub mod facts;
pub mod plan;
pub mod upcall;
