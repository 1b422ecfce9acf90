//! Attacks on who is who: namespaces, cgroups, numbers and names that pretend to be somebody's container.

use std::path::Path;

use anyhow::{Context, Result};
use upcall_e2e::cgroup::{Child, cgroup2};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::Leader;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::registered::Registered;
use upcall_e2e::runc::Runc;
use upcalld::store::record::Outcome;

use crate::canary::{ANYWHERE, canary, host_only, sang};
use crate::scene::{Scene, run_rule, script};

#[test]
fn namespaces_of_an_unprivileged_user_are_no_container() -> Result<()> {
    // CVE-2015-1318: crashes were handled inside whatever looked like a container.
    needs!(Root, Unprivileged);
    let scene = Scene::with_settings(Registered::SETTINGS, ANYWHERE)?;
    let fake = Registered::unregistered(&scene.sandbox, "fake")?;
    canary()(fake.root())?;
    let dump = CoreDump::of(fake.init())?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.process.user_namespace.as_deref(), Some("other"));
    assert!(record.container.is_none());
    host_only(&scene, &record, &dump, "unregistered")?;
    assert!(!sang(fake.root()));
    drop(fake);
    scene.end()
}

#[test]
fn a_state_that_somebody_else_can_write_vouches_for_nobody() -> Result<()> {
    needs!(Root, Unprivileged);
    let scene = Scene::with_settings(Registered::SETTINGS, ANYWHERE)?;
    let fake = Registered::start(&scene.sandbox, "fake")?;
    canary()(fake.root())?;
    let dump = CoreDump::of(fake.init())?;
    let state = fake.state(&scene.sandbox);
    let file = state.join("state.json");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
    };
    let own = |path: &Path, uid| std::os::unix::fs::chown(path, Some(uid), Some(uid));
    let refused = |what: &str| -> Result<()> {
        let (record, _) = scene.dump(&dump)?;
        assert!(record.container.is_none(), "{what}: {record:?}");
        host_only(&scene, &record, &dump, "unregistered").context(what.to_owned())
    };
    own(&file, 1000)?;
    refused("another's file")?;
    own(&file, 0)?;
    mode(&file, 0o666)?;
    refused("everybody's file")?;
    mode(&file, 0o644)?;
    own(&state, 1000)?;
    refused("another's directory")?;
    own(&state, 0)?;
    mode(&state, 0o777)?;
    refused("everybody's directory")?;
    mode(&state, 0o711)?;
    let text = std::fs::read_to_string(&file)?;
    let other = text.replacen("\"init_process_start\":", "\"init_process_start\":1", 1);
    std::fs::write(&file, other)?;
    let (record, _) = scene.dump(&dump)?;
    host_only(&scene, &record, &dump, "container_unproven")
        .context("another start time: a recycled number")?;
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(
        nominees.contains("it started at another time"),
        "{nominees}"
    );
    let real = scene.sandbox.path("real");
    std::fs::rename(&state, &real)?;
    std::os::unix::fs::symlink(&real, &state)?;
    refused("a link")?;
    std::fs::remove_file(&state)?;
    std::fs::rename(&real, &state)?;
    assert!(!sang(fake.root()));
    // And with everything right it is one.
    std::fs::write(&file, text)?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert!(sang(fake.root()));
    drop(fake);
    scene.end()
}

#[test]
fn nested_namespaces_do_not_choose_where_the_helper_runs() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(canary())
        .root(script("/evil", "touch /tmp/evil"))
        .start(&scene.sandbox)?;
    let leader = container.leader()?;
    // An unprivileged user of the container's, in namespaces of his own, with another program in the helper's place.
    let nest = "mount --bind /evil /helper && exec /crash-me --wait";
    let nested = container.victim_by(1000, &["/bin/unshare", "-Urm", "/bin/sh", "-c", nest])?;
    assert_ne!(
        Leader::read(nested)?.namespaces.get("user"),
        leader.namespaces.get("user")
    );
    let (record, _) = scene.dump(&CoreDump::of(nested)?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(record.process.user_namespace.as_deref(), Some("container"));
    let run = action(&record, "run")?;
    assert_eq!(run.namespaces.as_ref(), Some(&leader.namespaces));
    let user = leader.namespaces.get("user").copied().unwrap_or(0);
    assert_eq!(run.output.clone(), Some(format!(r"user:[{user}]\x0a")));
    assert!(sang(container.root()) && !container.root().inside("/tmp/evil").exists());
    scene.end()
}

#[test]
fn nested_namespaces_of_a_container_that_shares_the_hosts_users_are_anybodys() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    let container = Runc::new("web").root(canary()).start(&scene.sandbox)?;
    let nested = container.victim_by(1000, &["/bin/unshare", "-Ur", "/crash-me", "--wait"])?;
    let (record, _) = scene.dump(&CoreDump::of(nested)?)?;
    // What he unshared is nobody's registered container's; the container around it is.
    assert_eq!(record.process.user_namespace.as_deref(), Some("other"));
    let run = action(&record, "run")?;
    assert_eq!(
        run.namespaces.as_ref(),
        Some(&container.leader()?.namespaces)
    );
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    scene.end()
}

#[test]
fn a_cgroup_named_like_another_container_is_not_that_container() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let mallory = Runc::new("mallory")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    let alice = Runc::new("alice")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    let process = mallory.victim(&[])?;
    let named = Child::everywhere(&mallory.leader()?, alice.id(), process)?;
    let (record, _) = scene.dump(&CoreDump::of(process)?)?;
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(
        nominees.contains(alice.id()) && nominees.contains("forged cgroup name"),
        "{nominees}"
    );
    assert_eq!(
        record.container.as_ref().map(|c| c.id.as_str()),
        Some(mallory.id())
    );
    assert!(sang(mallory.root()) && !sang(alice.root()));
    drop(named);
    drop((mallory, alice));
    scene.end()
}

#[test]
fn a_forged_cgroup_name_is_called_so_where_only_the_cgroup_tells() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    // Without user and pid namespaces of their own two containers differ in nothing but cgroup and mounts.
    let plain = |name: &str| Runc::new(name).with(|bundle| bundle.pid_namespace = false);
    let mallory = plain("mallory").root(canary()).start(&scene.sandbox)?;
    let alice = plain("alice").root(canary()).start(&scene.sandbox)?;
    let process = mallory.victim(&[])?;
    let named = Child::everywhere(&mallory.leader()?, alice.id(), process)?;
    let (record, _) = scene.dump(&CoreDump::of(process)?)?;
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(
        nominees.contains(alice.id()) && nominees.contains("forged cgroup name"),
        "{nominees}"
    );
    assert_eq!(
        record.container.as_ref().map(|c| c.id.as_str()),
        Some(mallory.id()),
        "{record:?}"
    );
    assert!(sang(mallory.root()) && !sang(alice.root()));
    drop(named);
    drop((mallory, alice));
    scene.end()
}

#[test]
fn an_unregistered_process_in_a_cgroup_named_like_a_container_is_in_none() -> Result<()> {
    needs!(Root, Runc, Unprivileged);
    let scene = Scene::with_settings("runtimes.runc = [\"/run/runc\", \"@/runc\"]", ANYWHERE)?;
    let alice = Runc::new("alice")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    let fake = Registered::unregistered(&scene.sandbox, "fake")?;
    canary()(fake.root())?;
    let parent = Child::of(
        &cgroup2().context("cgroup2")?,
        &format!("{}-user", scene.sandbox.tag()),
    )?;
    let named = Child::of(parent.path(), alice.id())?;
    fake.move_here(named.path())?;
    let dump = CoreDump::of(fake.init())?;
    let (record, _) = scene.dump(&dump)?;
    assert!(record.container.is_none());
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(nominees.contains(alice.id()), "{nominees}");
    host_only(&scene, &record, &dump, "unregistered")?;
    assert!(!sang(fake.root()) && !sang(alice.root()));
    drop(fake);
    drop((named, parent, alice));
    scene.end()
}
