//! What a tenant or a user of the host does to harm: a file for each class of attack, in the program of all other tests
//! (`tests/e2e/main.rs`). Every test here is in a table of docs/threat-model.md; these leave the host's hooks alone.

mod asker;
mod bounds;
mod entry;
mod evasion;
mod identity;
mod kernel_socket;
mod label;
mod outside;
mod races;
mod reuse;
mod runtimes;
mod socket;
mod spool;
mod steps;
mod time;
mod trace;
mod words;
