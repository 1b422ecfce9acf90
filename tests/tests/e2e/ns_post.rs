//! `post`: a program of the host that is told when all is done.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use upcall_e2e::command::{at_most, until};
use upcall_e2e::container::{children, pid_of, runs};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Outcome;

use crate::scene::Scene;

fn scene(script: &str, action: &str, more: &str) -> Result<Scene> {
    scene_in(Sandbox::new()?, script, action, more)
}

fn scene_in(sandbox: Sandbox, script: &str, action: &str, more: &str) -> Result<Scene> {
    let rule = format!(
        "[[rule]]\nupcall = \"core\"\n{action}\npost = [\"@/note\", \"{{record}}\", \"{{pid}}\"]\n{more}\n"
    );
    sandbox.rules(&rule)?;
    let path = sandbox.path("note");
    let here = sandbox.path("").display().to_string();
    std::fs::write(&path, format!("#!/bin/sh\ncd {here}\n{script}\n"))?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    let daemon = Daemon::start(&sandbox)?;
    Ok(Scene { daemon, sandbox })
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
    assert!(start.elapsed() < at_most(Duration::from_secs(5)));
    scene.daemon.logs("exited with 3")?;
    scene.daemon.logs("oh no")?;
    drop(container);
    scene.end()
}

#[test]
fn one_whose_keeper_is_killed_is_ended_and_leaves_nothing() -> Result<()> {
    needs!(Root, Runc);
    let script = "echo $$ > pid.part; mv pid.part pid; exec sleep 100";
    let scene = scene(script, "store = { ignore_limit = true }", "")?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    scene.dump(&CoreDump::of(container.init())?)?;
    let path = scene.sandbox.path("pid");
    let pid = until(Duration::from_secs(5), "it to run", || {
        std::fs::read_to_string(&path).ok()?.trim().parse().ok()
    })?;
    let mut keepers = children(scene.daemon.launcher()).into_iter();
    let keeper = keepers.find(|keeper| children(*keeper).contains(&pid));
    kill(pid_of(keeper.context("its keeper")?), Signal::SIGKILL)?;
    scene.daemon.logs("no word of its end")?;
    until(Duration::from_secs(5), "its end", || {
        (!runs(pid)).then_some(())
    })?;
    drop(container);
    scene.end()
}

#[test]
fn it_is_told_once_of_all_that_a_limit_refused() -> Result<()> {
    needs!(Root, Runc);
    let each = "cat > told.$1.part; mv told.$1.part told.$1";
    let limit = "limit = { rate = \"1/h\" }";
    let scene = scene(each, "store = { ignore_limit = true }", limit)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    for _ in 0..5 {
        dump.dump(&scene.sandbox)?;
    }
    let records = scene.records(2, Duration::from_secs(30))?;
    let counts: Vec<u64> = records.iter().map(|record| record.count).collect();
    assert_eq!(counts, [1, 4], "{records:?}");
    for record in &records {
        let path = scene.sandbox.path(format!("told.{}", record.id));
        let text = until(Duration::from_secs(5), "a note", || {
            std::fs::read(&path).ok()
        })?;
        let told: Value = serde_json::from_slice(&text)?;
        assert_eq!(told, serde_json::to_value(record)?);
    }
    let notes = std::fs::read_dir(scene.sandbox.path(""))?.flatten();
    let notes = notes.filter(|note| note.file_name().to_string_lossy().starts_with("told."));
    assert_eq!(notes.count(), 2);
    drop(container);
    scene.end()
}

#[test]
fn it_is_told_of_what_was_taken_in_from_the_spool() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    let dump = CoreDump::of(container.init())?.word("%c", u64::MAX.to_string());
    dump.dump(&sandbox)?;
    let pid = container.init();
    drop(container);
    let scene = scene_in(sandbox, KEEP, "store = {}", "")?;
    let record = scene.daemon.records().of(pid)?;
    assert_eq!(record.reason.as_deref(), Some("daemon_down"), "{record:?}");
    assert_eq!(told(&scene)?, serde_json::to_value(&record)?);
    let words = std::fs::read_to_string(scene.sandbox.path("words"))?;
    assert_eq!(words.trim(), format!("{} {pid}", record.id));
    scene.end()
}

#[test]
fn one_that_does_not_end_is_ended_and_the_others_run_meanwhile() -> Result<()> {
    needs!(Root, Runc);
    let script = "if [ -e hang ]; then rm hang; sleep 300; fi; cat > part; mv part told";
    let scene = scene(script, "store = { ignore_limit = true }", "")?;
    std::fs::write(scene.sandbox.path("hang"), "")?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let start = Instant::now();
    scene.dump(&dump)?;
    until(Duration::from_secs(5), "the first", || {
        (!scene.sandbox.path("hang").exists()).then_some(())
    })?;
    scene.dump(&dump)?;
    told(&scene)?;
    assert!(start.elapsed() < at_most(Duration::from_secs(10)));
    let ended = until(Duration::from_secs(50), "the first one's end", || {
        scene.daemon.logs("was ended: it took nothing").ok()
    });
    ended?;
    let took = start.elapsed();
    assert!((25..45).contains(&took.as_secs()), "{took:?}");
    drop(container);
    scene.end()
}
