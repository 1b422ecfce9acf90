//! What `upcalld-hooks.service` does on the kernel's own hook: the very lines of the shipped unit, told of the sandbox's
//! directories in the place of the system's.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::{command, run};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::{HostHook, standing};
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

const UNIT: &str = include_str!("../../../config/defaults/systemd/upcalld-hooks.service");

/// The one line of the unit with this key and about this hook, as a command.
pub(crate) fn line(sandbox: &Sandbox, key: &str, hook: &str) -> Result<Command> {
    let lines = UNIT.lines().filter_map(|line| line.split_once('='));
    let values: Vec<&str> = lines
        .filter(|(name, value)| *name == key && value.split(' ').any(|word| word == hook))
        .map(|(_, value)| value.trim_start_matches('-'))
        .collect();
    let [value] = values.as_slice() else {
        anyhow::bail!("{key} of {hook}: {values:?}");
    };
    let mut words = value.split_whitespace();
    ensure!(words.next() == Some("/usr/bin/upcallctl"), "{value}");
    let mut line = sandbox.ctl();
    // A service has no more than this.
    line.args(words).env_clear().current_dir("/");
    Ok(line)
}

/// Lets a process crash; returns its pid.
fn crash(sandbox: &Sandbox) -> Result<u32> {
    let mut crash = command(sandbox.path("bin/crash-me"));
    // Where it may leave a core of its own, once the hook is what it was before.
    crash.current_dir(sandbox.root());
    let mut crash = crash.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = crash.id();
    crash.wait()?;
    Ok(pid)
}

fn is_kept(record: &Record, evidence: &str) {
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let process = record.evidence.process.as_deref();
    assert_eq!(process, Some(evidence), "{record:?}");
}

#[test]
fn the_hook_is_in_while_the_unit_is_active() -> Result<()> {
    needs!(HostHooks, Root);
    let hook = HostHook::borrow()?;
    let before = standing()?;
    let sandbox = Sandbox::new()?;
    sandbox.rules("[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\n")?;
    let file = sandbox.hooks().join("core");
    std::fs::remove_file(&file)?;

    // Without a daemon there is nobody to take a crash: the unit fails, and nothing is changed.
    let failed = run(&mut line(&sandbox, "ExecStart", "core")?);
    ensure!(failed.is_err(), "installed without a daemon: {failed:?}");
    assert_eq!(standing()?, before);
    assert!(!file.exists());

    // It has ended when a crash of its own was recorded.
    let daemon = Daemon::start_strict(&sandbox)?;
    run(&mut line(&sandbox, "ExecStart", "core")?)?;
    let ours = standing()?;
    let shim = format!("|{} ", sandbox.libexec().join("core").display());
    assert!(ours.0.starts_with(&shim) && ours.1 == "1024", "{ours:?}");
    let records = daemon.records().all();
    let [own] = records.as_slice() else {
        anyhow::bail!("{records:?}");
    };
    assert_eq!(own.verdict.actions, ["self_test"], "{own:?}");
    is_kept(own, "kernel_pidfd");
    is_kept(&daemon.records().of(crash(&sandbox)?)?, "kernel_pidfd");

    // The daemon goes and comes again; the hook stays, and what crashes meanwhile waits for the next one.
    daemon.stop(&sandbox)?;
    assert_eq!(standing()?, ours);
    let meanwhile = crash(&sandbox)?;
    let daemon = Daemon::start_strict(&sandbox)?;
    assert_eq!(standing()?, ours);
    assert_eq!(daemon.records().of(meanwhile)?.outcome, Outcome::Done);
    is_kept(&daemon.records().of(crash(&sandbox)?)?, "kernel_pidfd");

    // Started again, as systemctl restart would after an upgrade: it is not its own previous value.
    run(&mut line(&sandbox, "ExecStart", "core")?)?;
    assert_eq!(standing()?, ours);

    run(&mut line(&sandbox, "ExecStop", "core")?)?;
    assert_eq!(standing()?, before);
    assert!(!file.exists(), "nothing says that it is in");
    let told = daemon.records().all().len();
    crash(&sandbox).context("a crash that is not ours")?;
    daemon.stop(&sandbox)?;
    hook.put_back()?;
    let after = upcall_e2e::records::Records::at(&sandbox.state()).all();
    assert_eq!(after.len(), told, "{after:?}");
    Ok(())
}
