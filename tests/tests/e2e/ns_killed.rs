//! Whoever works on a crash is ended at any of his system calls: the crash has its one record, nothing is left, and the next
//! one is handled. The daemon's own steps are in `ns_bad_days`.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use upcall_e2e::command::until;
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
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
