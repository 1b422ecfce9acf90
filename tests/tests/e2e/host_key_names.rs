//! Names that are resolved in the asking container's own network, by a server on its own loopback.

use std::time::Duration;

use anyhow::Result;
use upcall_e2e::command::until;
use upcall_e2e::container::Container;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::rootfs::Rootfs;
use upcall_e2e::runc::Runc;

use crate::host_key_many::{answers, go, prepare};
use crate::host_key_scene::{KeyScene, ask_in};

const RULES: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "dns_resolver" }
run = { in = "host", join = ["net"], command = ["/sbin/key.dns_resolver", "{key}"], files = ["/etc/resolv.conf", "/etc/hosts"] }
"#;

/// A container with a name server on its loopback that knows one address for all names.
fn serving(scene: &KeyScene, name: &str, address: &str) -> Result<Container> {
    let resolv = |root: &Rootfs| {
        root.file("/etc/hosts", "127.0.0.1 localhost\n", 0o644)?;
        root.file("/etc/resolv.conf", "nameserver 127.0.0.1\n", 0o644)
    };
    let container = Runc::new(name)
        .user_namespace()
        .root(resolv)
        .start(&scene.sandbox)?;
    let server = container.spawn(&["/key-me", "--names", address])?;
    until(Duration::from_secs(5), "a name server", || {
        let bound = std::fs::read_to_string(format!("/proc/{server}/net/udp")).ok()?;
        bound.contains("0100007F:0035").then_some(())
    })?;
    Ok(container)
}

#[test]
fn a_name_is_resolved_in_the_containers_network_by_the_hosts_resolver() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(RULES)?;
    let one = serving(&scene, "one", "192.0.2.1")?;
    let two = serving(&scene, "two", "192.0.2.2")?;
    let ask = |container| ask_in(container, &["dns_resolver", "shop.example", ""]);
    for (container, own) in [(&one, "key 192.0.2.1"), (&two, "key 192.0.2.2")] {
        let answer = ask(container)?;
        assert_eq!(answer, own, "{:?}", scene.daemon.records().all());
    }
    let records = until(Duration::from_secs(5), "two records", || {
        let all = scene.daemon.records().all();
        (all.len() == 2).then_some(all)
    })?;
    let ran: Vec<_> = records
        .iter()
        .filter_map(|r| action(r, "run").ok())
        .collect();
    assert_eq!(ran.len(), 2, "{records:?}");
    for run in ran {
        assert!(
            run.uid.is_some_and(|uid| (61_184..65_520).contains(&uid)),
            "{run:?}"
        );
        assert_eq!(run.capabilities, Some(Vec::new()));
    }
    drop((one, two));
    scene.end()
}

#[test]
fn the_same_names_at_once_have_each_containers_own_answers() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(RULES)?;
    let containers = [
        (serving(&scene, "one", "192.0.2.1")?, "key 192.0.2.1"),
        (serving(&scene, "two", "192.0.2.2")?, "key 192.0.2.2"),
    ];
    for (container, _) in &containers {
        prepare(container, 8, ["dns_resolver", "shop.example."])?;
    }
    for (container, _) in &containers {
        go(container)?;
    }
    for (container, own) in &containers {
        let counts = answers(container)?.counts;
        assert_eq!(
            counts.into_iter().collect::<Vec<_>>(),
            [((*own).to_owned(), 8)]
        );
    }
    drop(containers);
    scene.end()
}
