//! Dumps that do not come to their end: somebody is killed or goes away in the middle.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use upcall_e2e::command::{run, until};
use upcall_e2e::container::{Container, pid_of, runs};
use upcall_e2e::gdb::Crash;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcalld::store::record::Outcome;

use super::{MODE, needs};
use crate::host_scene::HostScene;
use crate::scene::nothing_in;

const STORE: &str = "[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\n";

/// More than the kernel writes while a worker is looked for.
const MUCH: &str = "--mib=400";

fn gone(pid: u32) -> Result<()> {
    until(Duration::from_secs(5), "its end", || {
        (!runs(pid)).then_some(())
    })
}

fn start(scene: &HostScene) -> Result<Container> {
    Runc::new("web").user_namespace().start(&scene.sandbox)
}

/// What was kept of it is marked, and is enough to see where it crashed.
fn begun(scene: &HostScene, init: u32, pid: u32) -> Result<()> {
    let record = scene.record(pid)?;
    let found = record.container.as_ref().map(|found| found.leader_pid);
    assert_eq!(found, Some(init), "{record:?}");
    let store = action(&record, "store")?;
    let stored = store.stored_bytes.unwrap_or(0);
    assert!(stored > 0 && stored < 400 << 20, "{stored}");
    assert_eq!(store.truncated, Some(true), "{record:?}");
    assert_eq!(
        (record.outcome, record.reason.as_deref()),
        (Outcome::Partial, Some("killed"))
    );
    let program = scene.sandbox.path("bin/crash-me");
    // As anybody has it who wants to look at it.
    let core = scene.sandbox.path("core");
    let mut dump = scene.sandbox.ctl();
    run(dump.args(["cores", "dump", &record.id, "-o"]).arg(&core))?;
    let crash = Crash::open(&program, &core)?;
    assert_eq!(crash.signal, "SIGSEGV", "{}", crash.said);
    assert_eq!(crash.functions, ["crash_me::sys::crash"], "{}", crash.said);
    assert_eq!(scene.daemon.records().all().len(), 1);
    Ok(())
}

#[test]
fn a_process_killed_in_the_middle_leaves_what_opens_in_gdb() -> Result<()> {
    needs!(HostHooks, Root, Runc, Gdb);
    let scene = HostScene::by(MODE, STORE)?;
    let container = start(&scene)?;
    let victim = container.victim(&[MUCH])?;
    container.crash(victim)?;
    let worker = scene.stopped_worker()?;
    kill(pid_of(victim), Signal::SIGKILL)?;
    kill(pid_of(worker), Signal::SIGCONT)?;
    gone(victim)?;
    begun(&scene, container.init(), victim)?;
    drop(container);
    scene.end()
}

#[test]
fn a_container_removed_in_the_middle_leaves_what_opens_in_gdb() -> Result<()> {
    needs!(HostHooks, Root, Runc, Gdb);
    let scene = HostScene::by(MODE, STORE)?;
    let container = start(&scene)?;
    let victim = container.victim(&[MUCH])?;
    container.crash(victim)?;
    let worker = scene.stopped_worker()?;
    container.kill()?;
    container.ended()?;
    assert!(!runs(victim));
    let init = container.init();
    drop(container);
    kill(pid_of(worker), Signal::SIGCONT)?;
    begun(&scene, init, victim)?;
    scene.end()
}

#[test]
fn a_worker_killed_in_the_middle_lets_the_process_go_and_leaves_nothing() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::by(MODE, STORE)?;
    let container = start(&scene)?;
    let victim = container.victim(&[MUCH])?;
    container.crash(victim)?;
    let worker = scene.stopped_worker()?;
    kill(pid_of(worker), Signal::SIGKILL)?;
    gone(victim)?;
    let record = scene.record(victim)?;
    assert_eq!(record.outcome, Outcome::Failed, "{record:?}");
    assert_eq!(record.reason.as_deref(), Some("helper_signal"));
    assert!(nothing_in(&scene.sandbox.state().join("cores")));
    assert!(nothing_in(&scene.sandbox.spool()));
    // And the next one is kept.
    let next = container.victim(&[])?;
    container.crash(next)?;
    let record = scene.record(next)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    scene.core(&record)?;
    drop(container);
    scene.end()
}

#[test]
fn a_hook_that_is_taken_out_during_a_crash_costs_it_nothing() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::by(MODE, STORE)?;
    let container = start(&scene)?;
    let pattern = || std::fs::read_to_string("/proc/sys/kernel/core_pattern");
    let ours = pattern()?;
    let victim = container.victim(&[MUCH])?;
    container.crash(victim)?;
    let worker = scene.stopped_worker()?;
    run(scene.sandbox.ctl().args(["uninstall", "core"]))?;
    assert_ne!(pattern()?, ours);
    assert!(!scene.sandbox.hooks().join("core").exists());
    kill(pid_of(worker), Signal::SIGCONT)?;
    let record = scene.record(victim)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert!(scene.core(&record)?.len() > 400 << 20);
    gone(victim)?;
    assert_eq!(scene.daemon.records().all().len(), 1);
    drop(container);
    scene.end()
}
