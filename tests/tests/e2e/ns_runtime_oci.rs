//! Containers of every runtime that has runc or crun below it: found, called by their names, and entered.

use std::os::unix::fs::chown;

use anyhow::{Context, Result};
use upcall_e2e::cgroup::{Child, cgroup2};
use upcall_e2e::container::{Container, pid_of};
use upcall_e2e::containerd::Containerd;
use upcall_e2e::cri;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::docker::Docker;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::lxc::{self, Lxc};
use upcall_e2e::needs;
use upcall_e2e::podman::{Pod, Podman};
use upcall_e2e::records::report;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{self, Outcome, Record};

use crate::scene::Scene;

/// A rule for one runtime's containers, that runs the probe in them.
pub(crate) fn rule(matching: &str, leave: &str) -> String {
    format!(
        "[[rule]]\nupcall = \"core\"\nmatch.container = {{ {matching} }}\n\
         run = {{ in = \"container\", command = [\"/probe\"], timeout = \"5s\"{leave} }}\n"
    )
}

/// For containers without a user namespace of their own.
pub(crate) const PLAIN: &str = ", without_user_namespace = true";

/// Has its init crash; its record, after a helper ran in the container's own namespaces.
pub(crate) fn entered(scene: &Scene, container: &Container) -> Result<Record> {
    crashed(scene, container, container.init())
}

/// Has one of its processes crash; its record, after a helper ran in the container's own namespaces.
pub(crate) fn crashed(scene: &Scene, container: &Container, pid: u32) -> Result<Record> {
    let (record, _) = scene.dump(&CoreDump::of(pid)?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let found = found(&record)?;
    assert_eq!(
        (found.runtime.as_str(), found.leader_pid),
        (container.runtime(), container.init()),
        "{record:?}"
    );
    assert_eq!(report(&record)?.namespaces, container.leader()?.namespaces);
    Ok(record)
}

/// What a record says about the container.
pub(crate) fn found(record: &Record) -> Result<&record::Container> {
    record
        .container
        .as_ref()
        .with_context(|| format!("no container: {record:?}"))
}

#[test]
fn one_of_dockers() -> Result<()> {
    needs!(Root, Docker);
    let rules = rule(
        "runtime = \"docker\", name = \"web\", image = \"web:*\", label = { tier = \"front\" }",
        PLAIN,
    );
    let scene = Scene::with_settings(Docker::SETTINGS, &rules)?;
    let docker = Docker::start(&scene.sandbox)?;
    let container = docker.run(&scene.sandbox, "web", &["--label=tier=front"])?;
    let record = entered(&scene, &container)?;
    let found = found(&record)?;
    assert_eq!(
        (found.id.as_str(), found.name.as_deref()),
        (container.id(), Some("web"))
    );
    assert_eq!(found.image.as_deref(), Some("web:e2e"));
    assert_eq!(
        record.evidence.container,
        ["state", "leader", "namespaces", "cgroup"]
    );
    assert!(found.pod.is_none());
    drop(container);
    drop(docker);
    scene.end()
}

#[test]
fn one_of_containerds() -> Result<()> {
    needs!(Root, Containerd);
    let rules = rule("runtime = \"containerd\", label = { tier = \"front\" }", "");
    let scene = Scene::with_settings(Containerd::SETTINGS, &rules)?;
    let containerd = Containerd::start(&scene.sandbox)?;
    let flags = [
        "--label=tier=front",
        "--uidmap=0:300000:65536",
        "--gidmap=0:300000:65536",
    ];
    let container = containerd.run(&scene.sandbox, "web", &flags)?;
    let record = entered(&scene, &container)?;
    let found = found(&record)?;
    assert_eq!(found.id, container.id());
    assert_eq!(found.name.as_deref(), Some(container.id()));
    assert!(
        found.own_namespaces.contains(&"user".to_owned()),
        "{found:?}"
    );
    drop(container);
    drop(containerd);
    scene.end()
}

#[test]
fn a_pod_by_the_cri() -> Result<()> {
    needs!(Root, Containerd, Grpc);
    let rules = format!(
        "{}\nmatch.pod = {{ namespace = \"shop\", name = \"web-0\", uid = \"{}\" }}\n",
        rule(
            "runtime = \"containerd\", name = \"app\", image = \"localhost/app:*\"",
            PLAIN
        ),
        cri::UID
    );
    let scene = Scene::with_settings(Containerd::SETTINGS, &rules)?;
    let containerd = Containerd::start(&scene.sandbox)?;
    let container = cri::pod(&containerd, &scene.sandbox, "web-0")?;
    let record = entered(&scene, &container)?;
    let found = found(&record)?;
    assert_eq!(
        (found.id.as_str(), found.name.as_deref()),
        (container.id(), Some("app"))
    );
    assert_eq!(found.image.as_deref(), Some("localhost/app:e2e"));
    let pod = found.pod.as_ref().context("a pod")?;
    assert_eq!(
        (
            pod.namespace.as_deref(),
            pod.name.as_deref(),
            pod.uid.as_deref()
        ),
        (Some("shop"), Some("web-0"), Some(cri::UID))
    );
    drop(container);
    drop(containerd);
    scene.end()
}

#[test]
fn one_of_cruns() -> Result<()> {
    needs!(Root, Crun);
    let scene = Scene::new(&rule(
        "runtime = \"crun\", label = { tier = \"front\" }",
        "",
    ))?;
    let container = Runc::new("web")
        .crun()
        .user_namespace()
        .annotation("tier", "front")
        .start(&scene.sandbox)?;
    let record = entered(&scene, &container)?;
    assert_eq!(found(&record)?.name.as_deref(), Some(container.id()));
    drop(container);
    scene.end()
}

/// A user who is not root.
const UID: u32 = 54_321;

#[test]
fn one_of_a_users_own_is_for_rules_that_name_its_owner() -> Result<()> {
    needs!(Root, Runc, Unprivileged);
    let any = rule("runtime = \"runc\"", "");
    let his = rule("runtime = \"runc\", owner = 54321", "");
    for (rules, enters) in [(any, false), (his, true)] {
        let sandbox = Sandbox::new()?;
        let container = Runc::new("web").rootless(&sandbox, UID).start(&sandbox)?;
        // The scope that his own systemd would have made for it.
        let top = cgroup2().context("cgroup2")?;
        let slice = Child::of(&top, &format!("{}-user", sandbox.tag()))?;
        let scope = Child::of(slice.path(), container.id())?;
        scope.take(container.init())?;
        sandbox.settings("runtimes.users = \"@/users\"")?;
        sandbox.rules(&rules)?;
        let daemon = Daemon::start(&sandbox)?;
        let scene = Scene { daemon, sandbox };
        if enters {
            let record = entered(&scene, &container)?;
            assert_eq!(found(&record)?.owner_uid, UID);
            // What is not his own file is no word of his.
            let state = format!("users/{UID}/runc/{}/state.json", container.id());
            let state = scene.sandbox.path(state);
            chown(&state, Some(1000), None)?;
            let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
            assert!(record.container.is_none(), "{record:?}");
            chown(&state, Some(UID), None)?;
        } else {
            let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
            assert_eq!(found(&record)?.owner_uid, UID);
            assert!(record.verdict.rule.is_none(), "{record:?}");
        }
        drop(container);
        drop((scope, slice));
        scene.end()?;
    }
    Ok(())
}

#[test]
fn one_in_a_pod_of_podmans() -> Result<()> {
    needs!(Root, Podman);
    let mut rules = rule("runtime = \"podman\"", PLAIN);
    rules.push_str("match.pod = { name = \"*-shop\" }\n");
    let scene = Scene::new(&rules)?;
    let pod = Pod::create(&scene.sandbox, "shop")?;
    let container = Podman::new("web").pod(&pod).start(&scene.sandbox)?;
    let record = entered(&scene, &container)?;
    let found = found(&record)?;
    assert_eq!(found.name.as_deref(), Some(container.name()));
    let of = found.pod.as_ref().context("a pod")?;
    assert_eq!(of.name.as_deref(), Some(pod.name()));
    assert_eq!(of.uid, Some(pod.id()?));
    drop(container);
    drop(pod);
    scene.end()
}

#[test]
fn one_as_crio_has_them_on_disk() -> Result<()> {
    // CRI-O itself is not in Debian: its cgroup, and the annotations that it gives runc, of a pod and a container in it.
    needs!(Root, Runc);
    let mut rules = rule(
        "runtime = \"cri-o\", name = \"app\", image = \"registry/app:*\"",
        "",
    );
    rules.push_str(
        "match.pod = { namespace = \"shop\", name = \"web-0\", label = { tier = \"front\" } }\n",
    );
    let scene = Scene::new(&rules)?;
    let id = |last: &str| {
        format!(
            "{:0>58}",
            scene.sandbox.tag().bytes().map(u32::from).sum::<u32>()
        ) + last
    };
    let (sandbox_id, app_id) = (id("aaaaaa"), id("bbbbbb"));
    let start = |name: &str, id: &str, kind: &str, labels: &str| {
        let cgroup = format!(
            "/{}/kubepods/burstable/pod{}/crio-{id}",
            scene.sandbox.tag(),
            cri::UID
        );
        Runc::new(name)
            .id(id)
            .user_namespace()
            .with(|bundle| bundle.cgroup = Some(cgroup))
            .annotation("io.container.manager", "cri-o")
            .annotation("io.kubernetes.cri-o.ContainerType", kind)
            .annotation("io.kubernetes.cri-o.SandboxID", &sandbox_id)
            .annotation("io.kubernetes.cri-o.Labels", labels)
            .annotation("io.kubernetes.cri-o.ImageName", "registry/app:1")
            .annotation("io.kubernetes.container.name", name)
            .annotation("io.kubernetes.pod.namespace", "shop")
            .annotation("io.kubernetes.pod.name", "web-0")
            .annotation("io.kubernetes.pod.uid", cri::UID)
            .start(&scene.sandbox)
    };
    let sandbox = start("POD", &sandbox_id, "sandbox", "{\"tier\":\"front\"}")?;
    let container = start("app", &app_id, "container", "{}")?;
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let found = found(&record)?;
    assert_eq!(
        (found.runtime.as_str(), found.leader_pid),
        ("cri-o", container.init())
    );
    let pod = found.pod.as_ref().context("a pod")?;
    assert_eq!(pod.uid.as_deref(), Some(cri::UID));
    drop((container, sandbox));
    scene.end()
}

#[test]
fn those_that_share_namespaces_are_told_apart() -> Result<()> {
    needs!(Root, Docker);
    let scene = Scene::with_settings(Docker::SETTINGS, &rule("runtime = \"docker\"", PLAIN))?;
    let docker = Docker::start(&scene.sandbox)?;
    let first = docker.run(&scene.sandbox, "first", &[])?;
    let (pid, net) = ("--pid=container:first", "--network=container:first");
    let second = docker.run(&scene.sandbox, "second", &[pid, net])?;
    let hosts = ["--pid=host", "--network=host", "--ipc=host", "--uts=host"];
    let third = docker.run(&scene.sandbox, "third", &hosts)?;
    for container in [&first, &second, &third] {
        let record = entered(&scene, container)?;
        assert_eq!(found(&record)?.name.as_deref(), Some(container.name()));
    }
    drop((third, second, first));
    drop(docker);
    scene.end()
}

#[test]
fn what_a_runtimes_exec_put_in_is_the_containers() -> Result<()> {
    needs!(Root, Docker, Lxc);
    let settings = format!("{}\n{}", Docker::SETTINGS, lxc::SETTINGS);
    let rules = rule("runtime = [\"docker\", \"lxc\"]", PLAIN);
    let scene = Scene::with_settings(&settings, &rules)?;
    let docker = Docker::start(&scene.sandbox)?;
    let first = docker.run(&scene.sandbox, "web", &[])?;
    let second = Lxc::new("box").user_namespace().start(&scene.sandbox)?;
    for container in [&first, &second] {
        let (mut attached, pid) = container.attached(&["/crash-me", "--wait"])?;
        let record = crashed(&scene, container, pid);
        nix::sys::signal::kill(pid_of(pid), nix::sys::signal::Signal::SIGKILL)?;
        attached.wait()?;
        record?;
    }
    drop((second, first));
    drop(docker);
    scene.end()
}
