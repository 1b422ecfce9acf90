//! A tenant's attacks, one word each.

use std::process::ExitCode;

/// Does what the first word says.
pub(crate) fn run(words: &[String]) -> ExitCode {
    ExitCode::from(if words.is_empty() { 2 } else { 3 })
}
