//! The daemon late, absent, killed, told to end and told to reload: never two readers of a core, and never none.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use upcall_e2e::command::{pause, slowness, until};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::Leader;
use upcall_e2e::leftovers::left_nothing;
use upcall_e2e::needs;
use upcall_e2e::records::{Records, action, said};
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_helpers::wire::Why;
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, nothing_in, run_rule, script, spooled};

#[test]
fn without_a_daemon_the_shim_keeps_the_core() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    let dump = CoreDump::of(container.init())?
        .bytes(3_000_000)
        .word("%e", "a\nb");
    let ended = dump.dump(&sandbox)?;
    assert_eq!((ended.code, ended.taken), (0, true));
    let (core, spooled) = spooled(&sandbox)?;
    assert_eq!(core, dump.core());
    let pid = container.init().to_string().into_bytes();
    assert_eq!((spooled.argv.len(), spooled.argv.first()), (16, Some(&pid)));
    assert_eq!(spooled.argv.get(13).map(Vec::as_slice), Some(&b"a\nb"[..]));
    assert_eq!(spooled.why, Why::Absent);
    // Read at once, and the kernel's pidfd vouches for it.
    let leader = Leader::read(container.init())?;
    let process = &spooled.process;
    assert!(process.proven && process.status.starts_with(b"Name:"));
    assert_eq!(process.namespaces.first(), leader.namespaces.get("user"));
    left_nothing(&sandbox, &[])
}

#[test]
fn a_spool_that_is_full_or_not_roots_own_takes_nothing() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(4 << 20);
    // Over its cap: what fits is kept and no more.
    sandbox.hook(|hook| hook.spool_max = 100_000)?;
    dump.dump(&sandbox)?;
    let (core, _) = spooled(&sandbox)?;
    assert!(core.len() <= 100_000 && dump.core().starts_with(&core));
    assert_eq!(dump.dump(&sandbox)?.code, 1, "full");
    // Somebody else's directory.
    let theirs = sandbox.path("theirs");
    std::fs::create_dir(&theirs)?;
    std::os::unix::fs::chown(&theirs, Some(1000), Some(1000))?;
    sandbox.hook(|hook| hook.spool.clone_from(&theirs))?;
    assert_eq!(dump.dump(&sandbox)?.code, 1, "not root's");
    // A link to one that is.
    std::os::unix::fs::symlink(sandbox.spool(), sandbox.path("link"))?;
    let link = sandbox.path("link");
    sandbox.hook(|hook| hook.spool = link)?;
    assert_eq!(dump.dump(&sandbox)?.code, 1, "a link");
    assert!(nothing_in(&theirs));
    Ok(())
}

#[test]
fn a_late_daemon_finds_the_core_taken_by_the_shim() -> Result<()> {
    needs!(Root, Runc);
    for more in ["", "store = { ignore_limit = true }"] {
        let scene = Scene::new(&run_rule(r#""/helper""#, more))?;
        scene.sandbox.hook(|hook| hook.deadline_ms = 300)?;
        let container = Runc::new("web")
            .user_namespace()
            .root(script("/helper", "wc -c > /tmp/ran"))
            .start(&scene.sandbox)?;
        let dump = CoreDump::of(container.init())?.bytes(3_000_000);
        scene.daemon.halt()?;
        let ended = dump.dump(&scene.sandbox)?;
        assert_eq!((ended.code, ended.taken), (0, true));
        assert_eq!(spooled(&scene.sandbox)?.0, dump.core());
        scene.daemon.signal(Signal::SIGCONT)?;
        let taken = |record: &Record| record.outcome == Outcome::Partial;
        let record = scene.daemon.records().wait("it to be taken in", taken)?;
        assert_eq!(record.reason.as_deref(), Some("late"), "{record:?}");
        assert_eq!(action(&record, "run")?.outcome, Outcome::Missed);
        assert_eq!(scene.kept(&record)?, dump.core());
        assert_eq!(scene.daemon.records().all().len(), 1);
        // One reader: nothing of it at the helper.
        let ran = std::fs::read_to_string(container.root().inside("/tmp/ran")).unwrap_or_default();
        assert!(ran.is_empty() || ran == "0\n", "{ran}");
        scene.end()?;
    }
    Ok(())
}

#[test]
fn a_daemon_that_finds_the_core_taken_when_it_would_begin_begins_nothing() -> Result<()> {
    needs!(Root, Runc);
    for more in ["", "store = { ignore_limit = true }"] {
        let sandbox = Sandbox::new()?;
        sandbox.rules(&run_rule(r#""/helper""#, more))?;
        sandbox.hook(|hook| hook.deadline_ms = 300)?;
        let daemon = Daemon::start_with(&sandbox, |daemon| {
            daemon.args(["--any-peer", "--stop-at", "opened"]);
        })?;
        let container = Runc::new("web")
            .user_namespace()
            .root(script("/helper", "touch /tmp/ran"))
            .start(&sandbox)?;
        let ended = CoreDump::of(container.init())?.dump(&sandbox)?;
        assert_eq!((ended.code, ended.taken), (0, true));
        daemon.stopped()?;
        daemon.signal(Signal::SIGCONT)?;
        let taken = |record: &Record| record.outcome == Outcome::Partial;
        let record = daemon.records().wait("it to be taken in", taken)?;
        assert_eq!(record.reason.as_deref(), Some("late"), "{record:?}");
        assert_eq!(action(&record, "run")?.outcome, Outcome::Missed);
        assert_eq!(daemon.records().all().len(), 1);
        // Not even one that would have got nothing.
        assert!(!container.root().inside("/tmp/ran").exists());
        daemon.stop(&sandbox)?;
    }
    Ok(())
}

#[test]
fn what_runs_when_the_daemon_is_killed_goes_on_and_the_next_one_says_so() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "sleep 0.5; wc -c > /tmp/ran"))
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let started = dump.start(&scene.sandbox)?;
    let open = scene.sandbox.state().join("open");
    let reported = || {
        let record = std::fs::read_dir(&open).ok()?.flatten().next()?;
        // The line of the record, and behind it what its keeper reported: that the helper has started.
        let text = std::fs::read(record.path()).ok()?;
        let end = text.iter().position(|byte| *byte == b'\n')?;
        (text.len() > end + 1).then_some(())
    };
    until(Duration::from_secs(5), "the helper's start", reported)?;
    let Scene { daemon, sandbox } = scene;
    daemon.kill()?;
    assert_eq!(started.wait()?.code, 0);
    let ran = container.root().inside("/tmp/ran");
    until(Duration::from_secs(5), "the helper's end", || {
        std::fs::read_to_string(&ran)
            .ok()
            .filter(|text| text == "262144\n")
    })?;
    pause(Duration::from_millis(300));
    let daemon = Daemon::start(&sandbox)?;
    let record = daemon.records().of(container.init())?;
    assert_eq!(record.reason.as_deref(), Some("daemon_down"), "{record:?}");
    assert_eq!(record.outcome, Outcome::Partial);
    assert_eq!(daemon.records().all().len(), 1);
    daemon.stop(&sandbox)
}

#[test]
fn a_helper_goes_on_while_the_next_daemon_starts() -> Result<()> {
    needs!(Root, Runc);
    let rule = run_rule(r#""/helper""#, "store = { ignore_limit = true }");
    let scene = Scene::new(&rule.replace("1s", "100s"))?;
    // Longer than a daemon takes to start.
    let text = format!(
        "wc -c > /tmp/ran; sleep {}; echo >> /tmp/ran",
        2 * slowness()
    );
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", &text))
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let started = dump.start(&scene.sandbox)?;
    let ran = || std::fs::read_to_string(container.root().inside("/tmp/ran")).unwrap_or_default();
    let patience = Duration::from_secs(10);
    until(patience, "the helper's word", || {
        (ran() == "262144\n").then_some(())
    })?;
    let Scene { daemon, sandbox } = scene;
    daemon.kill()?;
    let daemon = Daemon::start(&sandbox)?;
    // It is neither ended nor said to have ended, and what comes meanwhile is handled.
    assert_eq!(
        (ran().as_str(), daemon.records().all().len()),
        ("262144\n", 0)
    );
    let other = Runc::new("other").user_namespace().start(&sandbox)?;
    assert_eq!(CoreDump::of(other.init())?.dump(&sandbox)?.code, 0);
    let record = daemon.records().of(container.init())?;
    assert_eq!(ran(), "262144\n\n");
    assert_eq!(record.reason.as_deref(), Some("daemon_down"), "{record:?}");
    assert_eq!(record.outcome, Outcome::Partial);
    assert_eq!(action(&record, "run")?.exit_code, Some(0));
    let kept = action(&record, "store")?;
    assert_eq!(kept.size_bytes, Some(dump.core().len() as u64));
    let path = kept.path.as_deref().context("where")?;
    assert_eq!(
        std::fs::metadata(path)?.len(),
        kept.stored_bytes.unwrap_or(0)
    );
    let share = format!("runc/{}-web", sandbox.tag());
    assert_eq!(kept.share.as_deref(), Some(&*share), "{record:?}");
    assert_eq!(started.wait()?.code, 0);
    assert_eq!(daemon.records().all().len(), 2);
    daemon.stop(&sandbox)
}

#[test]
fn what_was_not_begun_when_the_daemon_was_killed_is_the_shims() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    scene.daemon.halt()?;
    let started = dump.start(&scene.sandbox)?;
    pause(Duration::from_millis(200));
    let Scene { daemon, sandbox } = scene;
    daemon.kill()?;
    let ended = started.wait()?;
    assert_eq!((ended.code, ended.taken), (0, true));
    assert_eq!(spooled(&sandbox)?.0, dump.core());
    left_nothing(&sandbox, &[])
}

#[test]
fn a_daemon_that_is_told_to_end_ends_what_it_has_begun() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script(
            "/helper",
            "cat > /dev/null; touch /tmp/here; sleep 0.8; echo done",
        ))
        .start(&scene.sandbox)?;
    let started = CoreDump::of(container.init())?.start(&scene.sandbox)?;
    let here = container.root().inside("/tmp/here");
    until(Duration::from_secs(5), "the helper", || {
        here.exists().then_some(())
    })?;
    let Scene { daemon, sandbox } = scene;
    let records = daemon.records().clone();
    daemon.stop(&sandbox)?;
    assert_eq!(started.wait()?.code, 0);
    let record = records.of(container.init())?;
    assert_eq!(
        (record.outcome, said(&record)?.as_str()),
        (Outcome::Done, "done\n")
    );
    assert!(
        action(&record, "run")?
            .duration_us
            .is_some_and(|took| took > 700_000)
    );
    Ok(())
}

#[test]
fn a_daemon_that_is_told_to_end_at_once_ends_well() -> Result<()> {
    needs!(Root);
    for _ in 0..5 {
        Scene::new("")?.end()?;
    }
    Ok(())
}

#[test]
fn rules_with_a_mistake_are_not_taken_over_and_good_ones_are() -> Result<()> {
    needs!(Root, Runc);
    let deny = |reason: &str| {
        format!(
            "[[rule]]\nupcall = \"core\"\nmatch.container = {{}}\ndeny = {{ reason = \"{reason}\" }}\n"
        )
    };
    let scene = Scene::new(&deny("first"))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let reason = || -> Result<String> { scene.dump(&dump)?.0.message.context("a reason") };
    assert_eq!(reason()?, "first");
    scene
        .sandbox
        .rules(&deny("second").replace("match.container", "match.contaner"))?;
    scene.daemon.signal(Signal::SIGHUP)?;
    scene.daemon.logs("unknown key `match.contaner`")?;
    assert_eq!(reason()?, "first");
    // Neither are those that others may write.
    scene.sandbox.rules(&deny("third"))?;
    let file = scene.sandbox.config().join("rules.d/50-test.toml");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    scene.daemon.signal(Signal::SIGHUP)?;
    scene.daemon.logs("untrusted-file")?;
    assert_eq!(reason()?, "first");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    scene.daemon.signal(Signal::SIGHUP)?;
    until(Duration::from_secs(5), "the third rules", || {
        reason().is_ok_and(|reason| reason == "third").then_some(())
    })?;
    scene.end()
}

#[test]
fn rules_with_a_mistake_do_not_start_a_daemon() -> Result<()> {
    needs!(Root);
    let sandbox = Sandbox::new()?;
    sandbox.rules("[[rule]]\nupcall = \"core\"\nstore = { max_size = \"lots\" }\n")?;
    let error = Daemon::start(&sandbox)
        .err()
        .context("it starts")?
        .to_string();
    assert!(
        error.contains("bad-size") && error.contains("50-test.toml:3"),
        "{error}"
    );
    left_nothing(&sandbox, &[])
}

#[test]
fn two_daemons_in_one_place_are_one_too_many() -> Result<()> {
    needs!(Root);
    let scene = Scene::new("")?;
    let error = Daemon::start(&scene.sandbox)
        .err()
        .context("it starts")?
        .to_string();
    assert!(error.contains("another upcalld runs in"), "{error}");
    scene.end()
}

#[test]
fn two_daemons_side_by_side_have_nothing_to_do_with_each_other() -> Result<()> {
    needs!(Root, Runc);
    let rule = run_rule(r#""/probe""#, "");
    let (one, other) = (Scene::new(&rule)?, Scene::new(&rule)?);
    let container = Runc::new("web").user_namespace().start(&one.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let (record, _) = one.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done);
    assert!(other.ids().is_empty());
    // A container is not its sandbox's: what the kernel says, and the runtime's state, are the host's.
    assert_eq!(other.dump(&dump)?.0.outcome, Outcome::Done);
    assert_eq!(one.ids().len(), 1);
    one.end()?;
    other.end()
}

#[test]
fn without_a_launcher_the_daemon_ends() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/probe""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    nix::sys::signal::kill(
        upcall_e2e::container::pid_of(scene.daemon.launcher()),
        Signal::SIGKILL,
    )?;
    scene.daemon.logs("the launcher is gone")?;
    // Whoever crashes meanwhile is kept by the shim.
    let dump = CoreDump::of(container.init())?;
    let ended = dump.dump(&scene.sandbox)?;
    assert!(ended.taken);
    let Scene { daemon, sandbox } = scene;
    drop(daemon);
    let records = Records::at(&sandbox.state()).all();
    assert!(records.len() == 1 || spooled(&sandbox).is_ok_and(|(core, _)| core == dump.core()));
    Ok(())
}
