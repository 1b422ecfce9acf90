//! Attacks by somebody who would rather be in no container: what a rule refuses to containers it refuses to him.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use upcall_e2e::cgroup::{self, Child};
use upcall_e2e::container::{Container, pid_of};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::Leader;
use upcall_e2e::lxc::{self, Lxc};
use upcall_e2e::needs;
use upcall_e2e::registered::Registered;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Record;

use crate::scene::{Scene, kept_by_its_shim};

/// What is nobody's to escape from, and what happens to those who do.
const DENIED: &str = r#"
[[rule]]
upcall = "core"
match.container = {}
deny = { reason = "not from containers" }
[[rule]]
upcall = "core"
store = { ignore_limit = true }
"#;

/// With the host's users and processes: nothing but its cgroup says whose its processes are.
fn plain(scene: &Scene, name: &str) -> Result<Container> {
    let runc = Runc::new(name).with(|bundle| bundle.pid_namespace = false);
    runc.start(&scene.sandbox)
}

fn denied(record: &Record, container: &Container) {
    assert_eq!(record.reason.as_deref(), Some("rule"), "{record:?}");
    let host_only = record.verdict.host_only.as_deref();
    assert_eq!(host_only, Some("container_unproven"), "{record:?}");
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(nominees.contains(container.id()), "{nominees}");
    assert!(record.actions.is_empty(), "{record:?}");
}

#[test]
fn whose_init_has_ended_is_not_the_hosts_for_that() -> Result<()> {
    // A container's init is the tenant's to end, and its runtime takes a moment to end the others, if it does.
    needs!(Root, Runc);
    let scene = Scene::new(DENIED)?;
    let container = plain(&scene, "web")?;
    let process = container.victim(&[])?;
    let dump = CoreDump::of(process)?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.reason.as_deref(), Some("rule"), "{record:?}");
    assert!(record.container.is_some(), "{record:?}");
    container.end_of(container.init())?;
    // Whatever he makes of himself besides.
    for mode in ["1", "2"] {
        let (record, _) = scene.dump(&dump.clone().word("%d", mode))?;
        denied(&record, &container);
    }
    container.end_of(process)?;
    drop(container);
    scene.end()
}

#[test]
fn whose_shim_does_not_wait_is_not_the_hosts_for_that_either() -> Result<()> {
    // Who makes enough work can make it late: what the shim has kept is decided about once more.
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    sandbox.rules(DENIED)?;
    sandbox.hook(|hook| hook.deadline_ms = 1500)?;
    let daemon = Daemon::start_with(&sandbox, |daemon| {
        daemon.args(["--any-peer", "--stop-at", "examined"]);
    })?;
    let scene = Scene { daemon, sandbox };
    let container = plain(&scene, "web")?;
    let process = container.victim(&[])?;
    container.end_of(container.init())?;
    let dump = CoreDump::of(process)?;
    kept_by_its_shim(&scene.daemon, &scene.sandbox, &dump)?;
    let records = scene.records(1, Duration::from_secs(5))?;
    assert_eq!(records.len(), 1, "{records:?}");
    for record in records {
        denied(&record, &container);
    }
    container.end_of(process)?;
    drop(container);
    scene.end()
}

#[test]
fn an_init_that_moves_below_its_own_cgroup_takes_nobody_out() -> Result<()> {
    // Into one of the same name: then the innermost of that name is not the others'.
    needs!(Root, Runc);
    let scene = Scene::new(DENIED)?;
    let container = plain(&scene, "web")?;
    let process = container.victim(&[])?;
    let own = cgroup::of(&container.leader()?)?;
    let name = own.file_name().context("a name")?;
    let inner = Child::of(&own, &Path::new(name).to_string_lossy())?;
    inner.take(container.init())?;
    let dump = CoreDump::of(process)?;
    let (record, _) = scene.dump(&dump)?;
    denied(&record, &container);
    container.end_of(process)?;
    drop(inner);
    drop(container);
    scene.end()
}

/// What the admin has declared by its cgroup, whose root has that cgroup to himself.
#[test]
fn who_makes_more_cgroups_than_are_looked_at_is_not_the_hosts_for_that() -> Result<()> {
    needs!(Root);
    let sandbox = Sandbox::new()?;
    let jail = Registered::unregistered(&sandbox, "jail")?;
    let own = cgroup::of(&Leader::read(jail.init())?)?;
    let mount = cgroup::cgroup2().context("cgroup2")?;
    let path = Path::new("/").join(own.strip_prefix(&mount)?);
    let declared = format!("[[container]]\nname = \"jail\"\ncgroup = {path:?}\n");
    sandbox.rules(&(declared + DENIED))?;
    let daemon = Daemon::start(&sandbox)?;
    let scene = Scene { daemon, sandbox };
    let dump = CoreDump::of(jail.init())?;
    let (record, _) = scene.dump(&dump)?;
    assert!(record.container.is_some(), "{record:?}");
    assert_eq!(record.reason.as_deref(), Some("rule"), "{record:?}");
    let made: Vec<_> = (0..300)
        .map(|number| Child::of(&own, &format!("more{number}")))
        .collect::<Result<_>>()?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.reason.as_deref(), Some("rule"), "{record:?}");
    let host_only = record.verdict.host_only.as_deref();
    assert_eq!(host_only, Some("container_unproven"), "{record:?}");
    drop(made);
    drop(jail);
    scene.end()
}

/// LXC's monitor, which is stopped until this is dropped.
struct Stopped(u32);

impl Stopped {
    fn monitor_of(container: &Container) -> Result<Self> {
        let monitor: u32 = container.leader()?.field("PPid").parse()?;
        kill(pid_of(monitor), Signal::SIGSTOP)?;
        Ok(Self(monitor))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(pid_of(self.0), Signal::SIGCONT);
    }
}

#[test]
fn whose_monitor_is_kept_busy_is_not_the_hosts_for_that() -> Result<()> {
    // LXC's monitor listens in the host's network to everybody, and reads what root in it begins to say until it ends.
    needs!(Root, Lxc);
    let scene = Scene::with_settings(lxc::SETTINGS, DENIED)?;
    let container = Lxc::new("web").start(&scene.sandbox)?;
    let process = container.child()?;
    let dump = CoreDump::of(process)?;
    let (record, _) = scene.dump(&dump)?;
    assert!(record.container.is_some(), "{record:?}");
    let busy = Stopped::monitor_of(&container)?;
    let (record, _) = scene.dump(&dump)?;
    denied(&record, &container);
    drop(busy);
    drop(container);
    scene.end()
}
