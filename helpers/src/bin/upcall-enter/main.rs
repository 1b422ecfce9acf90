//! upcall-enter: the one program of upcalld that starts others.
//!
//! `upcall-enter --launcher` takes [`Launch`](upcall_helpers::wire::Launch) records from the socket that is its
//! standard input. Each is done by a *keeper*, a child of the launcher's, which stays on the host, holds the kernel's
//! pipe, and ends the helper in time; the keeper forks a *joiner*, which enters the container and executes the helper.
//! It decides nothing: what it may do comes in the record, and each step is checked before the next.
//!
//! `upcall-enter --key` does one launch as the child of the shim that the kernel started for a key, because only that
//! process and its children may answer: the same keeper and the same joiner, which takes the authority again inside.
//!
//! It is static and single-threaded, and started before the daemon puts armour on that helpers would inherit.

mod beside;
mod board;
mod cgroup;
mod descriptors;
mod failure;
mod inside;
mod join;
mod keeper;
mod key;
mod label;
mod launcher;
mod plain;
mod relay;
mod reporter;
mod seccomp;
mod status;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let word = arguments.next().unwrap_or_default();
    let done = match (word.to_str(), arguments.next()) {
        (Some("--launcher"), None) => launcher::run(),
        (Some("--key"), None) => key::run(),
        _ => return ExitCode::from(2),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Standard error is nobody's; one word is all that a launcher that cannot start can say.
        Err(failure) => ExitCode::from(u8::try_from(failure.errno as i32).unwrap_or(1)),
    }
}
