//! Helpers that are not there, fail, hang, flood, fork and fall: what the record says, and that nothing is left.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use upcall_e2e::command::{at_most, until};
use upcall_e2e::container::{Container, runs};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::Leader;
use upcall_e2e::needs;
use upcall_e2e::records::{action, report, said};
use upcall_e2e::registered::{INSIDE, OWNER, Registered};
use upcall_e2e::rootfs::Rootfs;
use upcall_e2e::runc::Runc;
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, run_rule, script};

/// A container with something at /helper, and the record of a dump that is to run it.
fn helper(
    rules: &str,
    make: impl FnOnce(&Rootfs) -> Result<()> + 'static,
) -> Result<(Scene, Container, CoreDump, Record)> {
    let scene = Scene::new(rules)?;
    let container = Runc::new("web")
        .user_namespace()
        .root(make)
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let (record, _) = scene.dump(&dump)?;
    Ok((scene, container, dump, record))
}

/// The rule of most tests here: what cannot run is kept.
fn rule() -> String {
    run_rule(r#""/helper""#, "")
}

/// A helper that never started: why, at which stage, with which error; and the core is kept.
fn not_started(
    make: impl FnOnce(&Rootfs) -> Result<()> + 'static,
    (reason, stage, errno): (&str, &str, &str),
) -> Result<()> {
    let (scene, _container, dump, record) = helper(&rule(), make)?;
    assert_eq!(record.outcome, Outcome::Partial, "{record:?}");
    assert_eq!(record.reason.as_deref(), Some(reason), "{record:?}");
    let run = action(&record, "run")?;
    assert_eq!(run.outcome, Outcome::Failed);
    assert_eq!(
        (run.stage.as_deref(), run.errno.as_deref()),
        (Some(stage), Some(errno))
    );
    let message = record.message.clone().unwrap_or_default();
    assert!(message.starts_with("/helper"), "{message}");
    assert_eq!(scene.kept(&record)?, dump.core());
    scene.end()
}

#[test]
fn a_helper_that_is_not_there() -> Result<()> {
    needs!(Root, Runc);
    not_started(|_| Ok(()), ("helper_missing", "program", "ENOENT"))
}

#[test]
fn a_helper_that_may_not_be_executed() -> Result<()> {
    needs!(Root, Runc);
    let plain = |root: &Rootfs| root.file("/helper", "#!/bin/sh\n", 0o644);
    not_started(plain, ("helper_not_executable", "exec", "EACCES"))
}

#[test]
fn a_helper_that_is_a_directory() -> Result<()> {
    needs!(Root, Runc);
    let directory = |root: &Rootfs| Ok(std::fs::create_dir(root.inside("/helper"))?);
    not_started(directory, ("helper_not_executable", "program", "EACCES"))
}

#[test]
fn a_helper_that_is_a_fifo() -> Result<()> {
    needs!(Root, Runc);
    let fifo = |root: &Rootfs| {
        Ok(nix::unistd::mkfifo(
            &root.inside("/helper"),
            nix::sys::stat::Mode::from_bits_truncate(0o755),
        )?)
    };
    not_started(fifo, ("helper_not_executable", "program", "EACCES"))
}

#[test]
fn a_script_whose_interpreter_is_not_there() -> Result<()> {
    needs!(Root, Runc);
    let script = |root: &Rootfs| root.file("/helper", "#!/nowhere/sh\n", 0o755);
    not_started(script, ("helper_not_executable", "exec", "ENOENT"))
}

#[test]
fn a_program_whose_loader_is_not_there() -> Result<()> {
    needs!(Root, Runc);
    // The host's /bin/sh is dynamic; the container has no libc.
    let dynamic = |root: &Rootfs| Ok(std::fs::copy("/bin/sh", root.inside("/helper")).map(drop)?);
    not_started(dynamic, ("helper_not_executable", "exec", "ENOENT"))
}

#[test]
fn a_file_that_is_no_program() -> Result<()> {
    needs!(Root, Runc);
    let text = |root: &Rootfs| root.file("/helper", "no program\n", 0o755);
    not_started(text, ("helper_not_executable", "exec", "ENOEXEC"))
}

#[test]
fn a_helper_that_could_not_start_does_not_hold_up_its_containers_end() -> Result<()> {
    needs!(Root, Runc);
    let (scene, container, _, record) = helper(&rule(), |_| Ok(()))?;
    assert_eq!(record.reason.as_deref(), Some("helper_missing"));
    // A child of ours that nobody reaped would keep PID 1 from ending (pid_namespaces(7)).
    let start = Instant::now();
    container.kill()?;
    until(Duration::from_secs(2), "the end of PID 1", || {
        (!runs(container.init())).then_some(())
    })?;
    assert!(start.elapsed() < at_most(Duration::from_secs(1)));
    scene.end()
}

#[test]
fn a_helper_that_exits_with_an_error() -> Result<()> {
    needs!(Root, Runc);
    let (scene, _container, _, record) = helper(
        &rule(),
        script("/helper", "cat >/dev/null; echo sorry; exit 3"),
    )?;
    assert_eq!(
        (record.outcome, record.reason.as_deref()),
        (Outcome::Failed, Some("helper_exit"))
    );
    let run = action(&record, "run")?;
    assert_eq!(
        (run.exit_code, run.output.as_deref()),
        (Some(3), Some(r"sorry\x0a"))
    );
    // It had the core; what it made of it is its own business.
    assert!(scene.kept(&record).is_err());
    scene.end()
}

#[test]
fn a_helper_that_is_killed() -> Result<()> {
    needs!(Root, Runc);
    let (scene, _container, _, record) = helper(&rule(), script("/helper", "kill -9 $$"))?;
    assert_eq!(
        (record.outcome, record.reason.as_deref()),
        (Outcome::Failed, Some("helper_signal"))
    );
    assert_eq!(action(&record, "run")?.signal.as_deref(), Some("KILL"));
    scene.end()
}

#[test]
fn a_helper_that_hangs_is_ended() -> Result<()> {
    needs!(Root, Runc);
    let start = Instant::now();
    let text = "trap '' TERM INT HUP; echo waiting; while :; do sleep 100; done";
    let (scene, _container, _, record) = helper(&rule(), script("/helper", text))?;
    assert_eq!(
        (record.outcome, record.reason.as_deref()),
        (Outcome::Failed, Some("helper_timeout"))
    );
    assert_eq!(said(&record)?, "waiting\n");
    let took = start.elapsed();
    assert!(
        (Duration::from_secs(1)..at_most(Duration::from_secs(4))).contains(&took),
        "{took:?}"
    );
    scene.end()
}

#[test]
fn a_helper_without_the_core_that_talks_for_ever_is_ended() -> Result<()> {
    needs!(Root, Runc);
    let rule = "[[rule]]\nupcall = \"core\"\nmatch.container = {}\nrun = { in = \"container\", \
                command = [\"/helper\"], core = false, timeout = \"1s\" }\n";
    let text = "while :; do echo still here; sleep 0.05; done";
    let (scene, _container, _, record) = helper(rule, script("/helper", text))?;
    assert_eq!(
        (record.outcome, record.reason.as_deref()),
        (Outcome::Failed, Some("helper_timeout"))
    );
    assert!(said(&record)?.starts_with("still here\nstill here\n"));
    scene.end()
}

#[test]
fn a_helper_that_floods_its_output_is_heard_and_not_believed() -> Result<()> {
    needs!(Root, Runc);
    let text = "cat >/dev/null; yes '\x1b[31mred' | head -c 20000000; exit 0";
    let (scene, _container, _, record) = helper(&rule(), script("/helper", text))?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let said = said(&record)?;
    assert_eq!(said.len(), 4096);
    assert!(said.starts_with("\x1b[31mred\n"));
    let output = action(&record, "run")?.output.clone().unwrap_or_default();
    assert!(output.starts_with(r"\x1b[31mred\x0a"));
    scene.end()
}

#[test]
fn a_helper_that_wants_no_more_of_its_input() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&rule())?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "exec <&-; sleep 0.3; echo done"))
        .start(&scene.sandbox)?;
    let (record, ended) = scene.dump(&CoreDump::of(container.init())?.bytes(8 << 20))?;
    assert_eq!(
        (record.outcome, said(&record)?.as_str()),
        (Outcome::Done, "done\n")
    );
    assert_eq!(ended.code, 0);
    assert!(
        action(&record, "run")?
            .fed_bytes
            .is_some_and(|fed| fed < 8 << 20)
    );
    scene.end()
}

#[test]
fn a_helper_that_leaves_at_once() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&rule())?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "exit 0"))
        .start(&scene.sandbox)?;
    let (record, ended) = scene.dump(&CoreDump::of(container.init())?.bytes(8 << 20))?;
    assert_eq!(
        (record.outcome, ended.code, ended.taken),
        (Outcome::Done, 0, false)
    );
    scene.end()
}

#[test]
fn what_a_helper_leaves_running_is_ended_with_it() -> Result<()> {
    needs!(Root, Runc);
    let text = "cat >/dev/null; setsid sleep 4711 </dev/null >/dev/null 2>&1 & (setsid sh -c 'trap \"\" HUP TERM; \
                while :; do sleep 4711; done' </dev/null >/dev/null 2>&1 &) ; sleep 0.2; ps | grep -c '[s]leep 4711'";
    let (scene, container, _, record) = helper(&rule(), script("/helper", text))?;
    assert_eq!(
        (record.outcome, said(&record)?.as_str()),
        (Outcome::Done, "3\n"),
        "{record:?}"
    );
    let left = || container.exec(&["/bin/sh", "-c", "ps | grep -c '[s]leep 4711' || true"]);
    until(Duration::from_secs(2), "nothing to be left", || {
        left().is_ok_and(|count| count.trim() == "0").then_some(())
    })?;
    scene.end()
}

#[test]
fn a_helper_that_keeps_its_output_open_for_others_is_not_waited_for() -> Result<()> {
    needs!(Root, Runc);
    // The child has the helper's standard output: its end is the helper's, not the pipe's.
    let text = "cat >/dev/null; setsid sleep 4711 & echo done";
    let start = Instant::now();
    let (scene, _container, _, record) = helper(&rule(), script("/helper", text))?;
    assert_eq!(
        (record.outcome, said(&record)?.as_str()),
        (Outcome::Done, "done\n")
    );
    assert!(start.elapsed() < at_most(Duration::from_secs(4)));
    scene.end()
}

#[test]
fn a_helper_gets_no_more_address_space_than_its_rule_gives() -> Result<()> {
    needs!(Root, Runc);
    let rule = rule().replace("timeout", "address_space = \"64MiB\", timeout");
    let text =
        "cat >/dev/null; ulimit -v; dd if=/dev/zero of=/dev/null bs=128M count=1 2>&1 | tail -1";
    let (scene, _container, _, record) = helper(&rule, script("/helper", text))?;
    let said = said(&record)?;
    assert!(
        said.starts_with("65536\n") && said.contains("out of memory"),
        "{said}"
    );
    scene.end()
}

#[test]
fn a_helper_gets_no_more_memory_than_its_rule_gives() -> Result<()> {
    needs!(Root, Runc, MemoryController);
    let limited = "cgroup = \"broker\", memory = \"16MiB\", timeout";
    // It is dd that is over it; the shell goes on and tells.
    let text = "cat >/dev/null; dd if=/dev/zero of=/dev/null bs=64M count=1; echo $?; cat /proc/self/cgroup";
    let (scene, _container, _, record) =
        helper(&rule().replace("timeout", limited), script("/helper", text))?;
    let said = said(&record)?;
    let cgroup = format!("/upcalld/upcall-{}", record.id);
    assert!(said.contains("137\n") && said.contains(&cgroup), "{said}");
    for hierarchy in ["", "/unified", "/memory"] {
        let left = format!("/sys/fs/cgroup{hierarchy}/upcalld/upcall-{}", record.id);
        until(Duration::from_secs(2), "its cgroups to go", || {
            (!Path::new(&left).exists()).then_some(())
        })?;
    }
    scene.end()
}

#[test]
fn where_no_memory_can_be_limited_a_rule_that_does_is_refused_and_says_so() -> Result<()> {
    needs!(Root, Runc, Guest);
    let limited = "cgroup = \"broker\", memory = \"16MiB\", timeout";
    let scene = Scene::new(&rule().replace("timeout", limited))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "cat >/dev/null"))
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    // Whoever makes cgroups gives their children the controller, as runc has just done.
    let given = "/sys/fs/cgroup/cgroup.subtree_control";
    std::fs::write(given, "-memory")?;
    let (record, _) = scene.dump(&dump)?;
    let run = action(&record, "run")?;
    assert_eq!(run.outcome, Outcome::Failed, "{record:?}");
    let message = run.message.as_deref().unwrap_or_default();
    assert!(message.contains("run.address_space"), "{record:?}");
    std::fs::write(given, "+memory")?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    drop(container);
    scene.end()
}

#[test]
fn uid_0_of_a_container_that_has_none_is_not_taken() -> Result<()> {
    needs!(Root, Unprivileged);
    let rule = run_rule(r#""/probe""#, "").replace("timeout", "user = \"root\", timeout");
    let scene = Scene::with_settings(Registered::SETTINGS, &rule)?;
    let container = Registered::start(&scene.sandbox, "box")?;
    let dump = CoreDump::of(container.init())?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("uid_not_mapped"),
        "{record:?}"
    );
    assert_eq!(scene.kept(&record)?, dump.core());
    scene.end()
}

#[test]
fn without_a_uid_0_the_inits_own_ids_are_taken() -> Result<()> {
    needs!(Root, Unprivileged);
    let scene = Scene::with_settings(Registered::SETTINGS, &run_rule(r#""/probe""#, ""))?;
    let container = Registered::start(&scene.sandbox, "box")?;
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let run = action(&record, "run")?;
    assert_eq!((run.uid, run.uid_inside), (Some(OWNER), Some(INSIDE)));
    let report = report(&record)?;
    assert_eq!((report.uid, report.gid), ([INSIDE; 4], [INSIDE; 4]));
    assert_eq!(report.capabilities.count(), 0);
    assert_eq!(
        report.namespaces,
        Leader::read(container.init())?.namespaces
    );
    scene.end()
}
