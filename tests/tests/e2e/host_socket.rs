//! The kernel's own coredump socket: what is tried with its pipe, again; and what is this way's alone.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use upcall_e2e::command::{at_most, command, pause, slowness, until};
use upcall_e2e::container::{pid_of, runs};
use upcall_e2e::daemon::{Daemon, Sockets};
use upcall_e2e::hook::HostHook;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::sys::limit_descriptors;
use upcalld::hooks::install::Mode;
use upcalld::hooks::pattern::kernel_socket;
use upcalld::store::record::{Outcome, Record};

use crate::host_scene::HostScene;
use crate::ns_faults::leave_descriptors;

#[expect(
    clippy::duplicate_mod,
    reason = "the same crashes, asked about another way"
)]
#[path = "host_crashes.rs"]
mod crashes;
#[expect(clippy::duplicate_mod, reason = "the same, asked about another way")]
#[path = "host_cut_short.rs"]
mod cut_short;
#[expect(clippy::duplicate_mod, reason = "the same, asked about another way")]
#[path = "host_kinds.rs"]
mod kinds;
#[expect(clippy::duplicate_mod, reason = "the same, asked about another way")]
#[path = "host_storm.rs"]
mod storm;
#[expect(clippy::duplicate_mod, reason = "the same, asked about another way")]
#[path = "host_takers.rs"]
mod takers;

const MODE: Mode = Mode::Socket;

/// The same needs, and a kernel with the socket.
macro_rules! needs {
    ($($need:ident),+) => { upcall_e2e::needs!(CoreSocket, $($need),+) };
}
use needs;

const DENY: &str = "[[rule]]\nupcall = \"core\"\nmatch.process = { comm = \"crash-me\" }\ndeny = { reason = \"none of them\" }\n";
const STORE: &str = "[[rule]]\nupcall = \"core\"\nmatch.process = { comm = \"*\" }\nstore = { ignore_limit = true }\n";

/// Of the host.
fn victim(sandbox: &Sandbox, words: &[&str]) -> Result<Child> {
    let mut victim = command(sandbox.path("bin/crash-me"));
    victim.args(words).current_dir(sandbox.root());
    Ok(victim.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// Whether a process is in its dump, for which it has asked or is about to.
fn dumps(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| status.contains("CoreDumping:\t1"))
}

/// Waits until they all wait for an answer.
fn parked(victims: &[Child]) -> Result<()> {
    until(Duration::from_secs(20), "crashes", || {
        victims
            .iter()
            .all(|victim| dumps(victim.id()))
            .then_some(())
    })
}

#[test]
fn what_is_denied_is_not_dumped() -> Result<()> {
    needs!(HostHooks, Root);
    for mode in [Mode::Socket, Mode::PlainSocket] {
        let scene = HostScene::by(mode, DENY)?;
        let start = Instant::now();
        let mut victim = victim(&scene.sandbox, &["--mib=200"])?;
        let status = victim.wait()?;
        assert!(
            start.elapsed() < at_most(Duration::from_secs(5)),
            "{mode:?}"
        );
        assert_eq!(status.signal(), Some(Signal::SIGSEGV as i32));
        // By the kernel's own word nothing was written, where it was told before it began.
        assert!(mode == Mode::PlainSocket || !status.core_dumped());
        let record = scene.record(victim.id())?;
        assert_eq!(record.outcome, Outcome::Refused, "{record:?}");
        assert_eq!(record.reason.as_deref(), Some("rule"));
        scene.end()?;
    }
    Ok(())
}

#[test]
fn a_core_that_comes_without_a_question_is_taken() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = HostScene::by(Mode::PlainSocket, STORE)?;
    let mut victim = victim(&scene.sandbox, &["--mib=20"])?;
    assert!(victim.wait()?.core_dumped());
    let record = scene.record(victim.id())?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert!(scene.core(&record)?.len() > 20 << 20);
    scene.end()
}

/// What a record says of a crash, without what differs from crash to crash.
fn said(record: &Record) -> Result<Value> {
    let mut said = serde_json::to_value(record)?;
    for path in [
        "/id",
        "/time",
        "/timings_us",
        "/actions",
        "/process/pid",
        "/process/tid",
    ] {
        *said.pointer_mut(path).context(path)? = Value::Null;
    }
    for path in [
        "/process/pid_inside",
        "/process/tid_inside",
        "/core/hook",
        "/verdict/trace",
        "/verdict/rule",
    ] {
        *said.pointer_mut(path).context(path)? = Value::Null;
    }
    Ok(said)
}

#[test]
fn a_record_is_the_same_whichever_way_it_came() -> Result<()> {
    needs!(HostHooks, Root);
    let records = [Mode::Pipe, Mode::Socket].map(|mode| -> Result<_> {
        let scene = HostScene::by(mode, STORE)?;
        let words = ["--threads=3", "--leader-exits", "--core-limit=123456789"];
        let mut victim = victim(&scene.sandbox, &words)?;
        victim.wait()?;
        let record = scene.record(victim.id())?;
        assert!(record.process.tid != record.process.pid, "{record:?}");
        let said = said(&record)?
            .to_string()
            .replace(scene.sandbox.root(), "/T");
        scene.end()?;
        Ok(said)
    });
    let [pipe, socket] = records;
    assert_eq!(pipe?, socket?);
    Ok(())
}

/// Connects, asks as the kernel would, and then crashes.
const FORGE: &str = "import os, socket, struct, sys, time\n\
    s = socket.socket(socket.AF_UNIX)\n\
    s.connect(sys.argv[1])\n\
    try: s.send(struct.pack('IIQ', 16, 16, 15))\n\
    except OSError: pass\n\
    time.sleep(0.3)\n\
    os.kill(os.getpid(), 11)";

#[test]
fn who_connects_and_then_crashes_is_asked_about_by_the_kernel_alone() -> Result<()> {
    needs!(HostHooks, Root, Python);
    let scene = HostScene::by(MODE, STORE)?;
    let socket = kernel_socket(&scene.sandbox.sockets(), &scene.sandbox.hooks());
    let mut forger = command("python3");
    let mut forger = forger.args(["-c", FORGE]).arg(socket).spawn()?;
    forger.wait()?;
    let record = scene.record(forger.id())?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    scene.core(&record)?;
    scene
        .daemon
        .logs("not the kernel, which connects for what dumps core")?;
    assert_eq!(scene.daemon.records().all().len(), 1);
    scene.end()
}

#[test]
fn a_process_killed_while_nobody_answers_is_recorded() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = HostScene::by(MODE, STORE)?;
    scene.daemon.halt()?;
    let mut victims = vec![victim(&scene.sandbox, &[])?, victim(&scene.sandbox, &[])?];
    parked(&victims)?;
    let mut killed = victims.remove(0);
    drop(killed.kill());
    killed.wait()?;
    scene.daemon.signal(Signal::SIGCONT)?;
    let record = scene.daemon.records().of(killed.id())?;
    let reason = record.reason.as_deref();
    assert_eq!(
        (record.outcome, reason),
        (Outcome::Lost, Some("killed")),
        "{record:?}"
    );
    let mut other = victims.remove(0);
    assert!(other.wait()?.core_dumped());
    assert_eq!(scene.record(other.id())?.outcome, Outcome::Done);
    scene.end()
}

#[test]
fn hundreds_that_wait_are_all_answered() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = HostScene::by(MODE, DENY)?;
    scene.daemon.halt()?;
    let crash = |_| victim(&scene.sandbox, &[]);
    let mut victims = (0..300).map(crash).collect::<Result<Vec<_>>>()?;
    parked(&victims)?;
    scene.daemon.signal(Signal::SIGCONT)?;
    for victim in &mut victims {
        victim.wait()?;
    }
    for victim in &victims {
        assert_eq!(scene.record(victim.id())?.outcome, Outcome::Refused);
    }
    assert_eq!(scene.daemon.records().all().len(), victims.len());
    scene.end()
}

#[test]
fn more_at_once_than_may_be_are_refused_and_nothing_of_them_is_dumped() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = HostScene::with_settings(MODE, "limits.concurrent = 1", STORE)?;
    // One whose core takes as long as we like.
    let mut first = victim(&scene.sandbox, &["--mib=400"])?;
    let worker = scene.stopped_worker()?;
    let crash = |_| victim(&scene.sandbox, &[]);
    let mut more = (0..20).map(crash).collect::<Result<Vec<_>>>()?;
    for victim in &mut more {
        assert!(!victim.wait()?.core_dumped());
    }
    assert!(runs(first.id()));
    kill(pid_of(worker), Signal::SIGCONT)?;
    assert!(first.wait()?.core_dumped());
    scene.core(&scene.record(first.id())?)?;
    // The first of them has a record of its own, in which the others are counted.
    let refused = || {
        let records = scene.daemon.records().all().into_iter();
        let of = records.filter(|record| record.reason.as_deref() == Some("concurrency"));
        of.map(|record| record.count).sum::<u64>()
    };
    until(Duration::from_secs(15), "all of them told", || {
        (refused() == 20).then_some(())
    })?;
    // And then the next is kept as ever.
    let mut next = victim(&scene.sandbox, &[])?;
    assert!(next.wait()?.core_dumped());
    scene.core(&scene.record(next.id())?)?;
    scene.end()
}

#[test]
fn a_daemon_that_is_killed_before_it_answers_parks_nobody() -> Result<()> {
    needs!(HostHooks, Root);
    for step in ["examined", "opened"] {
        let hook = HostHook::borrow()?;
        let sandbox = Sandbox::new()?;
        sandbox.rules(STORE)?;
        let stops = |daemon: &mut Command| {
            daemon.args(["--stop-at", step]);
        };
        let daemon = Daemon::start_with(&sandbox, stops)?;
        hook.install_as(&sandbox, MODE)?;
        let mut parked = victim(&sandbox, &[])?;
        daemon.stopped()?;
        assert!(dumps(parked.id()) && runs(parked.id()));
        daemon.kill()?;
        let start = Instant::now();
        assert!(!parked.wait()?.core_dumped(), "{step}");
        assert!(start.elapsed() < at_most(Duration::from_secs(2)), "{step}");
        let daemon = Daemon::start_strict(&sandbox)?;
        let record = daemon.records().of(parked.id())?;
        assert_eq!(record.outcome, Outcome::Lost, "{record:?}");
        assert_eq!(record.reason.as_deref(), Some("daemon_down"));
        assert_eq!(record.process.comm.as_deref(), Some("crash-me"));
        assert_eq!(daemon.records().all().len(), 1, "{step}");
        let mut next = victim(&sandbox, &[])?;
        assert!(next.wait()?.core_dumped());
        assert_eq!(daemon.records().of(next.id())?.outcome, Outcome::Done);
        hook.put_back()?;
        daemon.stop(&sandbox)?;
    }
    Ok(())
}

#[test]
fn without_a_free_descriptor_a_crash_by_socket_has_its_record() -> Result<()> {
    needs!(HostHooks, Root);
    let hook = HostHook::borrow()?;
    let sandbox = Sandbox::new()?;
    sandbox.rules(STORE)?;
    let daemon = Daemon::start_strict(&sandbox)?;
    hook.install_as(&sandbox, MODE)?;
    let mut scarce = 0;
    // Some of these are enough to be known with, and not to be looked for with.
    for free in (0..32).step_by(if slowness() == 1 { 1 } else { 4 }) {
        let most = leave_descriptors(daemon.pid(), free)?;
        let mut crashing = victim(&sandbox, &[])?;
        pause(Duration::from_millis(200));
        limit_descriptors(daemon.pid(), most)?;
        crashing.wait()?;
        let of = |record: &Record| record.process.pid == Some(crashing.id());
        let record = daemon.records().wait("this crash", of);
        let record = record.with_context(|| format!("{free} free: {}", daemon.log()))?;
        let expected = match record.reason.as_deref() {
            Some("resources") => Outcome::Lost,
            _ => Outcome::Done,
        };
        scarce += u32::from(expected == Outcome::Lost);
        assert_eq!(record.outcome, expected, "{free} free: {record:?}");
    }
    assert!(scarce > 0);
    hook.put_back()?;
    daemon.stop(&sandbox)
}

#[test]
fn what_crashes_while_the_daemon_is_started_again_waits_for_it() -> Result<()> {
    needs!(HostHooks, Root);
    let hook = HostHook::borrow()?;
    let sandbox = Sandbox::new()?;
    sandbox.rules(STORE)?;
    let sockets = Sockets::listen(&sandbox)?;
    let daemon = Daemon::start_activated(&sandbox, &sockets)?;
    hook.install_as(&sandbox, MODE)?;
    assert!(victim(&sandbox, &[])?.wait()?.core_dumped());
    daemon.stop(&sandbox)?;
    let mut meanwhile = vec![victim(&sandbox, &[])?, victim(&sandbox, &[])?];
    parked(&meanwhile)?;
    let daemon = Daemon::start_activated(&sandbox, &sockets)?;
    for victim in &mut meanwhile {
        assert!(victim.wait()?.core_dumped());
        assert_eq!(daemon.records().of(victim.id())?.outcome, Outcome::Done);
    }
    hook.put_back()?;
    daemon.stop(&sandbox)
}

#[test]
fn what_waits_at_a_socket_of_the_daemons_own_is_answered_before_it_ends() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = HostScene::by(MODE, DENY)?;
    scene.daemon.halt()?;
    let mut victims = vec![victim(&scene.sandbox, &[])?, victim(&scene.sandbox, &[])?];
    parked(&victims)?;
    scene.daemon.signal(Signal::SIGTERM)?;
    scene.daemon.signal(Signal::SIGCONT)?;
    for victim in &mut victims {
        victim.wait()?;
        assert_eq!(scene.record(victim.id())?.outcome, Outcome::Refused);
    }
    until(Duration::from_secs(10), "its end", || {
        (!Path::new(&format!("/proc/{}/fd/0", scene.daemon.pid())).exists()).then_some(())
    })?;
    let _ = kill(pid_of(scene.daemon.pid()), Signal::SIGCONT);
    Ok(())
}
