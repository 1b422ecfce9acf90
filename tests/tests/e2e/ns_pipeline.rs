//! The whole way of one upcall, from the shim's start to the record.

use std::time::Duration;

use anyhow::Result;
use upcall_e2e::command::{run, until};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::{action, report};
use upcall_e2e::report::Hash;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Outcome;

use crate::scene::{run_rule, script};

#[test]
fn a_containers_own_program_gets_the_core_in_its_container() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    sandbox.rules(
        r#"
[[rule]]
upcall = "core"
match.container = { runtime = "runc" }
run = { in = "container", command = ["/probe", "{pid}", "{signal}", "{comm}", "{container}", "{record}"] }
"#,
    )?;
    let daemon = Daemon::start(&sandbox)?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let ended = dump.dump(&sandbox)?;
    assert_eq!((ended.code, ended.taken), (0, true));

    let record = daemon.records().of(container.init())?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(action(&record, "run")?.exit_code, Some(0));
    let report = report(&record)?;
    assert_eq!(
        report.argv,
        ["/probe", "1", "SEGV", "init", container.id(), &record.id]
    );
    assert_eq!(report.stdin_hash, Hash::of(dump.core()).to_string());
    assert_eq!(report.namespaces, container.leader()?.namespaces);
    daemon.stop(&sandbox)
}

/// The line of a text file in Prometheus' format that starts so, its number cut off.
fn number(text: &str, start: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(start))?;
    line.trim().parse().ok()
}

#[test]
fn what_happened_is_counted_and_written_where_a_collector_reads_it() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    sandbox.settings("metrics.textfile = \"@/upcalld.prom\"")?;
    sandbox.rules(&run_rule(r#""/helper""#, "store = { ignore_limit = true }"))?;
    let daemon = Daemon::start(&sandbox)?;
    let path = sandbox.path("upcalld.prom");
    let written = || std::fs::read_to_string(&path).ok();
    let first = until(Duration::from_secs(5), "the first text", written)?;
    assert!(
        number(&first, "upcalld_start_time_seconds ").is_some_and(|time| time > 1e9),
        "{first}"
    );
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "cat >/dev/null"))
        .start(&sandbox)?;
    CoreDump::of(container.init())?.dump(&sandbox)?;
    daemon.records().of(container.init())?;
    let upcalls =
        r#"upcalld_upcalls_total{kind="core",verdict="run,store",outcome="done",runtime="runc"} "#;
    let counted = || {
        let text = run(sandbox.ctl().arg("metrics")).ok()?;
        number(&text, upcalls).map(|count| (count, text))
    };
    let (count, text) = until(Duration::from_secs(5), upcalls, counted)?;
    assert!((count - 1.0).abs() < 0.1, "{text}");
    let held = number(
        &text,
        r#"upcalld_step_seconds_sum{kind="core",step="held"} "#,
    );
    assert!(held.is_some_and(|held| held > 0.0 && held < 30.0), "{text}");
    assert!(
        number(&text, "upcalld_store_cores ").is_some_and(|cores| (cores - 1.0).abs() < 0.1),
        "{text}"
    );
    daemon.stop(&sandbox)
}
