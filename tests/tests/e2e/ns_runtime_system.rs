//! Containers that run a system of their own: LXC's, nspawn's.

use anyhow::Result;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::lxc::{self, Lxc};
use upcall_e2e::needs;
use upcall_e2e::nspawn::Machined;

use crate::canary::host_only;
use crate::ns_runtime_oci::{PLAIN, entered, found, rule};
use crate::scene::Scene;

/// For containers whose init holds what is the host's root in all but name.
const TRUSTED: &str = ", without_user_namespace = true, trusted_container = true";

#[test]
fn one_of_lxcs_with_users_of_its_own() -> Result<()> {
    needs!(Root, Lxc);
    let rules = rule("runtime = \"lxc\", name = \"*-web\"", "");
    let scene = Scene::with_settings(lxc::SETTINGS, &rules)?;
    let container = Lxc::new("web").user_namespace().start(&scene.sandbox)?;
    let record = entered(&scene, &container)?;
    assert_eq!(found(&record)?.id, container.id());
    assert_eq!(
        record.evidence.container,
        ["monitor", "leader", "namespaces", "cgroup"]
    );
    drop(container);
    scene.end()
}

#[test]
fn a_privileged_one_of_lxcs_needs_the_rules_trust() -> Result<()> {
    needs!(Root, Lxc);
    for (leave, enters) in [(PLAIN, false), (TRUSTED, true)] {
        let scene = Scene::with_settings(lxc::SETTINGS, &rule("runtime = \"lxc\"", leave))?;
        let container = Lxc::new("web").start(&scene.sandbox)?;
        if enters {
            entered(&scene, &container)?;
        } else {
            let dump = CoreDump::of(container.init())?;
            let (record, _) = scene.dump(&dump)?;
            assert_eq!(found(&record)?.id, container.id());
            host_only(&scene, &record, &dump, "untrusted_container")?;
        }
        drop(container);
        scene.end()?;
    }
    Ok(())
}

#[test]
fn one_of_lxcs_whose_cgroup_has_a_number() -> Result<()> {
    // A cgroup by its name was there already: LXC takes the name with -1 behind it.
    needs!(Root, Lxc);
    let scene = Scene::with_settings(lxc::SETTINGS, &rule("runtime = \"lxc\"", ""))?;
    let lxc = Lxc::new("web").user_namespace();
    let taken = format!("lxc.payload.{}", lxc.called(&scene.sandbox));
    let top = upcall_e2e::cgroup::mounted("pids").or_else(upcall_e2e::cgroup::cgroup2);
    let taken = top.unwrap_or_default().join(taken);
    std::fs::create_dir(&taken)?;
    let container = lxc.start(&scene.sandbox)?;
    let record = entered(&scene, &container)?;
    assert_eq!(found(&record)?.name.as_deref(), Some(container.name()));
    let cgroup = record.process.cgroup.unwrap_or_default();
    assert!(cgroup.ends_with("-web-1"), "{cgroup}");
    drop(container);
    scene.end()
}

#[test]
fn one_of_nspawns() -> Result<()> {
    needs!(Root, Nspawn);
    for (flag, leave) in [
        ("--private-users=no", TRUSTED),
        ("--private-users=300000:65536", ""),
    ] {
        let rules = rule("runtime = \"nspawn\", name = \"*-web\"", leave);
        let scene = Scene::with_settings(Machined::SETTINGS, &rules)?;
        let machined = Machined::start(&scene.sandbox)?;
        let container = machined.run(&scene.sandbox, "web", &[flag])?;
        machined.registered(container.id())?;
        let record = entered(&scene, &container)?;
        let found = found(&record)?;
        assert_eq!(found.name.as_deref(), Some(container.name()));
        assert_eq!(
            record.evidence.container,
            ["machine", "leader", "namespaces", "cgroup"]
        );
        drop(container);
        drop(machined);
        scene.end()?;
    }
    Ok(())
}
