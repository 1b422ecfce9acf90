//! Commands of the host that are run to their end, and waiting for things to come true.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How many times longer than here everything may take: more than once on machines that are slow, as emulated ones are.
pub const SLOW: &str = "UPCALLD_TEST_SLOW";

/// How many times longer everything may take on this machine; 1 at least.
pub fn slowness() -> u32 {
    let times = std::env::var(SLOW).ok();
    let times = times.and_then(|times| times.parse().ok());
    times.unwrap_or(1).max(1)
}

/// What takes so long at most, on this machine.
pub fn at_most(time: Duration) -> Duration {
    time.saturating_mul(slowness())
}

/// A command that is not started yet.
#[expect(
    clippy::disallowed_methods,
    reason = "the rule is the daemon's; a test starts what it tests"
)]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Sleeps.
#[expect(
    clippy::disallowed_methods,
    reason = "the rule is for the daemon's event loop"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// It cannot be started, or fails; then with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whose descendants live on with its standard output and error: those go to `log`.
///
/// # Errors
/// As [`run`].
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("{}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("{command:?}"))?;
    if !status.success() {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        bail!("{command:?}: {status}: {}", said.trim());
    }
    Ok(())
}

/// Asks again and again until there is an answer, or somebody interrupts ([`crate::sys::note_interrupts`]).
///
/// # Errors
/// There was none within `patience`, or [`at_most`] of it; the error says what was waited for.
pub fn until<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    let patience = at_most(patience);
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if crate::sys::interrupted() {
            bail!("interrupted");
        }
        if start.elapsed() > patience {
            bail!("waited {patience:?} in vain for {what}");
        }
        pause(LOOK);
    }
}
