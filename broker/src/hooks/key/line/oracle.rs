//! request-key(8) says itself what it would start: started for a trial (`-d`), it executes nothing.

use std::path::Path;
use std::process::{Command, Stdio};

/// A key as described by keyctl(2), of the description that no line is about in particular.
const DESCRIPTION: &str = "0;0;1f0000;upcalld:which-line";

/// Why it does not say.
#[derive(Debug, thiserror::Error)]
#[error("{program} does not say what it starts for {kind}: {why}")]
pub struct OracleError {
    program: String,
    kind: String,
    why: String,
}

/// The command that wins for keys of this type, by the configuration in this directory; `None`: there is none.
#[expect(
    clippy::disallowed_methods,
    reason = "an admin's command that installs; the daemon never does"
)]
pub(super) fn command(
    program: &Path,
    config: &Path,
    kind: &str,
) -> Result<Option<String>, OracleError> {
    let failed = |why: String| OracleError {
        program: program.display().to_string(),
        kind: kind.to_owned(),
        why,
    };
    // -l: the configuration of the working directory; -n: execute nothing; -v: say it.
    let output = Command::new(program)
        .args(["-d", "-l", "-n", "-v", "-D"])
        .arg(format!("{kind};{DESCRIPTION}"))
        .args(["create", "1", "0", "0", "0", "0", "0", "upcalld"])
        .current_dir(config)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let said = [output.stdout, output.stderr].concat();
    // It goes into a file whose commands root starts.
    let said = String::from_utf8(said).map_err(|error| failed(error.to_string()))?;
    said_command(&said).map_err(failed)
}

/// The command in what it said, or its last words where they are about something else.
fn said_command(said: &str) -> Result<Option<String>, String> {
    for line in said.lines() {
        if line.ends_with("No matching action") {
            return Ok(None);
        }
        let command = line.strip_prefix("execute_program('upcalld','");
        if let Some(command) = command.and_then(|rest| rest.strip_suffix("')")) {
            return Ok(Some(command.trim_end().to_owned()));
        }
    }
    Err(said.lines().last().unwrap_or("not a word").to_owned())
}
