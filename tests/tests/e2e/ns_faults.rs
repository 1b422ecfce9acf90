//! Days on which the host has nothing left to give: descriptors, processes, somebody who reads the log, rules that stay.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use upcall_e2e::cgroup::{self, Child};
use upcall_e2e::command::{pause, slowness, until};
use upcall_e2e::container::{Container, children};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::sys::limit_descriptors;
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, nothing_in, run_rule, script};

const PATIENCE: Duration = Duration::from_secs(20);

const STORE: &str = "store = { ignore_limit = true }";

/// A container with a helper.
fn web(sandbox: &Sandbox) -> Result<Container> {
    Runc::new("web")
        .user_namespace()
        .root(script("/helper", "wc -c"))
        .start(sandbox)
}

/// A scene with a container whose crashes are run and stored, and one of them.
fn scene() -> Result<(Scene, Container, CoreDump)> {
    let scene = Scene::new(&run_rule(r#""/helper""#, STORE))?;
    let container = web(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(200_000);
    Ok((scene, container, dump))
}

/// What became of all crashes so far: a record each, and nothing in the spool.
pub(crate) fn all(scene: &Scene, count: usize) -> Result<Vec<Record>> {
    scene.records(count, PATIENCE)?;
    until(PATIENCE, "an empty spool", || {
        nothing_in(&scene.sandbox.spool()).then_some(())
    })?;
    // Only now: a shim that was answered too late has a record at once, and one with its core in its place.
    let records = scene.records(count, PATIENCE)?;
    assert_eq!(records.len(), count, "{records:?}");
    Ok(records)
}

/// Leaves a process so many that it may still open; returns how many it might have had.
pub(crate) fn leave_descriptors(pid: u32, free: usize) -> Result<u64> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok(limit_descriptors(pid, u64::try_from(open + free)?)?)
}

#[test]
fn what_is_in_the_spool_stays_there_while_its_container_cannot_be_looked_for() -> Result<()> {
    needs!(Root, Runc);
    let (scene, container, dump) = scene()?;
    let pid = scene.daemon.pid();
    // Too few to read the directory with, the facts, the core, and the container.
    for (number, free) in [1, 2, 3, 4, 6].into_iter().enumerate() {
        let most = leave_descriptors(pid, free)?;
        dump.dump(&scene.sandbox)?;
        if free == 6 {
            scene.daemon.logs("could not be looked for")?;
        } else {
            pause(Duration::from_secs(1));
        }
        assert_eq!(scene.ids().len(), number, "{}", scene.daemon.log());
        limit_descriptors(pid, most)?;
        for record in all(&scene, number + 1)? {
            let found = record.container.as_ref().map(|found| found.leader_pid);
            assert_eq!(found, Some(container.init()), "{free}: {record:?}");
            assert_eq!(scene.kept(&record)?, dump.core(), "{free}: {record:?}");
        }
    }
    drop(container);
    scene.end()
}

#[test]
fn without_a_free_descriptor_a_core_is_kept_and_the_next_is_handled() -> Result<()> {
    needs!(Root, Runc);
    // They are out while it is identified, or its container looked for, its record opened, it entered: none of these takes
    // what it could not look at for what is not there.
    for free in (0..48).step_by(usize::try_from(slowness())?) {
        let (scene, container, dump) = scene()?;
        let pid = scene.daemon.pid();
        let most = leave_descriptors(pid, free)?;
        let ended = dump.dump(&scene.sandbox)?;
        limit_descriptors(pid, most)?;
        assert!(ended.taken, "{free} free: {ended:?}");
        // The next one is well, and what the shim has kept is taken in by the next daemon at the latest.
        let done = |record: &Record| record.outcome == Outcome::Done;
        dump.dump(&scene.sandbox)?;
        let next = scene.daemon.records().wait("the next one", done);
        next.with_context(|| format!("{free} free: {}", scene.daemon.log()))?;
        let Scene { daemon, sandbox } = scene;
        daemon
            .stop(&sandbox)
            .with_context(|| format!("{free} free"))?;
        let daemon = Daemon::start(&sandbox)?;
        let scene = Scene { daemon, sandbox };
        for record in all(&scene, 2).with_context(|| format!("{free} free"))? {
            let found = record.container.as_ref().map(|found| found.leader_pid);
            assert_eq!(found, Some(container.init()), "{free} free: {record:?}");
            assert_eq!(scene.kept(&record)?, dump.core(), "{free} free: {record:?}");
        }
        drop(container);
        scene.end()?;
    }
    Ok(())
}

#[test]
fn a_launch_without_a_free_descriptor_is_none_and_the_core_is_kept() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let container = web(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let mut begun = Vec::new();
    for free in (0..25).step_by(usize::try_from(slowness())?.min(12)) {
        let known = scene.daemon.records().all().len();
        let ready = || children(scene.daemon.launcher()).into_iter().next();
        leave_descriptors(until(PATIENCE, "a ready child", ready)?, free)?;
        let ended = dump.dump(&scene.sandbox)?;
        assert_eq!(ended.code, 0, "{free} free");
        let record = all(&scene, known + 1)?.pop().context("its record")?;
        let run = action(&record, "run")?;
        // Either all of them came, or nothing was begun.
        if run.outcome != Outcome::Done {
            assert_eq!(scene.kept(&record)?, dump.core(), "{free} free: {record:?}");
        }
        begun.push(run.outcome == Outcome::Done);
    }
    assert_eq!(
        (begun.first(), begun.last()),
        (Some(&false), Some(&true)),
        "{begun:?}"
    );
    drop(container);
    scene.end()
}

#[test]
fn without_a_process_to_be_had_a_core_is_kept_and_the_next_is_handled() -> Result<()> {
    needs!(Root, Runc);
    let Some(pids) = cgroup::mounted("pids").or_else(cgroup::cgroup2) else {
        anyhow::bail!("no cgroups");
    };
    let (scene, container, dump) = scene()?;
    let group = Child::of(&pids, &format!("{}-pids", scene.sandbox.tag()))?;
    let launcher = scene.daemon.launcher();
    let all_of_it = || -> Vec<u32> {
        std::iter::once(launcher)
            .chain(children(launcher))
            .collect()
    };
    for pid in all_of_it() {
        group.take(pid)?;
    }
    for more in [0, 1, 2] {
        let known = scene.ids().len();
        group.set("pids.max", &(all_of_it().len() + more).to_string())?;
        let started = dump.start(&scene.sandbox)?;
        // Whoever waits for a process gets one when there are some again.
        until(PATIENCE, "the shim's leave", || {
            started.ended().then_some(())
        })?;
        group.set("pids.max", "max")?;
        started.over()?;
        all(&scene, known + 1).with_context(|| format!("{more} more"))?;
        let (record, _) = scene.dump(&dump)?;
        assert_eq!(record.outcome, Outcome::Done, "{more} more: {record:?}");
        all(&scene, known + 2).with_context(|| format!("{more} more"))?;
    }
    let Scene { daemon, sandbox } = scene;
    drop(container);
    daemon.stop(&sandbox)?;
    drop(group);
    Ok(())
}

/// As when the journal has gone, or whatever read standard error.
#[test]
fn a_log_that_nobody_reads_stops_nothing() -> Result<()> {
    needs!(Root, Runc);
    for closed in [true, false] {
        let sandbox = Sandbox::new()?;
        sandbox.rules(&run_rule(r#""/helper""#, STORE))?;
        let container = web(&sandbox)?;
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(4096))?;
        let daemon = Daemon::start_with(&sandbox, |daemon| {
            daemon.arg("--any-peer").stderr(Stdio::from(write));
        })?;
        // Gone, or there and reading nothing: a pipe takes a page.
        let held: Option<OwnedFd> = Some(read).filter(|_| !closed);
        let dump = CoreDump::of(container.init())?;
        let count = if closed { 3 } else { 40 };
        for place in 0..count {
            let ended = dump.dump(&sandbox)?;
            assert!(ended.taken, "{closed}, {place}: {ended:?}");
        }
        let scene = Scene { daemon, sandbox };
        let records = all(&scene, count).with_context(|| format!("closed: {closed}"))?;
        let done = records
            .iter()
            .filter(|record| record.outcome == Outcome::Done);
        assert_eq!(done.count(), count, "closed: {closed}");
        drop((held, container));
        scene.end()?;
    }
    Ok(())
}

#[test]
fn a_service_manager_that_hangs_is_not_waited_for() -> Result<()> {
    needs!(Root, Runc);
    // It is told that the daemon moves, if it wants to be, and that it ends; a queue that it does not read is full after
    // some of that (net.unix.max_dgram_qlen, at least ten).
    for moves in [true, false] {
        let sandbox = Sandbox::new()?;
        sandbox.rules(&run_rule(r#""/helper""#, STORE))?;
        let container = web(&sandbox)?;
        let daemon = Daemon::start_with(&sandbox, |daemon| {
            daemon.arg("--any-peer");
            if moves {
                daemon.env("WATCHDOG_USEC", "2000");
            }
        })?;
        // In the place of the socket by which it said that it is ready.
        let place = sandbox.path("notify");
        std::fs::remove_file(&place)?;
        let manager = UnixDatagram::bind(&place)?;
        let stranger = UnixDatagram::unbound()?;
        stranger.connect(&place)?;
        stranger.set_nonblocking(true)?;
        until(PATIENCE, "a full queue", || stranger.send(b"x").err())?;
        let dump = CoreDump::of(container.init())?;
        for place in 0..8 {
            let ended = dump.dump(&sandbox)?;
            assert!(ended.taken, "{place}: {ended:?}");
        }
        // Two threads serve all upcalls: none of them waits for the manager.
        for thread in std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
            let wchan = std::fs::read_to_string(thread?.path().join("wchan"))?;
            assert!(!wchan.contains("unix_wait_for_peer"), "{wchan}");
        }
        let scene = Scene { daemon, sandbox };
        for record in all(&scene, 8)? {
            assert_eq!(record.outcome, Outcome::Done, "{record:?}");
        }
        drop(container);
        // What it tells holds one socket until it is heard; nothing may be left.
        let manager = (!moves).then_some(manager);
        scene.end()?;
        drop(manager);
    }
    Ok(())
}

#[test]
fn rules_that_are_loaded_again_and_again_in_a_storm_lose_and_double_nothing() -> Result<()> {
    needs!(Root, Runc);
    let (scene, container, dump) = scene()?;
    let done = std::sync::atomic::AtomicBool::new(false);
    // A slow machine has more than eight at once of these, which is what one container may have.
    let crashes = usize::try_from(24 / slowness())?.max(6);
    let directory = scene.sandbox.config().join("rules.d");
    std::thread::scope(|scope| {
        let reloads = scope.spawn(|| -> Result<usize> {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let more = if count % 2 == 0 { "" } else { STORE };
                // As an editor does it: a file that is half written is another file.
                let new = directory.join("new");
                std::fs::write(&new, run_rule(r#""/helper""#, more))?;
                std::fs::rename(&new, directory.join("50-test.toml"))?;
                scene.daemon.signal(Signal::SIGHUP)?;
                count += 1;
            }
            Ok(count)
        });
        let crash = |_| scope.spawn(|| dump.dump(&scene.sandbox));
        let crashes: Vec<_> = (0..crashes).map(crash).collect();
        for crash in crashes {
            let ended = crash.join().map_err(|_| anyhow::anyhow!("a crash"))??;
            assert!(ended.taken, "{ended:?}");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let reloads = reloads.join().map_err(|_| anyhow::anyhow!("reloads"))??;
        assert!(reloads > 0);
        anyhow::Ok(())
    })?;
    let spool = || std::fs::read_dir(scene.sandbox.spool()).map_or(0, Iterator::count);
    let seen = all(&scene, crashes);
    for record in
        seen.with_context(|| format!("{}: {} in the spool", scene.daemon.log(), spool()))?
    {
        assert!(record.verdict.rule.is_some(), "{record:?}");
    }
    scene.sandbox.rules(&run_rule(r#""/helper""#, STORE))?;
    scene.daemon.signal(Signal::SIGHUP)?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    drop(container);
    scene.end()
}

/// Each is a crash of somebody unregistered, kept on the host, and none is waited for.
#[test]
fn a_runtimes_state_that_is_not_what_it_should_be_registers_nobody() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&format!("[[rule]]\nupcall = \"core\"\n{STORE}\n"))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let registered = |record: &Record| record.container.is_some();
    assert!(registered(&scene.dump(&dump)?.0), "as it should be");
    let state = std::path::Path::new("/run/runc")
        .join(container.id())
        .join("state.json");
    let (aside, text) = (state.with_extension("aside"), std::fs::read(&state)?);
    for what in [
        "missing",
        "half",
        "empty",
        "huge",
        "fifo",
        "link",
        "directory",
    ] {
        std::fs::rename(&state, &aside)?;
        match what {
            "missing" => {}
            "half" => std::fs::write(&state, text.get(..text.len() / 2).unwrap_or_default())?,
            "empty" => std::fs::write(&state, b"")?,
            "huge" => {
                std::fs::write(&state, &text)?;
                // More than anybody reads, of blanks that JSON would allow.
                let padding = vec![b' '; 64 << 20];
                std::io::Write::write_all(
                    &mut std::fs::File::options().append(true).open(&state)?,
                    &padding,
                )?;
            }
            "fifo" => nix::unistd::mkfifo(&state, nix::sys::stat::Mode::S_IRUSR)?,
            "link" => std::os::unix::fs::symlink(&aside, &state)?,
            _ => std::fs::create_dir(&state)?,
        }
        let dumped = scene.dump(&dump);
        if what == "directory" {
            std::fs::remove_dir(&state)?;
        } else if what != "missing" {
            std::fs::remove_file(&state)?;
        }
        std::fs::rename(&aside, &state)?;
        let (record, _) = dumped?;
        assert!(!registered(&record), "{what}: {record:?}");
        assert_eq!(record.outcome, Outcome::Done, "{what}: {record:?}");
        assert_eq!(scene.kept(&record)?, dump.core(), "{what}");
        assert!(registered(&scene.dump(&dump)?.0), "after {what}");
    }
    drop(container);
    scene.end()
}
