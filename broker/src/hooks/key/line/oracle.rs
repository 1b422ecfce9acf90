//! request-key(8) says itself what it would start: started for a trial (`-d`), it executes nothing.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

/// A key as described by keyctl(2), of the description that no line is about in particular.
const DESCRIPTION: &str = "0;0;1f0000;upcalld:which-line";

/// How long it may take, and how much it may say on each of its two ends.
const PATIENCE: Duration = Duration::from_secs(5);
const SAID_MAX: u64 = 64 << 10;

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
    let mut child = Command::new(program)
        .args(["-d", "-l", "-n", "-v", "-D"])
        .arg(format!("{kind};{DESCRIPTION}"))
        .args(["create", "1", "0", "0", "0", "0", "0", "upcalld"])
        .current_dir(config)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let until = Instant::now() + PATIENCE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > until {
            drop(child.kill());
            drop(child.wait());
            return Err(failed(format!("not within {} s", PATIENCE.as_secs())));
        }
        let _ = poll(&mut [], PollTimeout::from(2_u8));
    }
    // It has ended, so what it said is in the pipes; one that says more than they hold has not.
    let mut said = Vec::new();
    let out = child
        .stdout
        .take()
        .map(|out| out.take(SAID_MAX).read_to_end(&mut said));
    let err = child
        .stderr
        .take()
        .map(|err| err.take(SAID_MAX).read_to_end(&mut said));
    for read in [out, err].into_iter().flatten() {
        read.map_err(|error| failed(error.to_string()))?;
    }
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
