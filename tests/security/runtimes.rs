//! Attacks on who is whose container, across runtimes.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use anyhow::{Context, Result};
use upcall_e2e::cgroup::{Child, cgroup2, mounted};
use upcall_e2e::docker::Docker;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::lxc::{self, Lxc};
use upcall_e2e::needs;
use upcall_e2e::registered::Registered;
use upcall_e2e::runc::Runc;

use crate::canary::{ANYWHERE, canary, host_only, sang};
use crate::ns_runtime_oci::found;
use crate::scene::Scene;

#[test]
fn a_cgroup_of_lxcs_named_after_a_container_of_dockers() -> Result<()> {
    needs!(Root, Lxc, Docker);
    let settings = format!("{}\n{}", lxc::SETTINGS, Docker::SETTINGS);
    let scene = Scene::with_settings(&settings, ANYWHERE)?;
    let docker = Docker::start(&scene.sandbox)?;
    let alice = docker.run(&scene.sandbox, "alice", &[])?;
    let mallory = Lxc::new("mallory").user_namespace().start(&scene.sandbox)?;
    canary()(mallory.root())?;
    let process = mallory.child()?;
    let name = format!("docker-{}.scope", alice.id());
    let named = Child::everywhere(&mallory.leader()?, &name, process)?;
    let (record, _) = scene.dump(&CoreDump::of(process)?)?;
    let container = found(&record)?;
    assert_eq!(
        (container.runtime.as_str(), container.id.as_str()),
        ("lxc", mallory.id())
    );
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(
        nominees.contains(alice.id()) && nominees.contains("forged cgroup name"),
        "{nominees}"
    );
    assert!(sang(mallory.root()) && !sang(alice.root()));
    drop(named);
    drop((mallory, alice));
    drop(docker);
    scene.end()
}

/// Plays LXC's monitor: listens where it would, and says that this process is the init, or nothing at all.
fn false_monitor(name: &str, lxcpath: &Path, init: Option<u32>) -> Result<()> {
    let address = format!("{}/{name}/command", lxcpath.display());
    let address = SocketAddr::from_abstract_name(address)?;
    let listener = UnixListener::bind_addr(&address)?;
    std::thread::spawn(move || {
        let mut silent = vec![];
        for mut asks in listener.incoming().flatten() {
            let Some(init) = init else {
                // It is kept waiting, and not told that nobody will answer.
                silent.push(asks);
                continue;
            };
            let mut question = [0; 16];
            let mut answer = [0; 16];
            answer[8..12].copy_from_slice(&init.to_ne_bytes());
            drop(asks.read_exact(&mut question));
            drop(asks.write_all(&answer));
        }
    });
    Ok(())
}

#[test]
fn whoever_listens_in_the_place_of_lxcs_monitor_is_not_believed() -> Result<()> {
    needs!(Root, Unprivileged);
    let scene = Scene::with_settings(lxc::SETTINGS, ANYWHERE)?;
    let lxcpath = scene.sandbox.path("lxc");
    for says in [true, false] {
        let fake = Registered::unregistered(&scene.sandbox, &format!("fake-{says}"))?;
        canary()(fake.root())?;
        std::fs::create_dir_all(lxcpath.join(fake.id()))?;
        let cgroup = format!("lxc.payload.{}", fake.id());
        let cgroup = Child::of(&cgroup2().context("cgroup2")?, &cgroup)?;
        fake.move_here(cgroup.path())?;
        false_monitor(fake.id(), &lxcpath, says.then_some(fake.init()))?;
        let dump = CoreDump::of(fake.init())?;
        let (record, _) = scene.dump(&dump)?;
        assert!(record.container.is_none(), "{record:?}");
        let nominees = record.evidence.refused_nominees.join("; ");
        assert_eq!(
            nominees.contains("no root process of the host"),
            says,
            "{nominees}"
        );
        // It is LXC's container by name, and nobody proves that it is not.
        host_only(&scene, &record, &dump, "container_unproven")?;
        let took = record.timings_us.resolve.context("a time")?;
        assert!(took < 1_000_000, "{took} us");
        assert!(!sang(fake.root()));
        drop(fake);
        drop(cgroup);
    }
    scene.end()
}

#[test]
fn one_process_may_have_another_path_in_each_hierarchy() -> Result<()> {
    needs!(Root, Runc, FreezerV1);
    let scene = Scene::new(ANYWHERE)?;
    let place = format!("/{}/jobs/web", scene.sandbox.tag());
    let container = Runc::new("web")
        .user_namespace()
        .with(|bundle| bundle.cgroup = Some(place))
        .root(canary())
        .start(&scene.sandbox)?;
    let alice = Runc::new("alice").user_namespace().start(&scene.sandbox)?;
    let process = container.victim(&[])?;
    let leader = container.leader()?;
    let mut made = vec![];
    // Of its own making in some, as its init's in others, and in one named like another container.
    for (hierarchy, name) in [("pids", alice.id()), ("freezer", "deep"), ("", "payload")] {
        let mount = mounted(hierarchy).context("a hierarchy")?;
        let path = leader.cgroup_path(hierarchy).context("a path")?;
        let child = Child::of(&mount.join(path.trim_start_matches('/')), name)?;
        child.take(process)?;
        made.push(child);
    }
    let (record, _) = scene.dump(&CoreDump::of(process)?)?;
    assert_eq!(found(&record)?.id, container.id(), "{record:?}");
    assert!(
        sang(container.root()) && record.verdict.host_only.is_none(),
        "{record:?}"
    );
    drop(made);
    drop((alice, container));
    scene.end()
}
