//! Keys that the kernel wants by itself: for its AFS, its NFS and its SMB client.

use std::os::unix::fs::{MetadataExt, chown};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use upcall_e2e::command::{command, until};
use upcall_e2e::container::Container;
use upcall_e2e::needs;
use upcall_e2e::nfs::Nfs;
use upcall_e2e::runc::Runc;
use upcall_e2e::smb;
use upcalld::store::record::{Outcome, Record};

use crate::host_key_scene::{KeyScene, ask_in, key};
use crate::scene::script;

/// Whoever is in a container has another answer than the kernel's own threads.
const CELLS: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "dns_resolver" }
answer = { payload = "203.0.113.66", ttl = "1m" }

[[rule]]
name = "cells"
upcall = "key"
match.process.kernel_thread = true
match.key = { type = "dns_resolver", description = "afsdb:near.example", caller = "kernel" }
answer = { payload = "192.0.2.7+7003", ttl = "1m" }

[[rule]]
name = "no other cells"
upcall = "key"
match.process.kernel_thread = true
match.key.caller = "kernel"
deny = { reason = "no such cell", errno = "EHOSTUNREACH" }
"#;

/// Mounts a cell in a container's network, as an admin does; which servers the kernel then knows it by, and what mount
/// said.
fn cell(container: &Container, name: &str) -> Result<(Option<String>, String)> {
    let at = container.root().inside("/tmp");
    let mut mount = command("nsenter");
    mount.arg(format!("--net=/proc/{}/ns/net", container.init()));
    mount.args(["mount", "-t", "afs", &format!("%{name}:root.cell")]);
    let said = mount.arg(at).output()?;
    assert!(!said.status.success(), "there is no server");
    let servers = format!("/proc/{}/net/afs/{name}/vlservers", container.init());
    let servers = std::fs::read_to_string(servers).ok();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    Ok((servers, said))
}

fn rule(record: &Record) -> Option<&str> {
    record.verdict.rule.as_ref()?.name.as_deref()
}

fn is_a_kernel_threads(record: &Record) -> Result<()> {
    assert_eq!(record.evidence.process.as_deref(), Some("auth_key"));
    assert_eq!(record.process.kernel_thread, Some(true), "{record:?}");
    assert_eq!(record.container, None, "{record:?}");
    assert_eq!(key(record)?.caller, "kernel");
    assert_eq!(key(record)?.callout.as_deref(), Some("srv=1"));
    Ok(())
}

#[test]
fn a_cell_of_afs_is_looked_up_by_a_thread_of_the_kernels() -> Result<()> {
    needs!(HostHooks, Root, Runc, Afs);
    let scene = KeyScene::new(CELLS)?;
    let container = Runc::new("web").start(&scene.sandbox)?;
    let (servers, said) = cell(&container, "near.example")?;
    let record = scene.record("afsdb:near.example")?;
    is_a_kernel_threads(&record)?;
    assert_eq!(rule(&record), Some("cells"));
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(key(&record)?.answer.as_deref(), Some("instantiated"));
    // The kernel uses what it got.
    let servers = servers.with_context(|| said.clone())?;
    assert!(servers.contains("192.0.2.7:7003"), "{servers} {said}");

    let (servers, said) = cell(&container, "far.example")?;
    let record = scene.record("afsdb:far.example")?;
    is_a_kernel_threads(&record)?;
    assert_eq!(rule(&record), Some("no other cells"));
    assert_eq!(record.outcome, Outcome::Refused, "{record:?}");
    assert_eq!(key(&record)?.errno.as_deref(), Some("EHOSTUNREACH"));
    let none = servers.is_none_or(|servers| !servers.contains(':'));
    assert!(none, "{said}");
    drop(container);
    scene.end()
}

/// Who owns a file the container knows; what names there are for ids the host says.
const OWNERS: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "id_resolver", description = ["uid:*", "gid:*"], caller = "kernel" }
run = { in = "container", command = ["/owner", "{description}"] }

[[rule]]
upcall = "key"
match.key = { type = "id_resolver", description = ["user:*", "group:*"], caller = "kernel" }
answer = { file = "@/name" }

[[rule]]
upcall = "key"
match.key = { type = "id_resolver", caller = "kernel" }
answer = { payload = "4242", ttl = "1s" }
"#;

#[test]
fn the_owner_of_a_file_on_nfs_is_asked_for_in_the_container_that_looks() -> Result<()> {
    needs!(HostHooks, Root, Runc, Nfs);
    let scene = KeyScene::new(OWNERS)?;
    let name = "n1001@nfs.example";
    std::fs::write(scene.sandbox.path("name"), name)?;
    let share = scene.sandbox.path("share");
    let nfs = Nfs::loopback(&scene.sandbox, &share, &[0, 1000, 1001])?;
    let file = nfs.export().join("file");
    std::fs::write(&file, "")?;
    chown(&file, Some(1000), Some(1000))?;
    let owner = script("/owner", "echo $1 >>/tmp/asked; echo 300017");
    let container = Runc::new("web").user_namespace().root(owner);
    let bound = share.clone();
    let container = container.root(move |root| {
        let (at, none) = (root.inside("/share"), None::<&str>);
        std::fs::create_dir(&at)?;
        Ok(mount(Some(&bound), &at, none, MsFlags::MS_BIND, none)?)
    });
    let container = container.start(&scene.sandbox)?;
    let seen = container.exec(&["/bin/stat", "-c", "%u", "/share/file"])?;
    let record = scene.record("uid:n1000@nfs.example")?;
    assert_eq!(record.process.kernel_thread, Some(false), "{record:?}");
    let leader = record.container.as_ref().map(|found| found.leader_pid);
    assert_eq!(leader, Some(container.init()));
    assert_eq!(key(&record)?.caller, "kernel");
    assert_eq!(key(&record)?.answer.as_deref(), Some("instantiated"));
    assert_eq!(seen.trim(), "17", "{record:?}");

    // A program that claims to be the kernel is none.
    let forged = ask_in(&container, &["id_resolver", "uid:root@nfs.example", ""])?;
    assert_eq!(forged, "no EPERM");
    let record = scene.record("uid:root@nfs.example")?;
    assert_eq!(key(&record)?.caller, "forged");

    // What the host gives away, the server gets by the name that was answered.
    chown(share.join("file"), Some(1002), None)?;
    let record = scene.record("user:1002")?;
    assert_eq!(record.container, None);
    // No more than the name: all of it goes over the wire.
    assert_eq!(key(&record)?.payload_bytes, Some(name.len() as u64));
    assert_eq!(std::fs::metadata(&file)?.uid(), 1001, "{record:?}");
    let bound = container.root().inside("/share");
    drop(container);
    // Nothing of the client's is left when the server ends.
    umount2(&bound, MntFlags::empty())?;
    drop(nfs);
    scene.end()
}

const TICKETS: &str = r#"
[[rule]]
upcall = "key"
match.key = { type = "cifs.spnego", caller = "kernel" }
deny = { reason = "no tickets", errno = "EKEYREVOKED" }
"#;

#[test]
fn a_share_of_smb_asks_for_its_ticket() -> Result<()> {
    needs!(HostHooks, Root, Cifs);
    let scene = KeyScene::new(TICKETS)?;
    let server = smb::negotiates()?;
    let share = scene.sandbox.path("share");
    std::fs::create_dir(&share)?;
    let options = format!(
        "ip=127.0.0.1,port={},unc=\\\\127.0.0.1\\share,vers=2.1,sec=krb5,cruid=0,user=root",
        server.port()
    );
    let (kind, none) = (Some("cifs"), MsFlags::empty());
    let mounted = mount(
        Some("//127.0.0.1/share"),
        &share,
        kind,
        none,
        Some(&*options),
    );
    assert_eq!(mounted, Err(Errno::EKEYREVOKED));
    let all = until(Duration::from_secs(20), "a record", || {
        let all = scene.daemon.records().all();
        (!all.is_empty()).then_some(all)
    })?;
    let record = all.first().context("a record")?;
    assert_eq!(key(record)?.kind, "cifs.spnego");
    assert_eq!(key(record)?.caller, "kernel");
    assert_eq!(record.process.pid, Some(std::process::id()), "{record:?}");
    let description = &key(record)?.description;
    assert!(
        description.contains("ip4=127.0.0.1;sec=krb5;uid=0x0"),
        "{description}"
    );
    scene.end()
}
