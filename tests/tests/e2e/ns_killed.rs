//! Whoever works on a crash is ended at any of his system calls: the crash has its one record, nothing is left, and the next
//! one is handled. The daemon's own steps are in `ns_bad_days`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use upcall_e2e::command::{pause, until};
use upcall_e2e::container::{Container, children, pid_of, runs};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::{CoreDump, Started};
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::tracer::{End, Seen, Tracer};
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, nothing_in, run_rule, script};

const STORE: &str = "store = { ignore_limit = true }";

/// How many of all calls are somebody's last one, evenly among them.
const TRIED: u64 = 24;

/// What is tried of so many calls, by SIGKILL and SIGSEGV in turn.
pub(crate) fn ends(calls: usize) -> Result<impl Iterator<Item = End>> {
    let calls = u64::try_from(calls)?;
    anyhow::ensure!(calls >= TRIED, "only {calls} calls");
    Ok((0..TRIED).map(move |place| End {
        call: Some(1 + place * (calls - 1) / (TRIED - 1)),
        signal: [Signal::SIGKILL, Signal::SIGSEGV][usize::try_from(place % 2).unwrap_or(0)],
    }))
}

fn container(sandbox: &Sandbox) -> Result<Container> {
    Runc::new("web")
        .user_namespace()
        .root(script("/helper", "wc -c"))
        .start(sandbox)
}

/// The records that came since, when there are enough, or for certain no more.
fn since(daemon: &Daemon, known: usize, wanted: usize) -> Result<Vec<Record>> {
    let new = || daemon.records().all().split_off(known);
    let came = until(Duration::from_secs(15), "its record", || {
        (new().len() >= wanted).then_some(())
    });
    came.map_err(|error| anyhow::anyhow!("{error}; the log is {}", daemon.log()))?;
    Ok(new())
}

#[test]
fn a_keeper_a_joiner_or_a_worker_killed_at_any_call_leaves_one_record() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, STORE))?;
    let container = container(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(100_000);
    let handled = |end: End| -> Result<(Seen, Record)> {
        let known = scene.daemon.records().all().len();
        let tracer = Tracer::of_children(scene.daemon.launcher(), end)?;
        dump.start(&scene.sandbox)?.over()?;
        let records = since(&scene.daemon, known, 1).with_context(|| format!("{end:?}"))?;
        let seen = tracer.end()?;
        let [record] = <[Record; 1]>::try_from(records)
            .map_err(|all| anyhow::anyhow!("{end:?}: {} records", all.len()))?;
        Ok((seen, record))
    };
    let (seen, record) = handled(End::never())?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    for end in ends(seen.calls.len())? {
        let known = scene.daemon.records().all().len();
        handled(end)?;
        // The next one is well, whoever is missing.
        let (record, _) = scene
            .dump(&dump)
            .with_context(|| format!("after {end:?}"))?;
        assert_eq!(record.outcome, Outcome::Done, "{end:?}: {record:?}");
        let count = scene.daemon.records().all().len();
        assert_eq!(count, known + 2, "{end:?}");
    }
    drop(container);
    scene.end()
}

/// The first calls, each of them: a launch is taken from a socket there, and nobody else has it then.
#[test]
fn whoever_has_just_taken_a_launch_may_be_killed() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, STORE))?;
    let container = container(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(10_000);
    for call in 1..=40 {
        let end = End {
            call: Some(call),
            signal: Signal::SIGKILL,
        };
        let known = scene.daemon.records().all().len();
        let tracer = Tracer::of_children(scene.daemon.launcher(), end)?;
        dump.start(&scene.sandbox)?.over()?;
        let records = since(&scene.daemon, known, 1).with_context(|| format!("{end:?}"))?;
        tracer.end()?;
        assert_eq!(records.len(), 1, "{end:?}: {records:?}");
    }
    drop(container);
    scene.end()
}

/// Whether a request was sent; the call at which it ended is not made where that was by SIGKILL.
pub(crate) fn asked(seen: &Seen, end: End) -> bool {
    let lost = usize::from(end.signal == Signal::SIGKILL);
    let made = seen.calls.len().saturating_sub(lost);
    let made = seen.calls.get(..made).unwrap_or_default();
    made.contains(&libc::SYS_sendmsg)
}

/// With a daemon that answers, and where nobody is and the shim keeps the core.
#[test]
fn a_shim_killed_at_any_call_leaves_one_record_once_anybody_knows() -> Result<()> {
    needs!(Root, Runc);
    for absent in [false, true] {
        let sandbox = Sandbox::new()?;
        sandbox.rules(&run_rule(r#""/helper""#, STORE))?;
        let container = container(&sandbox)?;
        let dump = CoreDump::of(container.init())?.bytes(100_000);
        let traced = |end: End| -> Result<(Seen, usize)> {
            let daemon = (!absent).then(|| Daemon::start(&sandbox)).transpose()?;
            let started = dump.start_stopped(&sandbox)?;
            let seen = Tracer::of_stopped(started.shim(), end)?.wait()?;
            started.over()?;
            // Whoever works for it may do that to its end.
            if let Some(daemon) = daemon {
                daemon.stop(&sandbox)?;
            }
            let kept = !nothing_in(&sandbox.spool());
            Ok((seen, usize::from(kept)))
        };
        let calls = traced(End::never())?.0.calls.len();
        let mut known = 1;
        for end in std::iter::once(End::never()).chain(ends(calls)?) {
            let (seen, kept) = match end.call {
                None => (Seen::default(), 1), // the first, which only has to be taken in
                Some(_) => traced(end).with_context(|| format!("{end:?}"))?,
            };
            assert_eq!(seen.ended.is_some(), end.call.is_some(), "{end:?}");
            // The next one takes in what lies there, and is well.
            let daemon = Daemon::start(&sandbox)?;
            if end.call.is_some() {
                known += kept.max(usize::from(asked(&seen, end)));
            }
            let place = since(&daemon, 0, known).with_context(|| format!("{end:?}: {seen:?}"));
            let records = place?;
            let emptied = until(Duration::from_secs(5), "an empty spool", || {
                nothing_in(&sandbox.spool()).then_some(())
            });
            emptied.with_context(|| format!("{end:?}"))?;
            assert_eq!(records.len(), known, "{end:?}: {seen:?}: {records:?}");
            let stopped = daemon.stop(&sandbox);
            stopped.with_context(|| format!("after {end:?}: {seen:?}"))?;
        }
        drop(container);
    }
    Ok(())
}

/// A process that not even SIGKILL ends, as one that sleeps uninterruptibly: frozen by cgroup v1, until this is dropped.
struct Held(PathBuf);

impl Held {
    fn new(sandbox: &Sandbox, pid: u32) -> Result<Self> {
        let held =
            Self(Path::new("/sys/fs/cgroup/freezer").join(format!("{}-held", sandbox.tag())));
        std::fs::create_dir(&held.0)?;
        std::fs::write(held.0.join("cgroup.procs"), pid.to_string())?;
        std::fs::write(held.0.join("freezer.state"), "FROZEN")?;
        until(Duration::from_secs(2), "the freezer", || {
            let state = std::fs::read_to_string(held.0.join("freezer.state"));
            (state.ok()? == "FROZEN\n").then_some(())
        })?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(std::fs::write(self.0.join("freezer.state"), "THAWED"));
        let emptied = until(Duration::from_secs(2), "its end", || {
            std::fs::remove_dir(&self.0).ok()
        });
        drop(emptied);
    }
}

/// A helper that runs for long, its container, its shim, its keeper that is held, and the helper's pid.
fn kept_by_one_that_is_held(scene: &Scene) -> Result<(Container, Started, Held, u32)> {
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "exec sleep 1000"))
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let started = dump.start(&scene.sandbox)?;
    let launcher = scene.daemon.launcher();
    let (keeper, helper) = until(Duration::from_secs(5), "the helper", || {
        let keepers = children(launcher).into_iter();
        let mut helpers =
            keepers.flat_map(|keeper| children(keeper).into_iter().map(move |pid| (keeper, pid)));
        helpers.find(|(_, pid)| {
            std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == b"sleep\n")
        })
    })?;
    Ok((
        container,
        started,
        Held::new(&scene.sandbox, keeper)?,
        helper,
    ))
}

#[test]
fn a_launcher_killed_beside_a_keeper_that_cannot_end_is_noticed() -> Result<()> {
    // That one has the launcher's end of the daemon's link.
    needs!(Root, Runc, FreezerV1);
    let scene = Scene::new(&run_rule(r#""/helper""#, "").replace("1s", "60s"))?;
    let (container, started, held, helper) = kept_by_one_that_is_held(&scene)?;
    kill(pid_of(scene.daemon.launcher()), Signal::SIGKILL)?;
    scene.daemon.logs("the launcher is gone")?;
    let record = scene.daemon.records().of(container.init())?;
    assert_eq!(record.outcome, Outcome::Failed, "{record:?}");
    until(Duration::from_secs(5), "the helper's end", || {
        (!runs(helper)).then_some(())
    })?;
    drop(held);
    started.wait()?;
    let Scene { daemon, sandbox } = scene;
    drop(daemon);
    container.reap();
    let daemon = Daemon::start(&sandbox)?;
    assert_eq!(daemon.records().all().len(), 1);
    daemon.stop(&sandbox)
}

#[test]
fn a_helper_that_nobody_watches_any_more_is_ended_by_the_next_daemon() -> Result<()> {
    needs!(Root, Runc, FreezerV1);
    let scene = Scene::new(&run_rule(r#""/helper""#, "").replace("1s", "60s"))?;
    let (container, started, held, helper) = kept_by_one_that_is_held(&scene)?;
    let launcher = scene.daemon.launcher();
    let Scene { daemon, sandbox } = scene;
    daemon.kill()?;
    // While there is a launcher, it is that one's.
    let daemon = Daemon::start(&sandbox)?;
    pause(Duration::from_secs(2));
    assert!(runs(helper) && daemon.records().all().is_empty());
    kill(pid_of(launcher), Signal::SIGKILL)?;
    until(Duration::from_secs(5), "the helper's end", || {
        (!runs(helper)).then_some(())
    })?;
    assert_eq!(
        daemon.records().all().len(),
        0,
        "its keeper may still write"
    );
    drop(held);
    let record = daemon.records().of(container.init())?;
    assert_eq!(record.reason.as_deref(), Some("daemon_down"), "{record:?}");
    started.wait()?;
    container.reap();
    daemon.stop(&sandbox)
}
