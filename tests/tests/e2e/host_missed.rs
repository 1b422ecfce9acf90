//! Crashes that bring no upcall: one record with the likely cause, and none for what the kernel skips by its own rules.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use upcall_e2e::command::{command, pause, slowness, until};
use upcall_e2e::needs;
use upcall_e2e::rootfs::Rootfs;
use upcall_e2e::runc::Runc;
use upcalld::store::record::{Outcome, Record};

use crate::host_scene::{HostScene, PROBE_AND_STORE};
use crate::scene::script;

/// Five seconds for the upcall to come, ten in which others like it are put together, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What kills itself by a core signal, after this.
fn crash(before: &str) -> Result<u32> {
    let line = format!("{before} exec sh -c 'kill -SEGV $$'");
    let mut shell = command("sh");
    shell.args(["-c", &line]).current_dir("/");
    let mut shell = shell.stderr(Stdio::null()).spawn()?;
    shell.wait()?;
    Ok(shell.id())
}

fn missed(scene: &HostScene, reason: &str) -> Result<Record> {
    let fits = |record: &Record| record.reason.as_deref() == Some(reason);
    let record = scene.daemon.records().wait_for(PATIENCE, reason, fits)?;
    assert_eq!(record.outcome, Outcome::Missed, "{record:?}");
    Ok(record)
}

#[test]
fn a_shim_that_cannot_be_started_is_missed_and_what_the_kernel_skips_is_not() -> Result<()> {
    needs!(HostHooks, Root, Python);
    let scene = HostScene::new(PROBE_AND_STORE)?;
    // Skipped by a limit of 1, skipped because it is not dumpable; and one with a limit of 0, which is none to a pipe.
    crash("exec prlimit --core=1:1")?;
    let undumpable =
        "import ctypes, os; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); os.kill(os.getpid(), 11)";
    command("python3").args(["-c", undumpable]).status()?;
    let whole = crash("ulimit -S -c 0;")?;
    let record = scene.daemon.records().of(whole)?;
    assert_ne!(record.outcome, Outcome::Missed);
    std::fs::remove_file(scene.sandbox.libexec().join("core"))?;
    let lost = crash("ulimit -S -c 0;")?;
    let record = missed(&scene, "shim_lost")?;
    assert_eq!(record.process.pid, Some(lost));
    assert!(
        record
            .message
            .unwrap_or_default()
            .contains("cannot be executed")
    );
    // Everything else would have been written by now.
    assert_eq!(scene.daemon.records().all().len(), 2);
    std::os::unix::fs::symlink("upcall-shim", scene.sandbox.libexec().join("core"))?;
    scene.end()
}

#[test]
fn a_shim_that_dies_is_missed_once() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = HostScene::new(PROBE_AND_STORE)?;
    let shim = scene.sandbox.libexec().join("core");
    std::fs::remove_file(&shim)?;
    let script = format!("#!/bin/sh\nsleep {}\nkill -KILL $$\n", slowness());
    std::fs::write(&shim, script)?;
    std::fs::set_permissions(&shim, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    crash("ulimit -S -c 0;")?;
    crash("ulimit -S -c 0;")?;
    missed(&scene, "shim_lost")?;
    let counts = || -> Vec<u64> {
        let all = scene.daemon.records().all().into_iter();
        all.map(|record| record.count).collect()
    };
    until(PATIENCE, "both", || {
        (counts().iter().sum::<u64>() >= 2).then_some(())
    })?;
    // Two of one user's within ten seconds are one record; a slow machine takes longer.
    let counts = counts();
    let one = counts == [2] || slowness() > 1 && counts == [1, 1];
    assert!(one, "{counts:?}");
    scene.end()
}

#[test]
fn another_programs_hook_is_said_to_have_had_it() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = HostScene::new(PROBE_AND_STORE)?;
    std::fs::write("/proc/sys/kernel/core_pattern", "|/bin/false %P\n")?;
    let pid = crash("ulimit -S -c 0;")?;
    let record = missed(&scene, "hook_foreign")?;
    assert_eq!(record.process.pid, Some(pid));
    let message = record.message.unwrap_or_default();
    assert!(message.contains("|/bin/false %P"), "{message}");
    scene.end()
}

#[test]
fn what_the_kernel_has_no_place_for_is_missed_by_its_limit() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::new(
        "[[rule]]\nupcall = \"core\"\nmatch.container = {}\n\
         run = { in = \"container\", command = [\"/helper\"], timeout = \"20s\" }\n",
    )?;
    std::fs::write("/proc/sys/kernel/core_pipe_limit", "1\n")?;
    let helper = script("/helper", "cat > /dev/null; sleep 3");
    let root = |root: &Rootfs| helper(root);
    let container = Runc::new("web")
        .user_namespace()
        .root(root)
        .start(&scene.sandbox)?;
    let victim = container.victim(&[])?;
    container.crash(victim)?;
    pause(Duration::from_millis(500));
    let skipped = crash("ulimit -S -c 0;")?;
    let record = missed(&scene, "pipe_limit")?;
    // Whoever else on this host crashes in that moment is skipped too, and is in the same record.
    assert!(
        record.process.pid == Some(skipped) || record.count > 1,
        "{record:?}"
    );
    let held = scene.daemon.records().of(victim)?;
    assert_eq!(held.outcome, Outcome::Done, "{held:?}");
    drop(container);
    scene.end()
}
