//! The service manager and the journal hang or crash, on a machine with systemd: nobody waits for them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use upcall_e2e::command::until;
use upcall_e2e::container::pid_of;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

use crate::ns_machine::{Scene, package};

const PATIENCE: Duration = Duration::from_secs(20);

/// Processes of the host's that stand still, as systemd does when it has crashed; they go on when this is dropped.
struct Still(Vec<u32>);

impl Still {
    /// Of the machine's processes with these numbers.
    fn stand(scene: &Scene, numbers: &[u32]) -> Result<Self> {
        let mut still = Self(Vec::new());
        for number in numbers {
            let pid = scene.machine.hosts_number(*number)?;
            kill(pid_of(pid), Signal::SIGSTOP)?;
            still.0.push(pid);
        }
        Ok(still)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(pid_of(*pid), Signal::SIGCONT);
        }
    }
}

fn is_kept(record: &Record) -> Result<()> {
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(
        record.evidence.process.as_deref(),
        Some("kernel_pidfd"),
        "{record:?}"
    );
    assert!(record.container.is_none(), "{record:?}");
    assert_eq!(action(record, "store")?.size_bytes, Some(300_000));
    Ok(())
}

#[test]
fn the_first_process_and_the_journal_hang_and_crash() -> Result<()> {
    needs!(Root, Machine);
    let sandbox = Sandbox::new()?;
    let package = package(&sandbox, "0.1.0")?;
    let scene = Scene::new(&sandbox)?;
    scene.install(&package)?;
    scene.is("upcalld.service", "active")?;
    let number = |unit: &str| -> Result<u32> { Ok(scene.property(unit, "MainPID")?.parse()?) };
    let (journal, daemon) = (
        number("systemd-journald.service")?,
        number("upcalld.service")?,
    );

    // Both hang and are what crashes, and so do others.
    let still = Still::stand(&scene, &[1, journal])?;
    for pid in [1, journal] {
        is_kept(&scene.crash_of(pid, 0)?)?;
    }
    scene.crash(5, || Ok(()))?;

    // upcalld is killed, and nobody is there to start it: the shim keeps what comes.
    scene.machine.run(&["kill", "-KILL", &daemon.to_string()])?;
    scene.crash(3, || {
        let kept = || {
            let spooled = scene.sh("ls /var/lib/upcalld/spool | wc -l").ok()?;
            (spooled.trim() != "0").then_some(())
        };
        until(PATIENCE, "something in the spool", kept)?;
        drop(still);
        Ok(())
    })?;
    scene.is("upcalld.service", "active")?;
    ensure!(number("upcalld.service")? != daemon, "another one");

    // The journal crashes for real, and its successor is told what follows.
    let journal = number("systemd-journald.service")?;
    scene
        .machine
        .run(&["kill", "-SEGV", &journal.to_string()])?;
    let other = || {
        let now = number("systemd-journald.service").ok()?;
        (now != journal && now != 0).then_some(now)
    };
    let journal = until(PATIENCE, "another journal", other)?;
    let record = scene.crash_of(journal, 0).context("the last")?;
    let line = format!("journalctl -o cat UPCALL_ID={}", record.id);
    until(PATIENCE, "a line about it", || {
        let said = scene.sh(&line).ok()?;
        (!said.trim().is_empty()).then_some(())
    })
}
