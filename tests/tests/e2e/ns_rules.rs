//! What rules ask for, and that it is done.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use anyhow::Result;
use upcall_e2e::command::at_most;
use upcall_e2e::cores;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::{action, report, said};
use upcall_e2e::report::Hash;
use upcall_e2e::runc::Runc;
use upcalld::hooks::pattern::Pattern;
use upcalld::store::record::Outcome;

use crate::scene::{Scene, run_rule, script};

/// Everything of runc's is kept.
const STORE: &str = r#"
[[rule]]
upcall = "core"
match.container = { runtime = "runc" }
store = { ignore_limit = true }
"#;

/// The shim makes the kernel's pipe as large as it may; a core that fits into it is taken by nobody and written all the
/// same.
const MORE_THAN_A_PIPE: usize = 4 << 20;

#[test]
fn a_rule_that_denies_ends_the_dump_unread() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(
        r#"
[[rule]]
name = "nothing of the web's"
upcall = "core"
match.container = { runtime = "runc" }
deny = { reason = "batch jobs keep no cores" }
"#,
    )?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let (record, ended) = scene.dump(&CoreDump::of(container.init())?.bytes(MORE_THAN_A_PIPE))?;
    assert_eq!((ended.code, ended.taken), (1, false));
    assert_eq!(record.outcome, Outcome::Refused);
    assert_eq!(record.reason.as_deref(), Some("rule"));
    assert_eq!(record.message.as_deref(), Some("batch jobs keep no cores"));
    assert_eq!(
        record.verdict.rule.and_then(|rule| rule.name).as_deref(),
        Some("nothing of the web's")
    );
    assert!(record.actions.is_empty() && record.count == 1);
    scene.end()
}

#[test]
fn a_core_is_kept_whole_and_roots_alone() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(5_000_001);
    let (record, ended) = scene.dump(&dump)?;
    assert_eq!((ended.code, ended.taken), (0, true));
    assert_eq!(record.outcome, Outcome::Done);
    let store = action(&record, "store")?;
    assert_eq!(
        (store.size_bytes, store.compress.as_deref(), store.truncated),
        (Some(5_000_001), Some("zstd"), Some(false))
    );
    let length = std::fs::metadata(cores::path(&scene.sandbox.state(), &record.id)?)?.len();
    assert_eq!(store.stored_bytes, Some(length));
    assert_eq!(scene.kept(&record)?, dump.core());
    let meta = std::fs::metadata(store.path.as_deref().unwrap_or_default())?;
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (0, 0o600));
    scene.end()
}

#[test]
fn a_core_over_max_size_is_cut_there() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&STORE.replace(
        "ignore_limit = true",
        r#"ignore_limit = true, max_size = "64KiB""#,
    ))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(1 << 20);
    let (record, ended) = scene.dump(&dump)?;
    assert_eq!(ended.code, 0);
    assert_eq!(record.reason.as_deref(), Some("too_large"), "{record:?}");
    let store = action(&record, "store")?;
    assert_eq!(
        (store.size_bytes, store.truncated),
        (Some(65_536), Some(true))
    );
    assert_eq!(scene.kept(&record)?, dump.core()[..65_536]);
    scene.end()
}

#[test]
fn a_process_with_a_core_limit_of_0_keeps_none_unless_the_rule_says_so() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&STORE.replace("{ ignore_limit = true }", "{}"))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let (record, ended) = scene.dump(&dump.clone().word("%c", "0").bytes(MORE_THAN_A_PIPE))?;
    assert_eq!((ended.code, ended.taken), (1, false));
    let store = action(&record, "store")?;
    assert_eq!(
        (store.outcome, store.reason.as_deref()),
        (Outcome::Refused, Some("core_limit"))
    );
    assert!(scene.kept(&record).is_err());
    // Every other limit lets it be kept, as the kernel does with a pipe.
    for limit in ["4096", "18446744073709551615"] {
        let (record, _) = scene.dump(&dump.clone().word("%c", limit))?;
        assert_eq!(record.outcome, Outcome::Done, "{limit}: {record:?}");
        assert_eq!(scene.kept(&record)?, dump.core());
    }
    scene.end()
}

#[test]
fn nothing_is_kept_where_too_little_would_stay_free() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(STORE)?;
    let Scene { daemon, sandbox } = scene;
    daemon.stop(&sandbox)?;
    std::fs::write(
        sandbox.path("config/upcalld.toml"),
        "store.keep_free = \"900TiB\"\n",
    )?;
    let daemon = upcall_e2e::daemon::Daemon::start(&sandbox)?;
    let scene = Scene { daemon, sandbox };
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert_eq!(
        (record.outcome, record.reason.as_deref()),
        (Outcome::Failed, Some("disk_floor"))
    );
    assert!(scene.kept(&record).is_err());
    scene.end()
}

#[test]
fn a_helper_and_a_copy_both_have_all_of_it() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/probe""#, "store = { ignore_limit = true }"))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(3_000_003);
    let (record, ended) = scene.dump(&dump)?;
    assert_eq!((ended.code, ended.taken), (0, true));
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(
        report(&record)?.stdin_hash,
        Hash::of(dump.core()).to_string()
    );
    assert_eq!(action(&record, "run")?.fed_bytes, Some(3_000_003));
    assert_eq!(scene.kept(&record)?, dump.core());
    scene.end()
}

#[test]
fn a_slow_helper_does_not_keep_the_copy_waiting() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/slow""#, "store = { ignore_limit = true }"))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/slow", "sleep 0.8; wc -c"))
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(2_000_000);
    let start = Instant::now();
    let started = dump.start(&scene.sandbox)?;
    let cores = scene.sandbox.state().join("cores");
    upcall_e2e::command::until(Duration::from_millis(700), "the copy", || {
        let mut names = std::fs::read_dir(&cores).ok()?.flatten();
        names.next()
    })?;
    assert!(start.elapsed() < at_most(Duration::from_millis(700)));
    assert_eq!(started.wait()?.code, 0);
    let record = scene.daemon.records().of(container.init())?;
    assert_eq!(said(&record)?, "2000000\n");
    assert!(start.elapsed() > Duration::from_millis(700));
    scene.end()
}

#[test]
fn a_helper_that_takes_a_page_now_and_then_makes_progress() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/slow""#, ""))?;
    let slow = "for i in 1 2 3 4 5 6; do sleep 0.4; dd bs=65536 count=1 iflag=fullblock 2>/dev/null | wc -c; done";
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/slow", slow))
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(6 * 65_536);
    let (record, _) = scene.dump(&dump)?;
    // 2.4 seconds in all, and never one without a byte.
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(said(&record)?, "65536\n".repeat(6));
    scene.end()
}

#[test]
fn a_program_of_the_hosts_runs_on_the_host() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(
        r#"
[[rule]]
upcall = "core"
match.container = { runtime = "runc" }
run = { in = "host", command = ["@/bin/upcall-probe", "{pid}", "{container}", "--look=@"] }
"#,
    )?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let report = report(&record)?;
    let host = upcall_e2e::leader::namespaces(std::process::id())?;
    assert_eq!((report.namespaces, report.uid), (host, [0; 4]));
    let pid = container.init().to_string();
    assert_eq!(report.argv[1..3], [pid, container.id().to_owned()]);
    assert_eq!(report.stdin_hash, Hash::of(dump.core()).to_string());
    assert!(report.seen.values().all(|there| *there));
    scene.end()
}

/// A handler that stood in core_pattern before: writes down everything that it got.
const PREVIOUS: &str = r#"#!/bin/sh
for word; do printf '%s\n' "$word"; done > OUT/argv
cat > OUT/core
readlink "/proc/$$/fd/3" > OUT/fd3
sed -n 's/^Pid:\t//p' "/proc/$$/fdinfo/3" > OUT/pid 2>&1
env > OUT/env
"#;

fn with_previous(scene: &Scene, words: &str) -> Result<std::path::PathBuf> {
    let out = scene.sandbox.path("out");
    std::fs::create_dir(&out)?;
    let program = scene.sandbox.path("bin/previous");
    std::fs::write(
        &program,
        PREVIOUS.replace("OUT", &out.display().to_string()),
    )?;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    let pattern = Pattern::parse(&format!("|{} {words}", program.display()));
    scene.sandbox.hook(|hook| hook.previous = pattern)?;
    Ok(out)
}

#[test]
fn what_stood_before_us_gets_its_own_words_the_core_and_the_pidfd() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(
        r#"[[rule]]
upcall = "core"
match.container = {}
pass = {}
"#,
    )?;
    let out = with_previous(&scene, "%P --uid=%u %e a%%b %F %s")?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?
        .word("%e", "a \x1b[31m)b")
        .bytes(300_000);
    let (record, ended) = scene.dump(&dump)?;
    assert_eq!((ended.code, ended.taken), (0, true));
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let text = |name: &str| std::fs::read_to_string(out.join(name));
    let pid = container.init();
    // One word, whatever is in it; and no terminal's business in the record.
    assert_eq!(
        text("argv")?,
        format!("{pid}\n--uid=300000\na \x1b[31m)b\na%b\n3\n11\n")
    );
    assert_eq!(
        action(&record, "pass")?
            .argv
            .as_ref()
            .map(|argv| argv[3].as_str()),
        Some(r"a \x1b[31m)b")
    );
    assert_eq!(std::fs::read(out.join("core"))?, dump.core());
    assert_eq!(text("fd3")?.trim(), "anon_inode:[pidfd]");
    assert_eq!(text("pid")?.trim(), pid.to_string());
    assert!(!text("env")?.contains("NOTIFY_SOCKET"));
    scene.end()
}

#[test]
fn what_stood_before_us_finds_no_descriptor_that_it_did_not_ask_for() -> Result<()> {
    needs!(Root, Runc);
    // No rule at all: everything passes.
    let scene = Scene::new("")?;
    let out = with_previous(&scene, "%P")?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert_eq!((record.outcome, record.verdict.rule), (Outcome::Done, None));
    assert_eq!(std::fs::read_to_string(out.join("fd3"))?, "");
    scene.end()
}

#[test]
fn pass_to_a_file_pattern_is_the_file_that_the_kernel_would_have_written() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new("")?;
    let before = Pattern::parse("core.%p.%e");
    scene.sandbox.hook(|hook| hook.previous = before)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let root = container.root().path();
    std::os::unix::fs::chown(root, Some(300_000), None)?;
    let dump = CoreDump::of(container.init())?;
    let (record, _) = scene.dump(&dump.clone().word("%c", "18446744073709551615"))?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert!(std::fs::read(root.join("core.1.init"))? == dump.core());
    let (record, _) = scene.dump(&dump.clone().word("%c", "0"))?;
    assert_eq!(
        action(&record, "file")?.reason.as_deref(),
        Some("core_limit")
    );
    // Where it is not certain whose file it would be, a copy is kept.
    let (record, _) = scene.dump(&dump.word("%d", "2").word("%c", "8192"))?;
    assert!(action(&record, "store").is_ok(), "{record:?}");
    scene.end()
}

#[test]
fn on_failure_says_who_gets_what_a_missing_helper_cannot_have() -> Result<()> {
    needs!(Root, Runc);
    for (word, kept, passed) in [
        ("store", true, false),
        ("pass", false, true),
        ("drop", false, false),
    ] {
        let scene = Scene::new(&run_rule(
            r#""/nothing""#,
            &format!("on_failure = \"{word}\""),
        ))?;
        let out = with_previous(&scene, "%P")?;
        let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
        let dump = CoreDump::of(container.init())?;
        let (record, _) = scene.dump(&dump)?;
        assert_eq!(
            record.reason.as_deref(),
            Some("helper_missing"),
            "{word}: {record:?}"
        );
        assert_eq!(
            scene.kept(&record).ok().as_deref() == Some(dump.core()),
            kept,
            "{word}"
        );
        assert_eq!(
            std::fs::read(out.join("core")).ok().as_deref() == Some(dump.core()),
            passed,
            "{word}"
        );
        let outcome = if word == "drop" {
            Outcome::Failed
        } else {
            Outcome::Partial
        };
        assert_eq!(record.outcome, outcome, "{word}: {record:?}");
        scene.end()?;
    }
    Ok(())
}

#[test]
fn what_stood_before_us_and_is_gone_is_replaced_by_a_copy() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new("")?;
    let gone = Pattern::parse("|/nowhere/handler %P");
    scene.sandbox.hook(|hook| hook.previous = gone)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.word("%c", "18446744073709551615");
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Partial, "{record:?}");
    assert_eq!(record.reason.as_deref(), Some("helper_missing"));
    assert_eq!(scene.kept(&record)?, dump.core());
    scene.end()
}
