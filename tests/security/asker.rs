//! Attacks on what is known about who wants a key or a module: requests as the shim makes them, by a test that plays it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use std::os::fd::AsFd;
use upcall_e2e::needs;
use upcall_helpers::seqpacket;
use upcall_helpers::wire::{Hook, KeyRequest, Request, Verdict, id};
use upcalld::store::record::{Outcome, Record};

use super::socket::{connected, send};
use crate::scene::Scene;

const SERIAL: i32 = 0x1b22_c7d1;

/// A key's request, of this thread, with the keyring that the requester's thread has.
fn key(kind: &str, thread_keyring: Option<&str>) -> Request {
    let words = ["create", "", "0", "0", "0", "0", "0"].map(|word| word.as_bytes().to_vec());
    let [operation, _, rest @ ..] = words;
    let serial = SERIAL.to_string().into_bytes();
    let pid = std::process::id();
    Request {
        hook: Hook::Key,
        argv: [operation, serial].into_iter().chain(rest).collect(),
        fds: Vec::new(),
        started: 0,
        id: Some(id(rand())),
        key: Some(KeyRequest {
            authorisation: format!(
                "2c0c4b7d I--Q--- 1 perm 1b010000 0 0 .request_ key:{SERIAL:x} pid:{pid} ci:5"
            )
            .into_bytes(),
            described: format!("{kind};0;0;3f010000;uid:root").into_bytes(),
            callout: b"x".to_vec(),
            thread_keyring: thread_keyring
                .map(|name| format!("keyring;0;0;1f3f0000;{name}").into()),
        }),
    }
}

fn module(alias: &str) -> Request {
    Request {
        hook: Hook::Module,
        argv: ["-q", "--", alias]
            .map(|word| word.as_bytes().to_vec())
            .into(),
        fds: Vec::new(),
        started: 0,
        id: Some(id(rand())),
        key: None,
    }
}

fn rand() -> u64 {
    upcall_helpers::sys::random().unwrap_or(0)
}

/// What the shim would be told, and what the record says then.
fn asked(scene: &Scene, request: &Request) -> Result<(Verdict, Record)> {
    let before: BTreeSet<String> = scene.ids();
    let socket = connected(&scene.sandbox)?;
    send(&socket, &request.encode()?, &[])?;
    let received = seqpacket::receive(socket.as_fd())?;
    let verdict = Verdict::decode(&received.record)
        .ok()
        .context("a verdict")?;
    drop(socket);
    let record = scene
        .daemon
        .records()
        .wait("this request", |record| !before.contains(&record.id))?;
    Ok((verdict, record))
}

fn refused(verdict: &Verdict, with: Errno) -> bool {
    matches!(verdict, Verdict::Deny { errno, .. } if *errno == with as u32)
}

#[test]
fn who_claims_to_be_the_kernel_without_its_keyring_is_refused() -> Result<()> {
    needs!(Root);
    let scene = Scene::new("")?;
    for kind in ["id_resolver", "id_legacy", "cifs.spnego", "cifs.idmap"] {
        let (verdict, record) = asked(&scene, &key(kind, None))?;
        ensure!(refused(&verdict, Errno::EPERM), "{kind}: {verdict:?}");
        assert_eq!(record.outcome, Outcome::Refused);
        assert_eq!(record.reason.as_deref(), Some("forged"), "{record:?}");
    }
    // Another's keyring of the kernel's, or one that sounds like it.
    for (name, keyring) in [("a", ".dns_resolver"), ("b", "id_resolver")] {
        let mut request = key("cifs.spnego", Some(keyring));
        if let Some(key) = &mut request.key {
            // One of its own, since more of the same are one record with the first.
            key.described = format!("cifs.spnego;0;0;3f010000;{name}").into_bytes();
        }
        let (verdict, record) = asked(&scene, &request)?;
        ensure!(refused(&verdict, Errno::EPERM), "{keyring}: {verdict:?}");
        assert_eq!(record.reason.as_deref(), Some("forged"), "{record:?}");
    }
    let (verdict, record) = asked(&scene, &key("id_resolver", Some(".id_resolver")))?;
    ensure!(matches!(verdict, Verdict::Pass { .. }), "{verdict:?}");
    assert_eq!(record.key.map(|key| key.caller).as_deref(), Some("kernel"));
    scene.end()
}

#[test]
fn whoever_gets_lost_is_denied_what_containers_are() -> Result<()> {
    needs!(Root);
    let deny = "deny = { reason = \"not for containers\" }\nmatch.container = {}\n";
    let scene = Scene::new(&format!(
        "[[rule]]\nupcall = \"key\"\n{deny}[[rule]]\nupcall = \"module\"\nmatch.module = \"granted\"\npass = {{}}\n"
    ))?;
    // Who is known to be on the host is not denied.
    let (verdict, _) = asked(&scene, &key("user", None))?;
    ensure!(matches!(verdict, Verdict::Pass { .. }), "{verdict:?}");
    let mut lost = key("user", None);
    if let Some(key) = &mut lost.key {
        key.authorisation = Vec::new();
    }
    let (verdict, record) = asked(&scene, &lost)?;
    ensure!(refused(&verdict, Errno::EACCES), "{verdict:?} {record:?}");
    assert_eq!(record.verdict.host_only.as_deref(), Some("identity_lost"));
    // Nobody on this host waits for a module: who asked is not known. Neither a rule nor none lets it through.
    for alias in ["granted", "whatever"] {
        let (verdict, record) = asked(&scene, &module(alias))?;
        ensure!(
            matches!(verdict, Verdict::Deny { .. }),
            "{alias}: {verdict:?}"
        );
        assert_eq!(
            record.reason.as_deref(),
            Some("identity_lost"),
            "{record:?}"
        );
    }
    scene.end()
}

#[test]
fn a_flood_of_refusals_is_no_flood_of_records() -> Result<()> {
    needs!(Root);
    let scene = Scene::new("[[rule]]\nupcall = \"key\"\ndeny = { reason = \"no\" }\n")?;
    for count in 0..60 {
        let socket = connected(&scene.sandbox)?;
        let mut request = key("user", None);
        if let Some(key) = &mut request.key {
            key.described = format!("user;0;0;3f010000;name-{count}").into_bytes();
        }
        send(&socket, &request.encode()?, &[])?;
        let received = seqpacket::receive(socket.as_fd())?;
        let verdict = Verdict::decode(&received.record)
            .ok()
            .context("a verdict")?;
        ensure!(refused(&verdict, Errno::EACCES), "{verdict:?}");
    }
    // What is not written yet is written when the daemon ends, with its number.
    let records = scene.daemon.records().all();
    ensure!(
        (1..=17).contains(&records.len()),
        "{} records",
        records.len()
    );
    scene.end()
}
