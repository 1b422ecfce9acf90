//! Real crashes, and the kernel's own calls: in its pipe, and again by its socket (`host_socket`).

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use upcall_e2e::command::{at_most, command, pause, until};
use upcall_e2e::container::{Container, pid_of, runs, waits};
use upcall_e2e::hook;
use upcall_e2e::leader::Leader;
use upcall_e2e::podman::Podman;
use upcall_e2e::records::{action, report};
use upcall_e2e::report::Hash;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::hooks::install::Mode;
use upcalld::store::record::Outcome;

use super::{MODE, needs};
use crate::host_scene::{HostScene, PROBE_AND_STORE, handled_inside};
use crate::scene::nothing_in;

/// A child of PID 1 crashes, then PID 1 itself.
fn both_crash(start: impl FnOnce(&Sandbox) -> Result<Container>) -> Result<()> {
    let scene = HostScene::by(MODE, PROBE_AND_STORE)?;
    let container = start(&scene.sandbox)?;
    let leader = container.leader()?;
    let child = container.child()?;
    for (pid, comm) in [(child, "crash-me"), (container.init(), "init")] {
        let process = Leader::read(pid)?;
        let inside = process
            .field("NSpid")
            .split_whitespace()
            .last()
            .unwrap_or_default()
            .to_owned();
        container.crash(pid)?;
        let record = scene.record(pid)?;
        handled_inside(&record, &container, &leader)?;
        assert_eq!(record.process.comm.as_deref(), Some(comm));
        assert_eq!(record.process.uid, process.ids("Uid").first().copied());
        assert_eq!(
            record.core.as_ref().and_then(|core| core.signal.as_deref()),
            Some("SEGV")
        );
        let report = report(&record)?;
        assert_eq!(report.argv[1..], [inside.clone(), inside, comm.to_owned()]);
        assert_eq!(
            report.stdin_hash,
            Hash::of(&scene.core(&record)?).to_string()
        );
    }
    until(Duration::from_secs(5), "the container's end", || {
        (!runs(container.init())).then_some(())
    })?;
    assert_eq!(scene.daemon.records().all().len(), 2);
    drop(container);
    scene.end()
}

#[test]
fn in_runc_with_a_user_namespace() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    both_crash(|sandbox| Runc::new("web").user_namespace().start(sandbox))
}

#[test]
fn in_runc_without_a_user_namespace() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    both_crash(|sandbox| Runc::new("web").start(sandbox))
}

#[test]
fn in_runc_without_a_pid_namespace() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    both_crash(|sandbox| {
        let runc = Runc::new("web").user_namespace();
        runc.with(|bundle| bundle.pid_namespace = false)
            .start(sandbox)
    })
}

#[test]
fn in_runc_with_the_hosts_network() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    both_crash(|sandbox| {
        let runc = Runc::new("web").user_namespace();
        runc.with(|bundle| bundle.net_namespace = false)
            .start(sandbox)
    })
}

#[test]
fn in_runc_with_a_read_only_root() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    both_crash(|sandbox| {
        let runc = Runc::new("web").user_namespace();
        runc.with(|bundle| bundle.read_only = true).start(sandbox)
    })
}

#[test]
fn in_runc_with_an_init_that_is_not_root() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    both_crash(|sandbox| {
        let runc = Runc::new("web").user_namespace();
        runc.with(|bundle| bundle.user = (1000, 1000, vec![2000]))
            .start(sandbox)
    })
}

#[test]
fn in_runc_without_proc_in_its_root() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    both_crash(|sandbox| {
        let container = Runc::new("web").user_namespace().start(sandbox)?;
        container.as_host_root(&["/bin/umount", "-l", "/proc"])?;
        Ok(container)
    })
}

#[test]
fn in_podman() -> Result<()> {
    needs!(HostHooks, Root, Runc, Podman);
    both_crash(|sandbox| Podman::new("web").start(sandbox))
}

#[test]
fn in_podman_with_a_user_namespace() -> Result<()> {
    needs!(HostHooks, Root, Runc, Podman);
    both_crash(|sandbox| Podman::new("web").user_namespace(200_000).start(sandbox))
}

/// Starts crash-me on the host, lets it crash, and returns its pid and whether it dumped core.
fn on_the_host_with(scene: &HostScene, words: &[&str]) -> Result<(u32, bool)> {
    let mut victim = command(scene.sandbox.path("bin/crash-me"));
    // What stood before us may leave a core where it was.
    let victim = victim.args(words).current_dir(scene.sandbox.root());
    let mut victim = victim.stdin(Stdio::null()).spawn()?;
    let pid = victim.id();
    Ok((pid, victim.wait()?.core_dumped()))
}

#[test]
fn on_the_host() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = HostScene::by(MODE, PROBE_AND_STORE)?;
    let (pid, dumped) = on_the_host_with(&scene, &[])?;
    assert!(dumped);
    let record = scene.record(pid)?;
    assert!(record.container.is_none());
    assert_eq!(record.process.user_namespace.as_deref(), Some("initial"));
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    scene.core(&record)?;
    scene.end()
}

#[test]
fn a_core_limit_below_a_page_is_the_rules_business_and_one_of_1_the_kernels() -> Result<()> {
    needs!(HostHooks, Root);
    let rules = "[[rule]]\nupcall = \"core\"\nmatch.process = { uid = 0, comm = \"crash-me\" }\nstore = {}\n";
    let scene = HostScene::by(MODE, rules)?;
    for limit in ["--core-limit=0", "--core-limit=2", "--core-limit=4095"] {
        let (pid, _) = on_the_host_with(&scene, &[limit])?;
        let record = scene.record(pid)?;
        assert_eq!(
            action(&record, "store")?.reason.as_deref(),
            Some("core_limit"),
            "{limit}"
        );
    }
    assert!(nothing_in(&scene.sandbox.state().join("cores")));
    let (pid, dumped) = on_the_host_with(&scene, &["--core-limit=65536"])?;
    assert!(dumped);
    assert_eq!(scene.record(pid)?.outcome, Outcome::Done);
    // The limit by which a handler of cores says that its own are not to be handled: the kernel does not ask.
    let (pid, dumped) = on_the_host_with(&scene, &["--core-limit=1"])?;
    pause(Duration::from_millis(300));
    let all = scene.daemon.records().all();
    assert!(!dumped && all.len() == 4 && all.iter().all(|record| record.process.pid != Some(pid)));
    scene.end()
}

#[test]
fn what_no_rule_matches_goes_where_it_went_before() -> Result<()> {
    needs!(HostHooks, Root);
    // Before us stood a file pattern, most likely: a copy within the process's limit.
    let scene = HostScene::by(MODE, "")?;
    let (pid, _) = on_the_host_with(&scene, &["--core-limit=100000000"])?;
    let record = scene.record(pid)?;
    assert_eq!(
        (record.outcome, record.verdict.rule.is_none()),
        (Outcome::Done, true),
        "{record:?}"
    );
    scene.end()
}

#[test]
fn a_process_whose_first_thread_has_ended_is_still_in_its_container() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::by(MODE, PROBE_AND_STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let leader = container.leader()?;
    let pid = container.victim(&["--threads=3", "--leader-exits"])?;
    container.crash(pid)?;
    let record = scene.record(pid)?;
    handled_inside(&record, &container, &leader)?;
    assert_ne!(
        record.process.tid, record.process.pid,
        "the thread that crashed is another"
    );
    assert_eq!(record.process.namespaces, leader.namespaces);
    let report = report(&record)?;
    let (pid_inside, tid_inside) = (report.argv.get(1), report.argv.get(2));
    assert_ne!(pid_inside, tid_inside);
    drop(container);
    scene.end()
}

#[test]
fn many_threads_and_much_memory_are_one_core() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::by(MODE, PROBE_AND_STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let pid = container.victim(&["--threads=20", "--mib=64"])?;
    container.crash(pid)?;
    let record = scene.record(pid)?;
    handled_inside(&record, &container, &container.leader()?)?;
    let core = scene.core(&record)?;
    assert!(core.len() > 64 << 20);
    assert_eq!(report(&record)?.stdin_hash, Hash::of(&core).to_string());
    drop(container);
    scene.end()
}

#[test]
fn a_process_is_held_until_its_helper_has_ended() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::by(
        MODE,
        "[[rule]]\nupcall = \"core\"\nmatch.container = {}\n\
         run = { in = \"container\", command = [\"/helper\"] }\n",
    )?;
    let container = Runc::new("web")
        .user_namespace()
        // It finds the process as it was: its directory in /proc, its program, its memory map.
        .root(crate::scene::script(
            "/helper",
            "cat > /dev/null; sleep 0.5; readlink /proc/1/exe; grep -c . /proc/1/maps",
        ))
        .start(&scene.sandbox)?;
    let start = Instant::now();
    container.crash(container.init())?;
    until(Duration::from_secs(5), "the container's end", || {
        (!runs(container.init())).then_some(())
    })?;
    assert!(
        start.elapsed() > Duration::from_millis(500),
        "it went before its helper"
    );
    let record = scene.record(container.init())?;
    let said = upcall_e2e::records::said(&record)?;
    let (exe, maps) = said.split_once('\n').context("two lines")?;
    assert_eq!(exe, "/init");
    assert!(maps.trim().parse::<u32>()? > 5, "{said}");
    assert!(record.timings_us.held.is_some_and(|held| held > 500_000));
    scene.end()
}

#[test]
fn a_helper_without_the_core_looks_at_the_process() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    // With `drop` the kernel's socket is told to write nothing at all.
    for on_failure in ["drop", "store"] {
        let scene = HostScene::by(
            MODE,
            &format!(
                "[[rule]]\nupcall = \"core\"\nmatch.container = {{}}\non_failure = \"{on_failure}\"\n\
                 run = {{ in = \"container\", command = [\"/helper\"], core = false }}\n"
            ),
        )?;
        let container = Runc::new("web")
            .user_namespace()
            .root(crate::scene::script(
                "/helper",
                "cat | wc -c; sleep 0.2; readlink /proc/1/exe",
            ))
            .start(&scene.sandbox)?;
        container.crash(container.init())?;
        until(Duration::from_secs(5), "the container's end", || {
            (!runs(container.init())).then_some(())
        })?;
        let record = scene.record(container.init())?;
        assert_eq!(record.outcome, Outcome::Done, "{record:?}");
        let said = upcall_e2e::records::said(&record)?;
        let words: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(words, ["0", "/init"], "{on_failure}");
        scene.end()?;
    }
    Ok(())
}

#[test]
fn two_at_once_are_two() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::by(MODE, PROBE_AND_STORE)?;
    let start = |name: &str| Runc::new(name).user_namespace().start(&scene.sandbox);
    let (one, other) = (start("one")?, start("other")?);
    let (one_leader, other_leader) = (one.leader()?, other.leader()?);
    one.crash(one.init())?;
    other.crash(other.init())?;
    handled_inside(&scene.record(one.init())?, &one, &one_leader)?;
    handled_inside(&scene.record(other.init())?, &other, &other_leader)?;
    drop((one, other));
    scene.end()
}

#[test]
fn nobody_enters_where_processes_that_change_ids_can_be_traced() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::by(MODE, PROBE_AND_STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let victim = container.victim(&[])?;
    hook::suid_dumpable(&scene.hook, "1")?;
    container.crash(victim)?;
    let record = scene.record(victim)?;
    let run = action(&record, "run")?;
    assert_eq!(run.stage.as_deref(), Some("undumpable"), "{record:?}");
    let message = record.message.clone().unwrap_or_default();
    assert!(message.contains("sysctl fs.suid_dumpable=0"), "{message}");
    scene.core(&record)?;
    drop(container);
    scene.end()
}

#[test]
fn a_helper_that_crashes_is_not_handled_by_itself() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::by(
        MODE,
        "[[rule]]\nupcall = \"core\"\nmatch.container = {}\n\
         run = { in = \"container\", command = [\"/crash-me\"] }\n",
    )?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let victim = container.victim(&[])?;
    container.crash(victim)?;
    let record = scene.record(victim)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_signal"),
        "{record:?}"
    );
    assert_eq!(action(&record, "run")?.signal.as_deref(), Some("SEGV"));
    pause(Duration::from_millis(500));
    assert_eq!(scene.daemon.records().all().len(), 1, "one level only");
    drop(container);
    scene.end()
}

#[test]
fn a_daemon_that_crashes_is_not_handled_by_itself() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = HostScene::by(MODE, PROBE_AND_STORE)?;
    scene.daemon.signal(Signal::SIGABRT)?;
    let pid = scene.daemon.pid();
    until(Duration::from_secs(5), "its end", || {
        (!runs(pid)).then_some(())
    })?;
    pause(Duration::from_millis(300));
    assert!(!scene.sandbox.spool().exists(), "its own core was spooled");
    let (_, dumped) = on_the_host_with(&scene, &[])?;
    if MODE != Mode::Pipe {
        // Nobody keeps the socket: what crashes is not held up, and has no core.
        assert!(!dumped);
        return Ok(());
    }
    // While it is gone the shim keeps what comes.
    assert!(dumped);
    let mut spool = std::fs::read_dir(scene.sandbox.spool())?
        .flatten()
        .map(|entry| entry.path());
    let core = spool
        .find(|path| path.extension() == Some("core".as_ref()))
        .context("a core")?;
    assert!(std::fs::read(core)?.starts_with(b"\x7fELF"));
    Ok(())
}

#[test]
fn a_process_killed_while_it_dumps_has_one_record() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::by(MODE, PROBE_AND_STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    for millis in [0, 3, 10, 30, 60] {
        let victim = container.victim(&["--mib=200"])?;
        container.crash(victim)?;
        pause(at_most(Duration::from_millis(millis)));
        let _ = kill(pid_of(victim), Signal::SIGKILL);
        until(Duration::from_secs(10), "its end", || {
            (!runs(victim)).then_some(())
        })?;
        pause(at_most(Duration::from_millis(200)));
        let all = scene.daemon.records().all();
        let of_it = all
            .iter()
            .filter(|record| record.process.pid == Some(victim))
            .count();
        // Killed before the kernel had asked, it has none.
        assert!(
            of_it == 1 || of_it == 0 && millis < 10,
            "{millis} ms: {of_it}"
        );
    }
    drop(container);
    scene.end()
}

#[test]
fn an_unregistered_namespace_is_not_entered() -> Result<()> {
    use std::os::unix::process::CommandExt;
    needs!(HostHooks, Root, Unprivileged);
    let scene = HostScene::by(MODE, PROBE_AND_STORE)?;
    let mut unshare = command("unshare");
    unshare
        .args(["-Urmpf", "--"])
        .arg(scene.sandbox.path("bin/crash-me"))
        .arg("--wait");
    unshare
        .uid(65_534)
        .gid(65_534)
        .current_dir("/")
        .stdin(Stdio::null());
    let mut unshare = unshare.spawn()?;
    let victim = until(Duration::from_secs(5), "a victim", || {
        upcall_e2e::container::children(unshare.id())
            .into_iter()
            .find(|pid| waits(*pid))
    })?;
    kill(pid_of(victim), Signal::SIGUSR1)?;
    let record = scene.record(victim)?;
    assert!(record.container.is_none());
    assert_eq!(record.process.user_namespace.as_deref(), Some("other"));
    assert_eq!(record.verdict.actions, ["store"]);
    unshare.wait()?;
    scene.end()
}
