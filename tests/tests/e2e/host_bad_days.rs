//! Bad days that only the real kernel can make: its places for dumps used up, and crashes of what it started itself.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use upcall_e2e::command::{pause, until};
use upcall_e2e::container::{children, pid_of, runs, sleeps};
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcall_e2e::sys::Lease;
use upcalld::store::record::Outcome;

use crate::host_scene::HostScene;
use crate::scene::{nothing_in, script};

const RUN: &str = "[[rule]]\nupcall = \"core\"\nmatch.container = {}\n\
                   run = { in = \"container\", command = [\"/helper\"], timeout = \"5s\" }\n";

const STORE: &str = "[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\n";

#[test]
fn helpers_that_pass_their_input_on_and_die_use_up_no_place_of_the_kernels() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::new(RUN)?;
    std::fs::write("/proc/sys/kernel/core_pipe_limit", "2\n")?;
    // The input goes to children that want nothing of it and outlive their parent, who is killed.
    let passes =
        "exec 3<&0; (setsid sleep 4711 <&3 >/dev/null 2>&1 &); (sleep 4711 <&3 &); kill -9 $$";
    let culprit = Runc::new("culprit")
        .user_namespace()
        .root(script("/helper", passes))
        .start(&scene.sandbox)?;
    let bystander = Runc::new("bystander")
        .user_namespace()
        .root(script("/helper", "wc -c"))
        .start(&scene.sandbox)?;
    // Twice as many as the kernel has places.
    for _ in 0..4 {
        let victim = culprit.victim(&[])?;
        culprit.crash(victim)?;
        let record = scene.record(victim)?;
        assert_eq!(
            record.reason.as_deref(),
            Some("helper_signal"),
            "{record:?}"
        );
        until(Duration::from_secs(5), "its end", || {
            (!runs(victim)).then_some(())
        })?;
    }
    let victim = bystander.victim(&[])?;
    bystander.crash(victim)?;
    let record = scene.record(victim)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert!(action(&record, "run")?.fed_bytes.is_some_and(|fed| fed > 0));
    drop((culprit, bystander));
    scene.end()
}

/// The pid of a process whose words start so.
fn started_as(words: &[u8]) -> Option<u32> {
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|w| w.starts_with(words))
        })
}

#[test]
fn what_we_are_made_of_crashes_without_calling_itself() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let slow = "cat > /dev/null; sleep 2";
    let scene = HostScene::new(&format!(
        "{RUN}store = {{ ignore_limit = true }}\n[[rule]]\nupcall = \"core\"\nstore = {{ ignore_limit = true }}\n"
    ))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", slow))
        .start(&scene.sandbox)?;
    let crash = || -> Result<u32> {
        let victim = container.victim(&["--mib=20"])?;
        container.crash(victim)?;
        Ok(victim)
    };
    let mut ours = Vec::new();
    // A keeper, while its helper runs.
    let victim = crash()?;
    let launcher = scene.daemon.launcher();
    let keeper = until(Duration::from_secs(5), "a keeper", || {
        let mut all = children(launcher).into_iter();
        all.find(|pid| !children(*pid).is_empty())
    })?;
    ours.push(keeper);
    kill(pid_of(keeper), Signal::SIGSEGV)?;
    scene.record(victim)?;
    // The shim, while the daemon does not answer.
    scene.daemon.halt()?;
    let victim = crash()?;
    let shim = scene.sandbox.libexec().join("core");
    let shim = until(Duration::from_secs(5), "the shim", || {
        started_as(shim.as_os_str().as_encoded_bytes())
    })?;
    ours.push(shim);
    // Not before it has asked: of one that never did nobody would know, since the daemon could not look at the process.
    until(Duration::from_secs(5), "a shim that waits", || {
        sleeps(shim).then_some(())
    })?;
    kill(pid_of(shim), Signal::SIGSEGV)?;
    until(Duration::from_secs(5), "the shim's end", || {
        (!runs(shim)).then_some(())
    })?;
    scene.daemon.signal(Signal::SIGCONT)?;
    let record = scene.daemon.records().of(victim)?;
    assert_eq!(record.outcome, Outcome::Lost, "{record:?}");
    assert_eq!(record.reason.as_deref(), Some("late"));
    // And a ready keeper, which the launcher replaces.
    let ready = children(launcher);
    for pid in ready {
        ours.push(pid);
        kill(pid_of(pid), Signal::SIGSEGV)?;
    }
    pause(Duration::from_millis(500));
    let victim = crash()?;
    let record = scene.record(victim)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    // Longer than an announcement is waited for, and than like ones are put together.
    pause(Duration::from_secs(17));
    let all = scene.daemon.records().all();
    for record in &all {
        assert!(
            !record.process.pid.is_some_and(|pid| ours.contains(&pid)),
            "{record:?}"
        );
    }
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(nothing_in(&scene.sandbox.spool()));
    drop(container);
    scene.end()
}

/// By socket nothing is begun before an answer; `host_socket` kills one while nobody has answered.
#[test]
fn a_process_killed_before_the_first_byte_has_an_empty_core() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::new(STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let victim = container.victim(&[])?;
    // The kernel waits until the shim is executed, whatever comes, and then looks whether to dump at all.
    let lease = Lease::take(&scene.sandbox.libexec().join("upcall-shim"))?;
    container.crash(victim)?;
    until(Duration::from_secs(5), "the kernel to start it", || {
        lease.waited_for().then_some(())
    })?;
    kill(pid_of(victim), Signal::SIGKILL)?;
    drop(lease);
    until(Duration::from_secs(5), "its end", || {
        (!runs(victim)).then_some(())
    })?;
    // By then it may be gone for everybody who looks.
    let record = scene.daemon.records().of(victim)?;
    let store = action(&record, "store")?;
    assert_eq!(
        (store.stored_bytes, &store.path),
        (Some(0), &None),
        "{record:?}"
    );
    assert!(nothing_in(&scene.sandbox.state().join("cores")));
    drop(container);
    scene.end()
}
