//! What should have come of each crash, and whether it did.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use upcall_e2e::leader::namespaces;
use upcall_e2e::records::action;
use upcalld::store::record::{Outcome, Record};

use crate::crashes::{Crash, NESTED, NOBODY, Who};
use crate::inside::Inside;
use crate::scene::{Scene, Stage};

/// One crash, its record, and what is wrong about it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) number: usize,
    pub(crate) who: Who,
    pub(crate) record: Option<Record>,
    /// What the helper said of itself, where one ran.
    pub(crate) inside: Option<Inside>,
    /// The host's namespaces.
    pub(crate) host: BTreeMap<String, u64>,
    /// `expected …, got …`
    pub(crate) wrong: Option<String>,
}

/// Finds the records and compares them.
pub(crate) fn compare(scene: &Scene, crashes: &[Crash]) -> Result<Vec<Row>> {
    let host = namespaces(std::process::id())?;
    let records = scene.records()?;
    let mut rows = Vec::new();
    for (number, crash) in (1..).zip(crashes) {
        let record = records.wait("a crash", |record| crash.is(record)).ok();
        let inside = record.as_ref().and_then(|record| Inside::of(record).ok());
        let mut row = Row {
            number,
            who: crash.who,
            record,
            inside,
            host: host.clone(),
            wrong: None,
        };
        row.wrong = check(scene, &row).err();
        rows.push(row);
    }
    Ok(rows)
}

/// What a row should say; the first difference is the error.
fn check(scene: &Scene, row: &Row) -> Result<(), String> {
    let record = row.record.as_ref().ok_or("expected a record, got none")?;
    let reason = record
        .reason
        .as_deref()
        .or(record.verdict.host_only.as_deref());
    let because = reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    let same = |what: &str, expected: &str, got: &str| {
        if expected == got {
            Ok(())
        } else {
            Err(format!("expected {what} {expected}, got {got}{because}"))
        }
    };
    let (name, uid, comm, rule) = match row.who {
        Who::Child(name) => (Some(name), root_of(name), "crash-me", rule(name)),
        Who::Nested(name) => (Some(name), root_of(name) + NESTED, "crash-me", rule(name)),
        Who::Init(name) => (Some(name), root_of(name), "init", rule(name)),
        Who::Host => (None, 0, "crash-me", 19),
        Who::Unregistered => (None, NOBODY, "crash-me", 19),
    };
    let wanted = name.map_or("none".to_owned(), |name| {
        let runtime = if name == "demo-podman" {
            "podman"
        } else {
            "runc"
        };
        format!("{runtime}/{name}")
    });
    same(
        "container",
        &wanted,
        &container(record).unwrap_or("none".to_owned()),
    )?;
    same(
        "process",
        comm,
        record.process.comm.as_deref().unwrap_or("none"),
    )?;
    let found = record
        .process
        .uid
        .map_or("none".to_owned(), |uid| uid.to_string());
    same("uid", &uid.to_string(), &found)?;
    same(
        "evidence",
        "kernel_pidfd",
        record.evidence.process.as_deref().unwrap_or("none"),
    )?;
    let found = record
        .verdict
        .rule
        .as_ref()
        .map_or("none".to_owned(), |rule| rule.line.to_string());
    same("rule", &rule.to_string(), &found)?;
    same("outcome", Outcome::Done.as_str(), record.outcome.as_str())?;
    let actions = if name.is_some() {
        "run, store"
    } else {
        "store"
    };
    same("actions", actions, &record.verdict.actions.join(", "))?;
    if row.who == Who::Unregistered {
        let found = record.process.user_namespace.as_deref().unwrap_or("none");
        same("user namespace", "other", found)?;
    }
    stored(scene, record)?;
    match name {
        Some(name) => helper(
            scene.stage(name).map_err(|error| error.to_string())?,
            row,
            record,
        ),
        None => same(
            "helper",
            "none",
            row.inside.as_ref().map_or("none", |_| "one"),
        ),
    }
}

/// The core is where the record says, all of it, and root's alone.
fn stored(scene: &Scene, record: &Record) -> Result<(), String> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (path, bytes) = core(record).ok_or("expected a core, got none")?;
    let meta = std::fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let below = scene
        .sandbox()
        .is_ok_and(|sandbox| path.starts_with(sandbox.state()));
    let private = meta.uid() == 0 && meta.permissions().mode() & 0o077 == 0 && below;
    let elf = std::fs::read(&path).is_ok_and(|core| core.starts_with(b"\x7fELF"));
    if meta.len() == bytes && bytes > 0 && private && elf {
        Ok(())
    } else {
        Err(format!(
            "expected a private core of {bytes} bytes, got {}",
            path.display()
        ))
    }
}

/// The helper ran in the container's namespaces, all of them, as its init, and got the whole core.
fn helper(stage: &Stage, row: &Row, record: &Record) -> Result<(), String> {
    let inside = row
        .inside
        .as_ref()
        .ok_or("expected a helper's report, got none")?;
    let leader = &stage.leader;
    for (kind, expected) in &leader.namespaces {
        let got = inside.namespaces.get(kind).copied().unwrap_or(0);
        if got != *expected {
            return Err(format!("expected {kind} namespace {expected}, got {got}"));
        }
    }
    let own = record.process.namespaces.get("user").copied().unwrap_or(0);
    let nested = own != leader.namespaces.get("user").copied().unwrap_or(0);
    if nested != matches!(row.who, Who::Nested(_)) {
        return Err(format!("expected another user namespace, got {own}"));
    }
    let allowed = leader.capabilities("CapBnd") & leader.capabilities("CapPrm");
    if inside.capabilities != allowed || inside.ids != "0:0" {
        let got = (&inside.ids, inside.capabilities);
        return Err(format!("expected 0:0 with {allowed:x}, got {got:x?}"));
    }
    let run = action(record, "run").map_err(|error| error.to_string())?;
    let (path, bytes) = core(record).ok_or("expected a core, got none")?;
    let pid = record
        .process
        .pid_inside
        .map(|pid| pid.to_string())
        .unwrap_or_default();
    let copy = stage.cores.join(pid);
    let same = std::fs::read(&copy).ok() == std::fs::read(&path).ok();
    if run.exit_code == Some(0) && run.fed_bytes == Some(bytes) && same {
        Ok(())
    } else {
        Err(format!(
            "expected the same core in {}, got another",
            copy.display()
        ))
    }
}

/// Where the core is and how large.
pub(crate) fn core(record: &Record) -> Option<(PathBuf, u64)> {
    let store = action(record, "store").ok()?;
    Some((store.path.as_ref()?.into(), store.size_bytes?))
}

/// `runtime/name` of a record's container.
pub(crate) fn container(record: &Record) -> Option<String> {
    let container = record.container.as_ref()?;
    let name = container.name.as_ref().unwrap_or(&container.id);
    Some(format!("{}/{name}", container.runtime))
}

/// The host's uid of a container's root.
fn root_of(name: &str) -> u32 {
    match name {
        "demo-userns" => 300_000,
        "demo-podman" => 200_000,
        _ => 0,
    }
}

/// The line of a container's rule in 20-demo.toml.
fn rule(name: &str) -> u32 {
    match name {
        "demo-userns" => 1,
        "demo-plain" => 7,
        _ => 13,
    }
}
