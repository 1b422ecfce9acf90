//! Containers of every runtime that has runc or crun below it: found, called by their names, and entered.

use anyhow::{Context, Result};
use upcall_e2e::container::Container;
use upcall_e2e::containerd::Containerd;
use upcall_e2e::cri;
use upcall_e2e::docker::Docker;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::report;
use upcall_e2e::runc::Runc;
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
