//! Days on which something of ours fails: killed, full, read-only, swamped. One record each, and no core lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::AsRawFd;
use upcall_e2e::command::{pause, until};
use upcall_e2e::container::{children, pid_of, runs};
use upcall_e2e::cores;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::{MOUNTED_BY, Sandbox};
use upcalld::store::record::Outcome;

use crate::scene::{Scene, nothing_in, run_rule, script, spooled};

const STORE: &str = "[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\n";

#[test]
fn a_daemon_that_is_killed_at_any_step_loses_nothing_and_doubles_nothing() -> Result<()> {
    needs!(Root, Runc);
    let run = run_rule(r#""/helper""#, "");
    for rules in [STORE, run.as_str()] {
        for step in ["examined", "opened", "claimed", "performed", "closed"] {
            let sandbox = Sandbox::new()?;
            sandbox.rules(rules)?;
            let container = Runc::new("web")
                .user_namespace()
                .root(script("/helper", "wc -c > /tmp/ran"))
                .start(&sandbox)?;
            let dump = CoreDump::of(container.init())?.bytes(500_000);
            let daemon = Daemon::start_with(&sandbox, |daemon| {
                daemon.args(["--any-peer", "--stop-at", step]);
            })?;
            let started = dump.start(&sandbox)?;
            daemon.stopped().with_context(|| step.to_owned())?;
            daemon.kill()?;
            assert_eq!(started.wait()?.code, 0, "{step}");
            let ran = container.root().inside("/tmp/ran");
            if rules != STORE && !["examined", "opened"].contains(&step) {
                let whole = || {
                    std::fs::read_to_string(&ran)
                        .ok()
                        .filter(|t| t == "500000\n")
                };
                until(Duration::from_secs(5), "the helper", whole)?;
            }
            // What the launcher had begun ends with it.
            pause(Duration::from_millis(300));
            let daemon = Daemon::start(&sandbox)?;
            let record = daemon.records().of(container.init())?;
            until(Duration::from_secs(5), "an empty spool", || {
                nothing_in(&sandbox.spool()).then_some(())
            })?;
            assert_eq!(daemon.records().all().len(), 1, "{step}");
            match cores::kept(&sandbox.state(), &record.id) {
                Ok(core) => assert_eq!(core, dump.core(), "{step}"),
                Err(_) => assert!(ran.exists(), "{step}: neither kept nor handled: {record:?}"),
            }
            assert!(record.container.is_some(), "{step}: {record:?}");
            daemon.stop(&sandbox)?;
        }
    }
    Ok(())
}

#[test]
fn a_backlog_that_is_full_is_a_late_daemon() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    scene.sandbox.hook(|hook| hook.deadline_ms = 500)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    scene.daemon.halt()?;
    let path = scene.sandbox.sockets().join("upcall.sock");
    let mut crowd = Vec::new();
    loop {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let one = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        if connect(one.as_raw_fd(), &UnixAddr::new(&path)?).is_err() {
            break;
        }
        crowd.push(one);
        assert!(crowd.len() < 10_000, "it is never full");
    }
    let ended = dump.dump(&scene.sandbox)?;
    assert_eq!((ended.code, ended.taken), (0, true));
    assert_eq!(spooled(&scene.sandbox)?.0, dump.core());
    drop(crowd);
    scene.daemon.signal(Signal::SIGCONT)?;
    let Scene { daemon, sandbox } = scene;
    daemon.stop(&sandbox)?;
    let daemon = Daemon::start(&sandbox)?;
    let record = daemon.records().of(container.init())?;
    assert_eq!(record.reason.as_deref(), Some("late"), "{record:?}");
    assert_eq!(cores::kept(&sandbox.state(), &record.id)?, dump.core());
    assert_eq!(daemon.records().all().len(), 1);
    daemon.stop(&sandbox)
}

/// A daemon whose state directory is a file system of its own, below the sandbox's mount and gone with it.
fn with_state(size: &str) -> Result<(Scene, PathBuf)> {
    let sandbox = Sandbox::new()?;
    sandbox.rules(STORE)?;
    let state = sandbox.state();
    tmpfs(&state, MsFlags::empty(), size)?;
    let daemon = Daemon::start(&sandbox)?;
    Ok((Scene { daemon, sandbox }, state))
}

fn tmpfs(path: &Path, flags: MsFlags, size: &str) -> Result<()> {
    let options = format!("mode=750,size={size}");
    Ok(mount(
        Some(MOUNTED_BY),
        path,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )?)
}

/// A crash while the state directory takes nothing, and its record when it does again.
fn waits_in_the_spool(
    break_it: impl FnOnce(&Path) -> Result<()>,
    mend_it: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let (scene, state) = with_state("2m")?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    break_it(&state)?;
    let ended = dump.dump(&scene.sandbox)?;
    assert_eq!((ended.code, ended.taken), (0, true));
    scene.daemon.logs("a core dump goes to the spool")?;
    scene.daemon.logs("stays in the spool")?;
    assert_eq!(spooled(&scene.sandbox)?.0, dump.core());
    assert!(nothing_in(&state.join("open")) && nothing_in(&state.join("records")));
    mend_it(&state)?;
    // The next crash brings both in, or the next start.
    let Scene { daemon, sandbox } = scene;
    daemon.stop(&sandbox)?;
    let daemon = Daemon::start(&sandbox)?;
    let record = daemon.records().of(container.init())?;
    assert_eq!(record.reason.as_deref(), Some("handed_back"), "{record:?}");
    assert_eq!(cores::kept(&state, &record.id)?, dump.core());
    assert_eq!(daemon.records().all().len(), 1);
    daemon.stop(&sandbox)
}

#[test]
fn a_state_directory_that_is_full_costs_no_core() -> Result<()> {
    needs!(Root, Runc);
    let fill = |state: &Path| {
        let full = std::fs::write(state.join("ballast"), vec![1; 4 << 20]);
        assert!(full.is_err(), "it is not full");
        Ok(())
    };
    waits_in_the_spool(fill, |state| {
        Ok(std::fs::remove_file(state.join("ballast"))?)
    })
}

#[test]
fn a_state_directory_that_is_read_only_costs_no_core() -> Result<()> {
    needs!(Root, Runc);
    let read_only = |state: &Path| tmpfs(state, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, "2m");
    waits_in_the_spool(read_only, |state| tmpfs(state, MsFlags::MS_REMOUNT, "2m"))
}

/// A process below this one with this name.
fn below(pid: u32, name: &str) -> Option<u32> {
    children(pid).into_iter().find_map(|child| {
        let comm = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        if comm.trim() == name {
            Some(child)
        } else {
            below(child, name)
        }
    })
}

#[test]
fn a_storing_worker_that_crashes_has_its_record_and_the_next_is_well() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let slow = dump
        .clone()
        .bytes(2 << 20)
        .slowly(Duration::from_millis(100));
    let started = slow.start(&scene.sandbox)?;
    let launcher = scene.daemon.launcher();
    // What is executed by descriptor has the descriptor's number for a name.
    let worker = || {
        let words = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        children(launcher)
            .into_iter()
            .find(|pid| words(pid).starts_with(b"upcall-store\0"))
    };
    let worker = until(Duration::from_secs(5), "the worker", worker)?;
    // A single SIGSEGV from outside only takes away Rust's handler for it.
    kill(pid_of(worker), Signal::SIGABRT)?;
    started.wait()?;
    let record = scene.daemon.records().of(container.init())?;
    assert_eq!(
        (record.outcome, record.reason.as_deref()),
        (Outcome::Failed, Some("helper_signal")),
        "{record:?}"
    );
    let message = record.message.clone().unwrap_or_default();
    assert!(message.contains("upcall-store"), "{message}");
    let (next, _) = scene.dump(&dump)?;
    assert_eq!(scene.kept(&next)?, dump.core());
    assert_eq!(scene.ids().len(), 2);
    scene.end()
}

#[test]
fn a_keeper_that_crashes_takes_its_helper_along_and_has_its_record() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, "").replace("1s", "30s"))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script(
            "/helper",
            "cat > /dev/null; touch /tmp/here; exec sleep 4711",
        ))
        .start(&scene.sandbox)?;
    let started = CoreDump::of(container.init())?.start(&scene.sandbox)?;
    let here = container.root().inside("/tmp/here");
    until(Duration::from_secs(5), "the helper", || {
        here.exists().then_some(())
    })?;
    let launcher = scene.daemon.launcher();
    let helper = until(Duration::from_secs(5), "the sleep", || {
        below(launcher, "sleep")
    })?;
    let keeper = children(launcher)
        .into_iter()
        .find(|keeper| children(*keeper).contains(&helper))
        .context("its keeper")?;
    kill(pid_of(keeper), Signal::SIGSEGV)?;
    let record = scene.daemon.records().of(container.init())?;
    assert_eq!(record.outcome, Outcome::Failed, "{record:?}");
    assert_eq!(action(&record, "run")?.outcome, Outcome::Failed);
    until(Duration::from_secs(5), "the helper's end", || {
        (!runs(helper)).then_some(())
    })?;
    started.wait()?;
    assert_eq!(scene.ids().len(), 1);
    scene.end()
}

#[test]
fn a_process_whose_children_have_no_init_any_more_is_handled_as_any_other() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "wc -c"))
        .start(&scene.sandbox)?;
    // The first child is the init of a new pid namespace and ends at once; after it none can be born (ENOMEM).
    let line = "/bin/true; exec sleep 4711";
    let pid = container.spawn(&["/bin/busybox", "unshare", "-Up", "/bin/sh", "-c", line])?;
    until(Duration::from_secs(5), "the sleep", || {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (comm.trim() == "sleep").then_some(())
    })?;
    let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}"));
    assert!(link("pid_for_children").map_or(true, |other| Some(other) != link("pid").ok()));
    let (record, _) = scene.dump(&CoreDump::of(pid)?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    drop(container);
    scene.end()
}

#[test]
fn rules_that_cannot_be_read_do_not_start_a_daemon_and_do_not_replace_good_ones() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    // Root reads every file; what it cannot read is no file, or one on a disk that fails.
    let file = scene.sandbox.config().join("rules.d/60-link.toml");
    std::os::unix::fs::symlink("/nowhere/at/all", &file)?;
    let directory = scene.sandbox.config().join("rules.d/70-directory.toml");
    std::fs::create_dir(&directory)?;
    scene.daemon.signal(Signal::SIGHUP)?;
    scene.daemon.logs("those loaded before stay")?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(scene.kept(&record)?, dump.core());
    let Scene { daemon, sandbox } = scene;
    daemon.stop(&sandbox)?;
    let error = Daemon::start(&sandbox)
        .err()
        .context("it starts")?
        .to_string();
    for word in [
        "60-link.toml",
        "70-directory.toml",
        "upcallctl check",
        "spool",
    ] {
        assert!(error.contains(word), "{word}: {error}");
    }
    // Meanwhile the shim keeps what comes.
    dump.dump(&sandbox)?;
    assert_eq!(spooled(&sandbox)?.0, dump.core());
    std::fs::remove_file(file)?;
    std::fs::remove_dir(directory)?;
    let daemon = Daemon::start(&sandbox)?;
    until(Duration::from_secs(5), "the second record", || {
        (daemon.records().all().len() == 2).then_some(())
    })?;
    daemon.stop(&sandbox)
}
