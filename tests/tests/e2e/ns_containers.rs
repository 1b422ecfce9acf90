//! Containers that are paused, end, or are gone while they are wanted.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use upcall_e2e::cgroup;
use upcall_e2e::command::{at_most, until};
use upcall_e2e::container::{Container, runs};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcalld::store::record::Outcome;

use crate::scene::{Scene, run_rule, script};

/// A container paused by writing to this file of its cgroup; unpaused when dropped.
struct Paused {
    file: PathBuf,
    thaw: &'static str,
}

impl Paused {
    fn cgroup2(container: &Container) -> Result<Self> {
        let cgroup = cgroup::of(&container.leader()?)?;
        std::fs::write(cgroup.join("cgroup.freeze"), "1")?;
        until(Duration::from_secs(2), "the freezer", || {
            let events = std::fs::read_to_string(cgroup.join("cgroup.events")).ok()?;
            events.contains("frozen 1").then_some(())
        })?;
        let file = cgroup.join("cgroup.freeze");
        Ok(Self { file, thaw: "0" })
    }

    fn v1(container: &Container) -> Result<Self> {
        let leader = container.leader()?;
        let path = leader.cgroup_path("freezer").context("the freezer")?;
        let cgroup = PathBuf::from("/sys/fs/cgroup/freezer").join(path.trim_start_matches('/'));
        let file = cgroup.join("freezer.state");
        std::fs::write(&file, "FROZEN")?;
        until(Duration::from_secs(2), "the freezer", || {
            std::fs::read_to_string(&file)
                .ok()?
                .starts_with("FROZEN")
                .then_some(())
        })?;
        Ok(Self {
            file,
            thaw: "THAWED",
        })
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        drop(std::fs::write(&self.file, self.thaw));
    }
}

fn paused_is_refused(pause: impl FnOnce(&Container) -> Result<Paused>) -> Result<()> {
    let scene = Scene::new(&run_rule(r#""/probe""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let paused = pause(&container)?;
    let start = Instant::now();
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("container_frozen"),
        "{record:?}"
    );
    assert_eq!(action(&record, "run")?.stage.as_deref(), Some("freezer"));
    assert_eq!(scene.kept(&record)?, dump.core());
    assert!(
        start.elapsed() < at_most(Duration::from_secs(1)),
        "it is refused, not waited for"
    );
    drop(paused);
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    drop(container);
    scene.end()
}

#[test]
fn one_that_is_paused_is_not_entered() -> Result<()> {
    needs!(Root, Runc);
    paused_is_refused(Paused::cgroup2)
}

#[test]
fn one_that_is_paused_by_the_old_freezer_is_not_entered() -> Result<()> {
    needs!(Root, Runc, FreezerV1);
    paused_is_refused(Paused::v1)
}

#[test]
fn one_that_is_paused_while_its_helper_runs() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script(
            "/helper",
            "cat > /dev/null; echo here > /tmp/here; sleep 100",
        ))
        .start(&scene.sandbox)?;
    let started = CoreDump::of(container.init())?.start(&scene.sandbox)?;
    let here = container.root().inside("/tmp/here");
    until(Duration::from_secs(5), "the helper", || {
        here.exists().then_some(())
    })?;
    let paused = Paused::cgroup2(&container)?;
    // Its time goes on, and cgroup.kill reaches frozen processes (cgroups(7)).
    started.wait()?;
    let record = scene.daemon.records().of(container.init())?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_timeout"),
        "{record:?}"
    );
    drop(paused);
    drop(container);
    scene.end()
}

#[test]
fn one_that_ends_while_its_helper_runs() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script(
            "/helper",
            "cat > /dev/null; echo here > /tmp/here; sleep 100",
        ))
        .start(&scene.sandbox)?;
    let started = CoreDump::of(container.init())?.start(&scene.sandbox)?;
    let here = container.root().inside("/tmp/here");
    until(Duration::from_secs(5), "the helper", || {
        here.exists().then_some(())
    })?;
    let start = Instant::now();
    container.kill()?;
    started.wait()?;
    let record = scene.daemon.records().of(container.init())?;
    assert_eq!(
        (record.outcome, record.reason.as_deref()),
        (Outcome::Failed, Some("helper_signal"))
    );
    assert_eq!(action(&record, "run")?.signal.as_deref(), Some("KILL"));
    until(Duration::from_secs(2), "its end", || {
        (!runs(container.init())).then_some(())
    })?;
    assert!(
        start.elapsed() < at_most(Duration::from_secs(1)),
        "its end waits for nobody"
    );
    scene.end()
}

#[test]
fn a_process_that_is_gone_is_nobodys_and_nothing_is_entered_for_it() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(
        "[[rule]]\nupcall = \"core\"\nrun = { in = \"container\", command = [\"/probe\"] }\n",
    )?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let victim = container.victim(&[])?;
    // One in whose place nobody stands, and one whose number somebody else has.
    let gone = CoreDump::of(victim)?;
    let another = gone.clone().word("%P", container.init().to_string());
    nix::sys::signal::kill(
        upcall_e2e::container::pid_of(victim),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    until(Duration::from_secs(2), "its end", || {
        (!runs(victim)).then_some(())
    })?;
    for dump in [gone, another] {
        let (record, _) = scene.dump(&dump)?;
        assert_eq!(
            record.verdict.host_only.as_deref(),
            Some("identity_lost"),
            "{record:?}"
        );
        assert_eq!(
            record.reason.as_deref(),
            Some("identity_lost"),
            "{record:?}"
        );
        assert!(record.container.is_none() && record.evidence.process.is_none());
        // What the kernel said is told, and the core is kept on the host.
        assert_eq!(record.process.comm.as_deref(), Some("crash-me"));
        assert_eq!(scene.kept(&record)?, dump.core());
    }
    scene.end()
}

#[test]
fn a_number_without_a_pidfd_has_to_belong_to_a_process_that_dumps() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/probe""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    // A kernel without %F; and a process that lives on and dumps nothing.
    let dump = CoreDump::of(container.init())?.without_pidfd();
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(
        record.verdict.host_only.as_deref(),
        Some("identity_lost"),
        "{record:?}"
    );
    let message = record.message.clone().unwrap_or_default();
    assert!(message.contains("does not dump core"), "{message}");
    scene.end()
}
