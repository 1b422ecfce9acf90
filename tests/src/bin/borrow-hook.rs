//! borrow-hook: takes the host's core hook as a test does, and comes to an end with it: `panic`, or `wait` to be ended
//! from outside. What is in core_pattern then is what the tests named host_hooks look at.

use std::time::Duration;

use anyhow::{Result, ensure};
use upcall_e2e::command::pause;
use upcall_e2e::hook::HostHook;
use upcall_e2e::sandbox::Sandbox;

fn main() -> Result<()> {
    let word = std::env::args().nth(1).unwrap_or_default();
    ensure!(
        ["panic", "wait"].contains(&word.as_str()),
        "usage: borrow-hook panic|wait"
    );
    let hook = HostHook::borrow()?;
    let sandbox = Sandbox::new()?;
    hook.install(&sandbox)?;
    assert_ne!(word, "panic", "as asked for");
    pause(Duration::from_mins(1));
    Ok(())
}
