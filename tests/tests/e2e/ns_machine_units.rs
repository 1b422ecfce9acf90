//! Services of a real systemd that the admin declares as containers: `[[container]] unit = …`.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use upcall_e2e::command::until;
use upcall_e2e::needs;
use upcall_e2e::records::{action, report};
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

use crate::ns_machine::{Scene, package};
use crate::ns_runtime_oci::found;

const PATIENCE: Duration = Duration::from_secs(10);

/// Debian's user `daemon`, and its group.
const USER: u32 = 1;

/// What every service is: a main process of a user's, and a child that will be said to crash.
const SERVICE: &str = "[Service]\nType=exec\nUser=daemon\nCapabilityBoundingSet=\n\
     ExecStart=/bin/sh -c 'sleep 1000 & wait'\n";

/// The services, and what each has of its own. `jail` has another root as well, which has the probe.
const SERVICES: [(&str, &str); 5] = [
    (
        "jail",
        "PrivateNetwork=yes\nPrivateTmp=yes\nRootDirectory=/srv/jail\nMountAPIVFS=yes\n\
         BindReadOnlyPaths=/usr /bin /lib -/lib64\n",
    ),
    (
        "users",
        "PrivateNetwork=yes\nPrivateUsers=yes\nPrivateTmp=yes\n",
    ),
    ("strict", "PrivateNetwork=yes\nProtectSystem=strict\n"),
    ("mapped", "PrivateNetwork=yes\nPrivateUsers=yes\n"),
    ("unknown", "PrivateNetwork=yes\nPrivateTmp=yes\n"),
];

/// All but `unknown` are declared, and the rule of `strict` and `mapped` does not say that it may do without a user
/// namespace.
const RULES: &str = r#"
[[container]]
name = "the-jail"
unit = "jail.service"

[[container]]
name = "the-users"
unit = "users.service"

[[container]]
name = "the-strict"
unit = "strict.service"

[[container]]
name = "the-mapped"
unit = "mapped.service"

[[rule]]
upcall = "core"
match.container = { runtime = "admin", name = ["the-jail", "the-users"] }
run = { in = "container", command = ["/probe"], without_user_namespace = true, timeout = "5s" }

[[rule]]
upcall = "core"
match.container = {}
run = { in = "container", command = ["/probe"] }

[[rule]]
upcall = "core"
store = { ignore_limit = true }
"#;

/// A machine with upcalld and these services.
fn scene(sandbox: &Sandbox) -> Result<Scene> {
    let package = package(sandbox, "0.1.0")?;
    let scene = Scene::new(sandbox)?;
    std::fs::write(scene.machine.path("/etc/upcalld/rules.d/50.toml"), RULES)?;
    scene.install(&package)?;
    scene.is("upcalld.service", "active")?;
    scene.sh("mkdir -p /srv/jail")?;
    for probe in ["/probe", "/srv/jail/probe"] {
        sandbox.program("upcall-probe", &scene.machine.path(probe))?;
    }
    for (name, own) in SERVICES {
        let unit = scene
            .machine
            .path(&format!("/etc/systemd/system/{name}.service"));
        std::fs::write(unit, format!("{SERVICE}{own}"))?;
    }
    scene.sh("systemctl daemon-reload")?;
    for (name, _) in SERVICES {
        let unit = format!("{name}.service");
        scene.machine.run(&["systemctl", "start", &unit])?;
        scene.is(&unit, "active")?;
    }
    Ok(scene)
}

/// Says to the shim, in the kernel's words, that the child of a service's main process crashed; its record.
fn crash(scene: &Scene, service: &str) -> Result<(u32, Record)> {
    let unit = format!("{service}.service");
    let main: u32 = scene.property(&unit, "MainPID")?.parse()?;
    let children = ["pgrep", "--parent", &main.to_string()];
    let child = until(PATIENCE, "its child", || scene.machine.run(&children).ok())?;
    let pid: u32 = child.trim().parse().context("one child")?;
    let record = scene.crash_of(pid, USER).context(service.to_owned())?;
    Ok((main, record))
}

/// It is this declared container, by its unit, and its main process is the init.
fn is_declared(scene: &Scene, name: &str, main: u32, record: &Record) -> Result<()> {
    let container = found(record)?;
    assert_eq!(
        (
            container.runtime.as_str(),
            container.id.as_str(),
            container.name.as_deref(),
            container.leader_pid
        ),
        ("admin", name, Some(name), main)
    );
    assert_eq!(
        record.evidence.container,
        ["unit", "leader", "namespaces", "cgroup"],
        "{record:?}"
    );
    let words = [
        "upcallctl",
        "--json",
        "explain",
        "--container",
        name,
        "core",
    ];
    let explained: Value = serde_json::from_str(&scene.machine.run(&words)?)?;
    let leader = explained.pointer("/container/leader_pid");
    assert_eq!(
        leader.and_then(Value::as_u64),
        Some(main.into()),
        "{explained}"
    );
    Ok(())
}

/// The helper ran where the service lives, as its user, and with no more than its init has.
fn ran_inside(record: &Record) -> Result<()> {
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let helper = report(record)?;
    assert_eq!(helper.namespaces, record.process.namespaces);
    assert_eq!((helper.uid, helper.gid), ([USER; 4], [USER; 4]));
    assert_eq!(helper.stdin_bytes, 300_000);
    Ok(())
}

#[test]
fn services_of_systemd_that_are_declared_are_containers() -> Result<()> {
    needs!(Root, Machine);
    let sandbox = Sandbox::new()?;
    let scene = scene(&sandbox)?;

    let (main, jail) = crash(&scene, "jail")?;
    is_declared(&scene, "the-jail", main, &jail)?;
    assert_eq!(found(&jail)?.own_namespaces, ["mnt", "net"]);
    ran_inside(&jail)?;

    let (main, users) = crash(&scene, "users")?;
    is_declared(&scene, "the-users", main, &users)?;
    assert_eq!(found(&users)?.own_namespaces, ["user", "mnt", "net"]);
    ran_inside(&users)?;

    // The one shares the host's user namespace; the other's has the host's root in it (systemd.exec(5), PrivateUsers=),
    // which is no wall either. That this is meant, their rule does not say.
    for (service, name, why) in [
        (
            "strict",
            "the-strict",
            "the-strict shares the host's user namespace",
        ),
        (
            "mapped",
            "the-mapped",
            "the user namespace of the-mapped has the host's root in it",
        ),
    ] {
        let (main, refused) = crash(&scene, service)?;
        is_declared(&scene, name, main, &refused)?;
        let run = action(&refused, "run")?;
        assert_eq!(run.outcome, Outcome::Refused, "{run:?}");
        assert!(run.namespaces.is_none(), "{run:?}");
        assert_eq!(
            run.reason.as_deref(),
            Some("untrusted_container"),
            "{run:?}"
        );
        let said = refused.message.as_deref().unwrap_or_default();
        assert!(said.contains(why), "{refused:?}");
    }

    // As much its own as the first one, and nobody said that it is a container.
    let (_, unknown) = crash(&scene, "unknown")?;
    assert!(unknown.container.is_none(), "{unknown:?}");
    assert_eq!(unknown.verdict.actions, ["store"]);
    assert_eq!(unknown.outcome, Outcome::Done, "{unknown:?}");
    Ok(())
}
