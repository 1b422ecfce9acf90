//! `post`: a program of the host that is told when all is done.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use upcall_e2e::command::until;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcalld::store::record::Outcome;

use crate::scene::Scene;

fn scene(script: &str, action: &str, more: &str) -> Result<Scene> {
    let rule = format!(
        "[[rule]]\nupcall = \"core\"\n{action}\npost = [\"@/note\", \"{{record}}\", \"{{pid}}\"]\n{more}\n"
    );
    let scene = Scene::new(&rule)?;
    let path = scene.sandbox.path("note");
    let here = scene.sandbox.path("").display().to_string();
    std::fs::write(&path, format!("#!/bin/sh\ncd {here}\n{script}\n"))?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(scene)
}

const KEEP: &str = "echo \"$@\" > words; cat > told.part; mv told.part told";

fn told(scene: &Scene) -> Result<Value> {
    let path = scene.sandbox.path("told");
    let text = until(Duration::from_secs(5), "a note", || {
        std::fs::read(&path).ok()
    })?;
    Ok(serde_json::from_slice(&text)?)
}

#[test]
fn it_gets_the_closed_record_and_is_not_in_it() -> Result<()> {
    needs!(Root, Runc);
    let scene = scene(KEEP, "store = { ignore_limit = true }", "")?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert_eq!(record.outcome, Outcome::Done);
    assert_eq!(told(&scene)?, serde_json::to_value(&record)?);
    let words = std::fs::read_to_string(scene.sandbox.path("words"))?;
    assert_eq!(words.trim(), format!("{} {}", record.id, container.init()));
    let again = scene.daemon.records().of(container.init())?;
    assert_eq!(again.actions, record.actions);
    drop(container);
    scene.end()
}

#[test]
fn it_is_told_of_a_refusal_too() -> Result<()> {
    needs!(Root, Runc);
    let scene = scene(KEEP, "deny = { reason = \"not here\" }", "")?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert_eq!(record.outcome, Outcome::Refused);
    let told = told(&scene)?;
    assert_eq!(told.get("id").and_then(Value::as_str), Some(&*record.id));
    assert_eq!(told.get("reason").and_then(Value::as_str), Some("rule"));
    drop(container);
    scene.end()
}

#[test]
fn one_that_fails_is_in_the_log_and_holds_nobody_up() -> Result<()> {
    needs!(Root, Runc);
    let scene = scene("echo oh no; exit 3", "store = { ignore_limit = true }", "")?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let start = Instant::now();
    for _ in 0..3 {
        let (record, _) = scene.dump(&dump)?;
        assert_eq!(record.outcome, Outcome::Done);
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    scene.daemon.logs("exited with 3")?;
    scene.daemon.logs("oh no")?;
    drop(container);
    scene.end()
}
