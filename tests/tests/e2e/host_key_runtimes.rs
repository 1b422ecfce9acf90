//! Who asks: containers of every runtime that has one of its own here, users without rights, and what is no container.

use anyhow::Result;
use upcall_e2e::command::command;
use upcall_e2e::container::Container;
use upcall_e2e::lxc::{self, Lxc};
use upcall_e2e::needs;
use upcall_e2e::podman::Podman;
use upcall_e2e::records::action;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Outcome;

use crate::host_key_scene::{KeyScene, ask_in, key};

const RULES: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user" }
run = { in = "container", command = ["/key-me", "--answer", "{key}", "of {description} for {uid}"], without_user_namespace = true, trusted_container = true }

[[rule]]
upcall = "key"
match.process.user_namespace = "other"
deny = { reason = "keys are for registered containers" }

[[rule]]
upcall = "key"
match.key = { caller = "kernel" }
answer = { payload = "192.0.2.66", ttl = "1s" }

[[rule]]
upcall = "key"
match.key = { type = "dns_resolver" }
answer = { payload = "192.0.2.1", ttl = "1s" }
"#;

/// It asks and is answered by its own program.
fn answered(scene: &KeyScene, container: &Container) -> Result<()> {
    let name = format!("of:{}", container.name());
    let said = ask_in(container, &["user", &name, "x"])?;
    assert_eq!(said, format!("key of {name} for 0"));
    let record = scene.record(&name)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let found = record
        .container
        .as_ref()
        .map(|found| (found.runtime.as_str(), found.leader_pid));
    assert_eq!(found, Some((container.runtime(), container.init())));
    let inside = action(&record, "run")?
        .namespaces
        .clone()
        .unwrap_or_default();
    for name in ["user", "mnt", "pid", "net"] {
        let link = std::fs::read_link(format!("/proc/{}/ns/{name}", container.init()))?;
        let inode = inside.get(name).copied().unwrap_or(0);
        assert_eq!(link.to_string_lossy(), format!("{name}:[{inode}]"));
    }
    Ok(())
}

#[test]
fn containers_of_podmans_with_and_without_users_of_their_own() -> Result<()> {
    needs!(HostHooks, Root, Podman);
    let scene = KeyScene::new(RULES)?;
    // Its default filter allows keyctl(2) and request_key(2) nowhere that it could do harm.
    let open = |name| Podman::new(name).flag("--security-opt=seccomp=unconfined");
    let own = open("own").user_namespace(200_000).start(&scene.sandbox)?;
    let plain = open("plain").start(&scene.sandbox)?;
    answered(&scene, &own)?;
    answered(&scene, &plain)?;
    drop((own, plain));
    scene.end()
}

#[test]
fn containers_of_lxcs_with_and_without_users_of_their_own() -> Result<()> {
    needs!(HostHooks, Root, Lxc);
    let scene = KeyScene::with_settings(lxc::SETTINGS, RULES)?;
    let own = Lxc::new("own").user_namespace().start(&scene.sandbox)?;
    let plain = Lxc::new("plain").start(&scene.sandbox)?;
    answered(&scene, &own)?;
    answered(&scene, &plain)?;
    drop((own, plain));
    scene.end()
}

/// Asks as nobody of the host's, by these words of unshare(1) before it.
fn nobody(sandbox: &Sandbox, unshare: &[&str], words: &[&str]) -> Result<String> {
    let mut command = command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command
        .args(unshare)
        .arg(sandbox.path("bin/key-me"))
        .args(words);
    let output = command.output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn who_unshared_is_in_no_container() -> Result<()> {
    needs!(HostHooks, Root, Unprivileged);
    let scene = KeyScene::new(RULES)?;
    let unshare = ["unshare", "-Urmpf", "--mount-proc"];
    let said = nobody(&scene.sandbox, &unshare, &["user", "made:a", "x"])?;
    assert_eq!(said, "no EACCES");
    let record = scene.record("made:a")?;
    assert!(record.container.is_none(), "{record:?}");
    assert_eq!(record.process.user_namespace.as_deref(), Some("other"));
    assert_eq!(record.process.uid, Some(65534), "{record:?}");
    scene.end()
}

#[test]
fn a_user_without_rights_is_never_taken_for_the_kernel() -> Result<()> {
    needs!(HostHooks, Root, Unprivileged);
    let scene = KeyScene::new(RULES)?;
    // Those of the kernel's types that this one has; of others it says itself that there are none.
    for kind in [
        "id_resolver",
        "id_legacy",
        "cifs.spnego",
        "cifs.idmap",
        "dns_resolver",
    ] {
        let name = format!("forged.{}", kind.replace('.', "-"));
        let said = nobody(&scene.sandbox, &[], &[kind, &name, ""])?;
        let asked = !["no ENOKEY", "no EPERM"].contains(&said.as_str());
        match kind {
            "dns_resolver" => {
                assert_eq!(said, "key 192.0.2.1", "by the rule for programs");
                let record = scene.record(&name)?;
                assert_eq!(key(&record)?.caller, "user", "{record:?}");
            }
            _ if asked => panic!("{kind}: {said}"),
            _ => {}
        }
    }
    let all = scene.daemon.records().all();
    let forged = all
        .iter()
        .filter(|record| record.outcome == Outcome::Refused);
    for record in forged {
        assert_eq!(record.reason.as_deref(), Some("forged"), "{record:?}");
    }
    scene.end()
}
