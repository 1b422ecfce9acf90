//! Attacks by a number that is another's by now (CVE-2025-4598): root's process is gone, and in its place, under its
//! number, stands a process of the attacker's container, who would like to have the core.

use std::cell::Cell;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use upcall_e2e::cgroup::mounted;
use upcall_e2e::command::{command, slowness, until};
use upcall_e2e::container::{Container, pid_of, runs, waits};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::steps::Paused;
use upcalld::store::record::Record;

use super::steps::LONG;
use crate::canary::{ANYWHERE, canary, host_only, sang};
use crate::scene::Scene;

/// A process of the host's that waits to crash.
struct Victim(Child);

impl Victim {
    fn start(sandbox: &Sandbox) -> Result<Self> {
        let mut victim = command(sandbox.path("bin/crash-me"));
        let victim = Self(victim.arg("--wait").stdin(Stdio::null()).spawn()?);
        until(Duration::from_secs(5), "a victim", || {
            waits(victim.0.id()).then_some(())
        })?;
        Ok(victim)
    }

    /// Gone and reaped: its number is free.
    fn end(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// Who stands in its place.
struct Impostor {
    pid: u32,
    parent: Child,
}

impl Impostor {
    /// In the container's namespaces, with its root's ids, and in all of its cgroups.
    fn stand(sandbox: &Sandbox, container: &Container, pid: u32) -> Result<Self> {
        let mut impostor = command(sandbox.path("bin/crash-me"));
        impostor.arg0("hostile").arg("impostor");
        impostor.args([pid, container.init()].map(|number| number.to_string()));
        let parent = impostor.stdin(Stdio::null()).spawn()?;
        let impostor = Self { pid, parent };
        until(Duration::from_secs(5), "an impostor", || {
            waits(pid).then_some(())
        })?;
        for line in &container.leader()?.cgroup {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next().unwrap_or("?"), parts.next().unwrap_or("/"));
            if let Some(mount) = mounted(controllers) {
                let cgroup = mount.join(path.trim_start_matches('/'));
                std::fs::write(cgroup.join("cgroup.procs"), pid.to_string())?;
            }
        }
        Ok(impostor)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = kill(pid_of(self.pid), Signal::SIGKILL);
        drop(self.parent.wait());
    }
}

fn mallory(sandbox: &Sandbox) -> Result<Container> {
    Runc::new("mallory")
        .user_namespace()
        .root(canary())
        .start(sandbox)
}

#[test]
fn the_number_of_a_dead_process_is_not_its_identity() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    let container = mallory(&scene.sandbox)?;
    let mut victim = Victim::start(&scene.sandbox)?;
    let pid = victim.0.id();
    let dump = CoreDump::of(pid)?;
    let before = scene.ids();
    // What was asked before the exchange is answered after it.
    scene.daemon.halt()?;
    let asked = dump.start(&scene.sandbox)?;
    victim.end()?;
    let impostor = Impostor::stand(&scene.sandbox, &container, pid)?;
    scene.daemon.signal(Signal::SIGCONT)?;
    asked.wait()?;
    let record = scene.daemon.records().of(pid)?;
    lost(&scene, &record, &dump)?;
    // And what is asked after it: by a pidfd of the dead, and without one.
    let without = dump.clone().without_pidfd();
    for dump in [
        dump.clone(),
        dump.word("%d", "2"),
        without.clone(),
        without.word("%d", "2"),
    ] {
        let (record, _) = scene.dump(&dump)?;
        lost(&scene, &record, &dump)?;
    }
    assert_eq!(scene.ids().difference(&before).count(), 5);
    assert!(!sang(container.root()));
    // Whoever believed the number would be in Mallory's container: so would this, by a pidfd of the impostor's own, but
    // for the capabilities that he brought from outside.
    let (record, _) = scene.dump(&CoreDump::of(pid)?)?;
    let found = record.container.as_ref().map(|found| found.leader_pid);
    assert_eq!(found, Some(container.init()), "{record:?}");
    assert_eq!(record.verdict.host_only.as_deref(), Some("from_outside"));
    drop(impostor);
    scene.end()
}

/// Nobody's, and nothing of whoever has the number now.
fn lost(scene: &Scene, record: &Record, dump: &CoreDump) -> Result<()> {
    host_only(scene, record, dump, "identity_lost")?;
    assert!(record.container.is_none(), "{record:?}");
    assert!(record.process.cgroup.is_none() && record.process.namespaces.is_empty());
    Ok(())
}

#[test]
fn whoever_takes_the_number_after_the_look_gets_nothing() -> Result<()> {
    needs!(Root, Runc);
    for step in ["examined", "opened"] {
        let sandbox = Sandbox::new()?;
        sandbox.rules(ANYWHERE)?;
        let alice = Runc::new("alice").user_namespace().root(canary());
        let (alice, mallory) = (alice.start(&sandbox)?, mallory(&sandbox)?);
        let daemon = Daemon::start_with(&sandbox, |daemon| {
            daemon.args(["--any-peer", "--stop-at", step]);
        })?;
        let pid = alice.victim(&[])?;
        let asked = CoreDump::of(pid)?.start(&sandbox)?;
        daemon.stopped()?;
        alice.end_of(pid)?;
        let impostor = Impostor::stand(&sandbox, &mallory, pid)?;
        daemon.signal(Signal::SIGCONT)?;
        asked.wait()?;
        let record = daemon.records().of(pid)?;
        // It was Alice's, and is handled with her or nowhere.
        let found = record.container.as_ref().map(|found| found.leader_pid);
        assert_eq!(found, Some(alice.init()), "{step}: {record:?}");
        assert!(!sang(mallory.root()), "{step}");
        assert!(runs(pid));
        drop(impostor);
        daemon.stop(&sandbox)?;
    }
    Ok(())
}

/// The daemon is paused at every `stride`th side of its system calls while it handles a crash of `victim`'s; how many
/// there were.
fn at_every_step<V>(
    scene: &Scene,
    mallory: &Container,
    stride: usize,
    mut victim: impl FnMut() -> Result<(V, u32)>,
    mut end: impl FnMut(V, u32) -> Result<()>,
    check: impl Fn(usize, &Record),
) -> Result<usize> {
    let begun = Instant::now();
    let mut step = 1;
    loop {
        let (held, pid) = victim()?;
        let dump = CoreDump::of(pid)?.bytes(1000);
        let before = scene.ids();
        let daemon = scene.daemon.pid();
        let (paused, asked) = Paused::at(daemon, step, || dump.start(&scene.sandbox))?;
        let over = paused.is_none();
        end(held, pid)?;
        let impostor = Impostor::stand(&scene.sandbox, mallory, pid)?;
        paused.map_or(Ok(()), Paused::end)?;
        asked.wait()?;
        let records = scene.daemon.records();
        let record = records.wait("this dump", |record| !before.contains(&record.id))?;
        assert!(!sang(mallory.root()), "step {step}: {record:?}");
        let found = record.container.as_ref().map(|found| found.leader_pid);
        assert_ne!(found, Some(mallory.init()), "step {step}: {record:?}");
        check(step, &record);
        drop(impostor);
        if over {
            return Ok(step);
        }
        step += if begun.elapsed() < LONG { stride } else { 50 };
    }
}

#[test]
fn whoever_takes_the_number_at_any_step_gets_nothing() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    let mallory = mallory(&scene.sandbox)?;
    // Of the host's root: Mallory would like to have what it had in memory.
    let victim = || {
        let victim = Victim::start(&scene.sandbox)?;
        let pid = victim.0.id();
        Ok((victim, pid))
    };
    let end = |mut victim: Victim, _| victim.end();
    let (lost, known) = (Cell::new(0), Cell::new(0));
    let steps = at_every_step(&scene, &mallory, 2, victim, end, |step, record| {
        assert!(record.container.is_none(), "step {step}: {record:?}");
        let counted = match record.verdict.host_only.as_deref() {
            Some("identity_lost") => &lost,
            _ => &known,
        };
        counted.set(counted.get() + 1);
    })?;
    // Before the last look, and behind it; a slow machine has no time for as many.
    let few = 10 / usize::try_from(slowness())?;
    let both = lost.get() > few && known.get() > few;
    assert!(both, "{lost:?}, {known:?}");
    assert!(steps > 200, "{steps} steps");
    // Of Alice's: it is handled with her, or nowhere.
    let alice = Runc::new("alice").user_namespace().root(canary());
    let alice = alice.start(&scene.sandbox)?;
    let victim = || Ok(((), alice.victim(&[])?));
    let end = |(), pid| alice.end_of(pid);
    let steps = at_every_step(&scene, &mallory, 23, victim, end, |step, record| {
        let found = record.container.as_ref().map(|found| found.leader_pid);
        assert!(
            found.is_none_or(|found| found == alice.init()),
            "step {step}: {record:?}"
        );
    })?;
    assert!(steps > 200, "{steps} steps");
    scene.end()
}
