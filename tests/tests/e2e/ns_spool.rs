//! Cores that came while nobody took them: kept by the shim, taken in by the daemon, one record each, and none lost.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use upcall_e2e::command::{pause, until};
use upcall_e2e::container::Container;
use upcall_e2e::cores;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::{Records, action};
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::{MOUNTED_BY, Sandbox};
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, kept_by_its_shim, nothing_in, run_rule, script, spooled};

/// A sandbox with rules and without a daemon, and a container in it.
fn without_daemon(rules: &str) -> Result<(Sandbox, Container)> {
    let sandbox = Sandbox::new()?;
    sandbox.rules(rules)?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "touch /tmp/ran"))
        .start(&sandbox)?;
    Ok((sandbox, container))
}

/// The one record that the next daemon makes of what is in the spool, which is empty then.
fn taken_in(sandbox: &Sandbox) -> Result<(Daemon, Record)> {
    let daemon = Daemon::start(sandbox)?;
    let record = daemon.records().wait("what was in the spool", |_| true)?;
    until(Duration::from_secs(5), "an empty spool", || {
        nothing_in(&sandbox.spool()).then_some(())
    })?;
    assert_eq!(daemon.records().all().len(), 1);
    Ok((daemon, record))
}

fn kept(sandbox: &Sandbox, record: &Record) -> Result<Vec<u8>> {
    cores::kept(&sandbox.state(), &record.id)
}

#[test]
fn a_core_of_when_the_daemon_was_down_is_kept_by_the_rule_of_its_container() -> Result<()> {
    needs!(Root, Runc);
    let (sandbox, container) = without_daemon(&run_rule(r#""/helper""#, ""))?;
    let dump = CoreDump::of(container.init())?.bytes(3_000_000);
    dump.dump(&sandbox)?;
    let (_, facts) = spooled(&sandbox)?;
    let (daemon, record) = taken_in(&sandbox)?;
    assert_eq!(record.id.as_bytes(), facts.id);
    assert_eq!(record.outcome, Outcome::Partial, "{record:?}");
    assert_eq!(record.reason.as_deref(), Some("daemon_down"));
    let run = action(&record, "run")?;
    assert_eq!(
        (run.outcome, run.message.as_deref()),
        (Outcome::Missed, Some("missed: daemon was down"))
    );
    assert_eq!(action(&record, "store")?.truncated, Some(false));
    assert_eq!(kept(&sandbox, &record)?, dump.core());
    let found = record.container.context("its container")?;
    assert_eq!(
        (found.leader_pid, found.runtime.as_str()),
        (container.init(), "runc")
    );
    assert_eq!(record.evidence.process.as_deref(), Some("kernel_pidfd"));
    assert_eq!(record.process.uid_inside, Some(0));
    assert!(
        !container.root().inside("/tmp/ran").exists(),
        "nothing runs for it"
    );
    daemon.stop(&sandbox)
}

#[test]
fn a_core_whose_container_is_gone_is_kept_whatever_no_rule_says() -> Result<()> {
    needs!(Root, Runc);
    let (sandbox, container) = without_daemon(&run_rule(r#""/helper""#, ""))?;
    let dump = CoreDump::of(container.init())?;
    dump.dump(&sandbox)?;
    drop(container);
    let (daemon, record) = taken_in(&sandbox)?;
    assert!(record.container.is_none() && record.verdict.rule.is_none());
    assert_eq!(kept(&sandbox, &record)?, dump.core());
    let message = record.message.unwrap_or_default();
    assert!(message.contains("nobody can prove"), "{message}");
    daemon.stop(&sandbox)
}

#[test]
fn a_rule_that_denies_denies_afterwards_too() -> Result<()> {
    needs!(Root, Runc);
    let rule =
        "[[rule]]\nupcall = \"core\"\nmatch.container = {}\ndeny = { reason = \"no cores\" }\n";
    let (sandbox, container) = without_daemon(rule)?;
    CoreDump::of(container.init())?.dump(&sandbox)?;
    let (daemon, record) = taken_in(&sandbox)?;
    assert_eq!(
        (record.outcome, record.message.as_deref()),
        (Outcome::Refused, Some("no cores"))
    );
    assert!(nothing_in(&sandbox.state().join("cores")));
    daemon.stop(&sandbox)
}

#[test]
fn a_core_for_which_the_spool_had_no_room_has_its_record() -> Result<()> {
    needs!(Root, Runc);
    let (sandbox, container) = without_daemon(&run_rule(r#""/helper""#, ""))?;
    sandbox.hook(|hook| hook.spool_max = 0)?;
    let ended = CoreDump::of(container.init())?.dump(&sandbox)?;
    assert_eq!(ended.code, 1);
    let (daemon, record) = taken_in(&sandbox)?;
    assert_eq!(record.outcome, Outcome::Lost, "{record:?}");
    assert_eq!(
        action(&record, "store")?.reason.as_deref(),
        Some("disk_floor")
    );
    daemon.stop(&sandbox)?;
    // What fits is kept, and said to be cut.
    sandbox.hook(|hook| hook.spool_max = 100_000)?;
    let dump = CoreDump::of(container.init())?;
    dump.dump(&sandbox)?;
    let daemon = Daemon::start(&sandbox)?;
    let record = daemon
        .records()
        .wait("the second", |other| other.id != record.id)?;
    assert_eq!(record.outcome, Outcome::Partial);
    let store = action(&record, "store")?;
    assert_eq!(
        (store.truncated, store.stored_bytes),
        (Some(true), Some(100_000))
    );
    assert_eq!(
        kept(&sandbox, &record)?,
        dump.core().get(..100_000).unwrap_or_default()
    );
    daemon.stop(&sandbox)
}

#[test]
fn a_shim_that_is_killed_while_it_writes_leaves_what_it_has_written() -> Result<()> {
    needs!(Root, Runc);
    let (sandbox, container) = without_daemon(&run_rule(r#""/helper""#, ""))?;
    let dump = CoreDump::of(container.init())?
        .bytes(2 << 20)
        .slowly(Duration::from_millis(40));
    let started = dump.start(&sandbox)?;
    let part = || {
        let mut names = std::fs::read_dir(sandbox.spool()).ok()?.flatten();
        let part = names.find(|entry| entry.path().extension() == Some("part".as_ref()))?;
        (part.metadata().ok()?.len() > 200_000).then_some(())
    };
    until(Duration::from_secs(5), "a part of the core", part)?;
    // While the shim is at work it is left alone.
    let daemon = Daemon::start(&sandbox)?;
    pause(Duration::from_millis(300));
    assert!(daemon.records().all().is_empty());
    started.kill()?;
    let record = daemon.records().wait("the part", |_| true)?;
    assert_eq!(record.outcome, Outcome::Partial, "{record:?}");
    assert_eq!(
        action(&record, "store")?.reason.as_deref(),
        Some("shim_lost")
    );
    let core = kept(&sandbox, &record)?;
    assert!(core.len() > 200_000 && dump.core().starts_with(&core));
    assert!(nothing_in(&sandbox.spool()));
    daemon.stop(&sandbox)
}

#[test]
fn what_a_busy_daemon_left_to_the_shim_it_takes_in_soon() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::with_settings(
        "limits.concurrent = 1",
        &run_rule(r#""/helper""#, "").replace("1s", "20s"),
    )?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "cat > /dev/null; sleep 3"))
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let first = dump.start(&scene.sandbox)?;
    pause(Duration::from_millis(300));
    let second = CoreDump::of(container.init())?.bytes(100_000);
    second.dump(&scene.sandbox)?;
    let busy = |record: &Record| record.reason.as_deref() == Some("handed_back");
    let record = scene.daemon.records().wait("the second", busy)?;
    assert_eq!(scene.kept(&record)?, second.core());
    assert_eq!(first.wait()?.code, 0);
    assert_eq!(scene.records(2, Duration::from_secs(5))?.len(), 2);
    scene.end()
}

/// The daemon stopped at a step of this, and killed there.
fn killed_at(sandbox: &Sandbox, step: &str) -> Result<()> {
    let daemon = Daemon::start_with(sandbox, |daemon| {
        daemon.args(["--any-peer", "--stop-at", step]);
    })?;
    daemon.stopped()?;
    daemon.kill()
}

#[test]
fn a_daemon_that_is_killed_while_it_takes_in_loses_nothing_and_doubles_nothing() -> Result<()> {
    needs!(Root, Runc);
    for step in ["kept", "recorded"] {
        let (sandbox, container) = without_daemon(&run_rule(r#""/helper""#, ""))?;
        let dump = CoreDump::of(container.init())?;
        dump.dump(&sandbox)?;
        killed_at(&sandbox, step)?;
        killed_at(&sandbox, step)?;
        let (daemon, record) = taken_in(&sandbox)?;
        assert_eq!(record.outcome, Outcome::Partial, "{step}: {record:?}");
        assert_eq!(kept(&sandbox, &record)?, dump.core(), "{step}");
        assert_eq!(std::fs::read_dir(sandbox.state().join("cores"))?.count(), 1);
        daemon.stop(&sandbox)?;
    }
    Ok(())
}

/// All records of two crashes, the second of which is refused when its shim has kept the core.
fn refused_too_late(rules: &str) -> Result<Vec<Record>> {
    let (sandbox, container) = without_daemon(rules)?;
    sandbox.hook(|hook| hook.deadline_ms = 1500)?;
    let daemon = Daemon::start_with(&sandbox, |daemon| {
        daemon.args(["--any-peer", "--stop-at", "examined"]);
    })?;
    let dump = CoreDump::of(container.init())?;
    let first = dump.start(&sandbox)?;
    daemon.stopped()?;
    daemon.signal(Signal::SIGCONT)?;
    first.over()?;
    daemon.records().wait("the first", |_| true)?;
    kept_by_its_shim(&daemon, &sandbox, &dump)?;
    // With what it has put together and not written yet.
    daemon.stop(&sandbox)?;
    let records = Records::at(&sandbox.state()).all();
    for record in &records {
        assert_eq!(record.count, 1, "{record:?}");
    }
    Ok(records)
}

#[test]
fn what_is_refused_when_its_shim_has_kept_it_is_one_record() -> Result<()> {
    needs!(Root, Runc);
    let kept =
        "[[rule]]\nupcall = \"core\"\nmatch.container = {}\nstore = { ignore_limit = true }\n";
    let of = |records: &[Record], outcome| {
        records
            .iter()
            .filter(|record| record.outcome == outcome)
            .count()
    };
    let records = refused_too_late(&format!("{kept}limit = {{ rate = \"1/h\" }}\n"))?;
    assert_eq!(
        (records.len(), of(&records, Outcome::Done)),
        (2, 2),
        "{records:?}"
    );
    let records = refused_too_late("[[rule]]\nupcall = \"core\"\ndeny = { reason = \"no\" }\n")?;
    assert_eq!(
        (records.len(), of(&records, Outcome::Refused)),
        (2, 2),
        "{records:?}"
    );
    Ok(())
}

#[test]
fn what_was_found_out_before_the_daemon_was_killed_is_not_forgotten() -> Result<()> {
    needs!(Root, Runc);
    let (sandbox, container) = without_daemon(&run_rule(r#""/helper""#, ""))?;
    sandbox.hook(|hook| hook.deadline_ms = 3000)?;
    let dump = CoreDump::of(container.init())?;
    let daemon = Daemon::start_with(&sandbox, |daemon| {
        daemon.args(["--any-peer", "--stop-at", "opened"]);
    })?;
    let started = dump.start(&sandbox)?;
    daemon.stopped()?;
    daemon.kill()?;
    assert!(started.wait()?.taken);
    let (_, facts) = spooled(&sandbox)?;
    drop(container);
    // Its container is gone; that it lived there stands in the record that was open.
    let (daemon, record) = taken_in(&sandbox)?;
    assert_eq!(record.id.as_bytes(), facts.id);
    assert!(
        record.container.is_some() && record.verdict.rule.is_some(),
        "{record:?}"
    );
    assert_eq!(kept(&sandbox, &record)?, dump.core());
    daemon.stop(&sandbox)
}

#[test]
fn a_store_on_another_file_system_gets_a_copy_and_one_without_room_gets_it_later() -> Result<()> {
    use nix::mount::{MsFlags, mount};
    needs!(Root, Runc);
    let (sandbox, container) = without_daemon(&run_rule(r#""/helper""#, ""))?;
    let dump = CoreDump::of(container.init())?.bytes(3_000_000);
    dump.dump(&sandbox)?;
    let cores = sandbox.state().join("cores");
    std::fs::create_dir_all(&cores)?;
    // Below the sandbox's own mount, with which it goes.
    let sized = |flags, size: &str| {
        let options = format!("mode=700,size={size}");
        mount(
            Some(MOUNTED_BY),
            &cores,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
    };
    sized(MsFlags::empty(), "1m")?;
    let daemon = Daemon::start(&sandbox)?;
    daemon.logs("stays in the spool")?;
    assert!(daemon.log().contains("store.keep_free"));
    assert_eq!(spooled(&sandbox)?.0, dump.core());
    assert!(daemon.records().all().is_empty() && nothing_in(&cores));
    daemon.stop(&sandbox)?;
    sized(MsFlags::MS_REMOUNT, "8m")?;
    let (daemon, record) = taken_in(&sandbox)?;
    assert_eq!(kept(&sandbox, &record)?, dump.core());
    daemon.signal(Signal::SIGHUP)?;
    daemon.stop(&sandbox)
}

#[test]
fn a_hundred_of_them_are_a_hundred_records() -> Result<()> {
    needs!(Root, Runc);
    let (sandbox, container) = without_daemon(&run_rule(r#""/helper""#, ""))?;
    let dump = CoreDump::of(container.init())?.bytes(4096);
    for _ in 0..100 {
        dump.dump(&sandbox)?;
    }
    let daemon = Daemon::start(&sandbox)?;
    until(Duration::from_secs(20), "an empty spool", || {
        nothing_in(&sandbox.spool()).then_some(())
    })?;
    let records = Records::at(&sandbox.state()).all();
    assert_eq!(records.len(), 100);
    assert_eq!(
        std::fs::read_dir(sandbox.state().join("cores"))?.count(),
        100
    );
    daemon.stop(&sandbox)
}
