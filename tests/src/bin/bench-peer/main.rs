//! bench-peer: what upcalld is measured against, and what it is measured with. Linked statically, started without Rust's
//! own start-up, so that it costs what a C program of the same few lines would. Its name says what it does:
//!
//! - `noop`: a core handler that ends at once
//! - `drain`: a core handler, or a helper in a container, that reads everything
//! - `bare PID HELPER PIDFD`: a core handler that joins the process's namespaces and root and runs HELPER there: what
//!   upcalld does, without a daemon, rules, limits, checks or a record
//! - `crash N [MIB]`: crashes N children one after the other, each with MIB mebibytes of memory, and prints how long each
//!   took, in nanoseconds

#![no_main]

mod sys;
