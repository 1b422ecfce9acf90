//! Attacks on time: helpers, file servers, cores and containers that never answer, never come, or end in between.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use upcall_e2e::cgroup;
use upcall_e2e::command::{at_most, pause, until};
use upcall_e2e::container::{Container, runs, waits};
use upcall_e2e::fuse::{Fuse, Silent};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, run_rule, script};

/// How long a crash of this container takes to be handled.
fn handled(scene: &Scene, container: &Container) -> Result<Duration> {
    let start = Instant::now();
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    Ok(start.elapsed())
}

/// A container whose helper is at the mercy of a silent file server at /fuse, and one beside it that has nothing to do
/// with it; `*-bad` runs `command`.
fn beside_a_silent_server(
    command: &str,
    silent: Silent,
) -> Result<(Scene, Container, Container, Fuse)> {
    let both = "match.container = { runtime = \"runc\" }";
    let bad = "match.container = { runtime = \"runc\", name = \"*-bad\" }";
    let rules = run_rule(command, "").replace(both, bad) + &run_rule(r#""/probe""#, "");
    let scene = Scene::new(&rules)?;
    let good = Runc::new("good").user_namespace().start(&scene.sandbox)?;
    let server = Rc::new(RefCell::new(None));
    let mounted = Rc::clone(&server);
    let bad = Runc::new("bad")
        .user_namespace()
        .root(move |root| {
            let at = root.inside("/fuse");
            std::fs::create_dir(&at)?;
            mounted.replace(Some(Fuse::mount(&at, silent)?));
            Ok(())
        })
        .start(&scene.sandbox)?;
    let server = server.take().context("a server")?;
    Ok((scene, good, bad, server))
}

#[test]
fn a_helper_on_a_file_server_that_does_not_answer_holds_up_nobody_else() -> Result<()> {
    needs!(Root, Runc, Fuse);
    let (scene, good, bad, server) = beside_a_silent_server(r#""/fuse/helper""#, Silent::Lookups)?;
    let dump = CoreDump::of(bad.init())?;
    let started = dump.start(&scene.sandbox)?;
    pause(Duration::from_millis(200));
    for _ in 0..10 {
        let took = handled(&scene, &good)?;
        assert!(took < at_most(Duration::from_secs(1)), "{took:?}");
    }
    started.wait()?;
    let record = scene.daemon.records().of(bad.init())?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_timeout"),
        "{record:?}"
    );
    assert_eq!(action(&record, "run")?.stage.as_deref(), Some("deadline"));
    // The shim does not wait as long: it has kept the core, and nobody else reads it.
    let mut spool = std::fs::read_dir(scene.sandbox.spool())?
        .flatten()
        .map(|entry| entry.path());
    let core = spool.find(|path| path.extension() == Some("core".as_ref()));
    assert_eq!(
        std::fs::read(core.context("a core in the spool")?)?,
        dump.core()
    );
    assert!(scene.kept(&record).is_err());
    // The server dies: whoever waited for it goes.
    drop(server);
    drop((good, bad));
    scene.end()
}

#[test]
fn a_root_and_a_directory_on_a_file_server_that_stops_answering_hold_up_nobody_else() -> Result<()>
{
    // Whoever writes a core where it crashed goes where its process was.
    needs!(Root, Runc, Fuse);
    for (words, flags) in [
        (&["/crash-me", "--wait"][..], "--cwd=/fuse"),
        (&["/crash-me", "--chroot=/fuse", "--wait"], "--cwd=/"),
    ] {
        let (scene, good, bad, server) = beside_a_silent_server(r#""/probe""#, Silent::Reads)?;
        let rule = "[[rule]]\nupcall = \"core\"\nmatch.container = { name = \"*-bad\" }\nfile = { path = \"core\" }\n";
        scene
            .sandbox
            .rules(&(rule.to_owned() + &run_rule(r#""/probe""#, "")))?;
        scene.sandbox.ctl().arg("reload").status()?;
        let process = bad.spawn_with(&[flags], words)?;
        until(Duration::from_secs(5), "a process there", || {
            waits(process).then_some(())
        })?;
        server.fall_silent();
        let dump = CoreDump::of(process)?.word("%c", u64::MAX.to_string());
        let started = dump.start(&scene.sandbox)?;
        pause(Duration::from_millis(200));
        for _ in 0..10 {
            let took = handled(&scene, &good)?;
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
        started.wait()?;
        let of_bad = |record: &Record| record.process.pid == Some(process);
        let records = scene.daemon.records();
        let record = records.wait_for(Duration::from_secs(20), "its dump", of_bad)?;
        let file = action(&record, "file")?;
        assert_ne!(file.outcome, Outcome::Done, "{flags}: {record:?}");
        drop(server);
        drop((good, bad));
        scene.end()?;
    }
    Ok(())
}

#[test]
fn a_helper_that_reads_into_memory_that_never_comes_holds_up_nobody_else() -> Result<()> {
    // Who sits in read(2) of a pipe holds it for as long as his page fault takes.
    needs!(Root, Runc, Fuse);
    let command = r#""/hostile", "swallow", "/fuse/file""#;
    let (scene, good, bad, server) = beside_a_silent_server(command, Silent::Reads)?;
    let started = CoreDump::of(bad.init())?
        .bytes(4 << 20)
        .start(&scene.sandbox)?;
    pause(Duration::from_millis(200));
    for _ in 0..10 {
        let took = handled(&scene, &good)?;
        assert!(took < at_most(Duration::from_secs(1)), "{took:?}");
    }
    let of_bad = |record: &Record| record.process.pid == Some(bad.init());
    let record = scene
        .daemon
        .records()
        .wait_for(Duration::from_secs(20), "its dump", of_bad)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_timeout"),
        "{record:?}"
    );
    let cgroup = cgroup::of(&bad.leader()?)?;
    drop(server);
    started.wait()?;
    drop((good, bad));
    // Its keeper could not be waited for any more, so its cgroup may be left, and nobody in it.
    let left = cgroup.join(format!("upcall-{}", record.id));
    until(Duration::from_secs(3), "its cgroup to be empty", || {
        drop(std::fs::remove_dir(&left));
        (!left.exists()).then_some(())
    })?;
    drop(std::fs::remove_dir(&cgroup));
    scene.end()
}

#[test]
fn a_container_that_ends_at_any_moment_leaves_nothing_of_ours() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, "store = { ignore_limit = true }"))?;
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", scene.daemon.pid())).map(Iterator::count);
    let mut before = None;
    for round in 0..24_u64 {
        let container = Runc::new(&format!("web{round}"))
            .user_namespace()
            .root(script("/helper", "cat > /dev/null; sleep 100"))
            .start(&scene.sandbox)?;
        let started = CoreDump::of(container.init())?
            .bytes(10_000)
            .start(&scene.sandbox)?;
        pause(Duration::from_micros(round * 400));
        container.kill()?;
        let start = Instant::now();
        started.wait()?;
        scene.daemon.records().of(container.init())?;
        until(Duration::from_secs(3), "its end", || {
            (!runs(container.init())).then_some(())
        })?;
        assert!(
            start.elapsed() < at_most(Duration::from_secs(3)),
            "round {round}"
        );
        drop(container);
        // Whatever is set up once is there after the first.
        if before.is_none() {
            before = Some(descriptors()?);
        }
    }
    let before = before.unwrap_or(0);
    until(
        Duration::from_secs(3),
        "its descriptors to be closed",
        || (descriptors().ok()? <= before).then_some(()),
    )?;
    scene.end()
}

#[test]
fn a_core_that_is_slow_in_coming_is_waited_for_and_one_that_never_comes_is_not() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/bin/wc", "-c""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(4 * 65_536);
    let started = dump
        .clone()
        .slowly(Duration::from_millis(400))
        .start(&scene.sandbox)?;
    assert!(started.wait()?.taken);
    let record = scene.daemon.records().of(container.init())?;
    assert_eq!(
        (record.outcome, action(&record, "run")?.output.as_deref()),
        (Outcome::Done, Some(r"262144\x0a"))
    );
    let other = container.victim(&[])?;
    let started = CoreDump::of(other)?
        .slowly(Duration::from_secs(3))
        .start(&scene.sandbox)?;
    let record = scene.daemon.records().of(other)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_timeout"),
        "{record:?}"
    );
    started.wait()?;
    scene.end()
}
