//! Containers that the admin declares: by pid file, by cgroup, by unit; and who pretends to be one.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::Value;
use upcall_e2e::cgroup::{Child, cgroup2};
use upcall_e2e::command::run;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::Leader;
use upcall_e2e::needs;
use upcall_e2e::records::report;
use upcall_e2e::registered::Registered;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

use crate::canary::host_only;
use crate::ns_runtime_oci::found;
use crate::scene::Scene;

/// Declares a container, and runs the probe in it.
fn rules(found_by: &str) -> String {
    format!(
        "[[container]]\nname = \"legacy\"\n{found_by}\n\
         [[rule]]\nupcall = \"core\"\nmatch.container = {{ runtime = \"admin\", name = \"legacy\" }}\n\
         run = {{ in = \"container\", command = [\"/probe\"], timeout = \"5s\" }}\n\
         [[rule]]\nupcall = \"core\"\n\
         run = {{ in = \"container\", command = [\"/probe\"] }}\n"
    )
}

/// A scene with namespaces that nobody registers, whose root is a chroot, in a cgroup of their own; and these rules.
fn jail(found_by: impl FnOnce(&Sandbox, &Registered) -> String) -> Result<(Scene, Registered)> {
    let sandbox = Sandbox::new()?;
    let jail = Registered::unregistered(&sandbox, "jail")?;
    sandbox.settings("runtimes.units = \"@/units\"")?;
    sandbox.rules(&rules(&found_by(&sandbox, &jail)))?;
    let daemon = Daemon::start(&sandbox)?;
    Ok((Scene { daemon, sandbox }, jail))
}

/// Has its init crash: it is the container `legacy`, by this evidence.
fn is_legacy(scene: &Scene, jail: &Registered, evidence: &str) -> Result<Record> {
    let (record, _) = scene.dump(&CoreDump::of(jail.init())?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let container = found(&record)?;
    assert_eq!(
        (container.runtime.as_str(), container.id.as_str()),
        ("admin", "legacy")
    );
    assert_eq!(container.leader_pid, jail.init());
    assert_eq!(
        record.evidence.container,
        [evidence, "leader", "namespaces", "cgroup"]
    );
    let inside = report(&record)?;
    assert_eq!(inside.namespaces, Leader::read(jail.init())?.namespaces);
    let explained: Value = serde_json::from_str(&run(&mut explain(scene))?)?;
    let at = |path: &str| explained.pointer(path).cloned().unwrap_or_default();
    assert_eq!(at("/container/runtime"), "admin", "{explained}");
    assert_eq!(at("/container/id"), "legacy", "{explained}");
    assert_eq!(at("/container/leader_pid"), jail.init(), "{explained}");
    Ok(record)
}

/// What would happen to the container `legacy`, found by its name alone.
fn explain(scene: &Scene) -> Command {
    let mut explain = scene.sandbox.ctl();
    explain.args(["--json", "explain", "--container", "legacy", "core"]);
    explain
}

/// It is declared, and nothing is found by that name.
fn is_not_found(scene: &Scene) {
    let said = run(&mut explain(scene)).unwrap_or_else(|error| error.to_string());
    let expected = "admin legacy is not running: its [[container]] leads to no live process";
    assert!(said.contains(expected), "{said}");
}

/// Has its init crash: it is no container, and this is what is said.
fn is_none(scene: &Scene, jail: &Registered, said: &str) -> Result<()> {
    let dump = CoreDump::of(jail.init())?;
    let (record, _) = scene.dump(&dump)?;
    assert!(record.container.is_none(), "{record:?}");
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(nominees.contains(said), "{nominees}");
    host_only(scene, &record, &dump, "unregistered")
}

#[test]
fn one_by_its_pid_file() -> Result<()> {
    needs!(Root, Unprivileged);
    let (scene, jail) = jail(|_, _| "pid_file = \"@/jail.pid\"".to_owned())?;
    is_none(&scene, &jail, "")?;
    let file = scene.sandbox.path("jail.pid");
    std::fs::write(&file, format!("{}\n", jail.init()))?;
    is_legacy(&scene, &jail, "pid_file")?;
    // Another's file, and one whose writer is long gone and his number somebody else's.
    chown(&file, Some(1000), None)?;
    is_none(&scene, &jail, "jail.pid")?;
    chown(&file, Some(0), None)?;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666))?;
    is_none(&scene, &jail, "jail.pid")?;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644))?;
    let before = SystemTime::now() - Duration::from_hours(1);
    std::fs::File::options()
        .write(true)
        .open(&file)?
        .set_modified(before)?;
    is_none(&scene, &jail, "younger than")?;
    is_not_found(&scene);
    drop(jail);
    scene.end()
}

#[test]
fn one_by_its_cgroup() -> Result<()> {
    needs!(Root, Unprivileged);
    let (scene, jail) = jail(|_, jail| format!("cgroup = \"/{}\"", jail.id()))?;
    is_legacy(&scene, &jail, "declared")?;
    // The same name in another place is not that path.
    let top = Child::of(
        &cgroup2().context("cgroup2")?,
        &format!("{}-x", scene.sandbox.tag()),
    )?;
    let same = Child::of(top.path(), jail.id())?;
    jail.move_here(same.path())?;
    is_none(&scene, &jail, "")?;
    is_not_found(&scene);
    drop(jail);
    drop((same, top));
    scene.end()
}

#[test]
fn one_by_its_unit() -> Result<()> {
    // systemd is played: this is what it leaves for others to see of a service that runs.
    needs!(Root, Unprivileged);
    let unit = |sandbox: &Sandbox| format!("{}-mail.service", sandbox.tag());
    let (scene, jail) = jail(|sandbox, _| format!("unit = \"{}\"", unit(sandbox)))?;
    let unit = unit(&scene.sandbox);
    let units = scene.sandbox.path("units");
    std::fs::create_dir(&units)?;
    let top = cgroup2().context("cgroup2")?;
    let slice = Child::of(&top, &format!("{}.slice", scene.sandbox.tag()))?;
    let service = Child::of(slice.path(), &unit)?;
    jail.move_here(service.path())?;
    is_none(&scene, &jail, "systemd does not say that it is running")?;
    is_not_found(&scene);
    let invocation = "0123456789abcdef0123456789abcdef";
    symlink(invocation, units.join(format!("invocation:{unit}")))?;
    is_legacy(&scene, &jail, "unit")?;
    // Below another unit nobody but that unit's user makes cgroups.
    let users = Child::of(slice.path(), "user@1.service")?;
    let his = Child::of(users.path(), &unit)?;
    jail.move_here(his.path())?;
    is_none(&scene, &jail, "forged cgroup name")?;
    is_not_found(&scene);
    drop(jail);
    drop((his, users));
    drop(service);
    drop(slice);
    scene.end()
}
