use serde_json::json;

use super::*;
use crate::hooks::watch::HookState;
use crate::store::space::Kept;

fn record(runtime: Option<&str>, actions: &[&str], outcome: &str) -> Record {
    let container = runtime.map(|runtime| {
        json!({
            "runtime": runtime, "id": "x", "name": null, "image": null, "labels": null, "owner_uid": 0,
            "leader_pid": 1, "own_namespaces": [], "pod": null,
        })
    });
    let timings = Timings {
        identify: Some(50),
        held: Some(700_000),
        ..Timings::default()
    };
    serde_json::from_value(json!({
        "schema": "upcalld.record", "version": 1, "id": "k3m9q0tz", "kind": "core", "time": "", "node": "", "count": 1,
        "unknown": [], "process": crate::store::record::Process::default(), "container": container,
        "evidence": crate::store::record::Evidence { process: Some("kernel_pidfd".into()), ..Default::default() },
        "verdict": crate::store::record::Verdict {
            actions: actions.iter().map(|word| (*word).to_owned()).collect(), ..Default::default()
        },
        "outcome": outcome, "reason": null, "message": null, "timings_us": timings, "actions": [], "core": null,
    }))
    .unwrap()
}

fn page(metrics: &Metrics) -> String {
    text(&metrics.families(&Standing {
        hooks: vec![
            ("core", HookState::Ours, 0),
            ("module", HookState::NotInstalled, 3),
        ],
        askers_lost: Some(7),
        ..Standing::default()
    }))
}

fn has(metrics: &Metrics, line: &str) {
    let page = page(metrics);
    assert!(
        page.lines().any(|found| found == line),
        "{line} is not in\n{page}"
    );
}

#[test]
fn upcalls_are_counted_by_what_became_of_them() {
    let metrics = Metrics::default();
    metrics.closed(&record(Some("podman"), &["run", "store"], "done"));
    metrics.closed(&record(Some("podman"), &["run", "store"], "done"));
    let mut storm = record(None, &["store"], "refused");
    storm.count = 1274;
    storm.reason = Some("rate_limit".to_owned());
    storm.evidence.process = None;
    metrics.closed(&storm);
    has(
        &metrics,
        r#"upcalld_upcalls_total{kind="core",verdict="run,store",outcome="done",runtime="podman"} 2"#,
    );
    has(
        &metrics,
        r#"upcalld_upcalls_total{kind="core",verdict="store",outcome="refused",runtime="none"} 1274"#,
    );
    has(
        &metrics,
        r#"upcalld_reasons_total{kind="core",reason="rate_limit"} 1274"#,
    );
    has(&metrics, r#"upcalld_unidentified_total{kind="core"} 1274"#);
}

#[test]
fn steps_are_in_every_bucket_that_holds_them() {
    let metrics = Metrics::default();
    for _ in 0..3 {
        metrics.closed(&record(None, &[], "done"));
    }
    for (le, count) in [("0.00001", 0), ("0.00005", 3), ("60", 3), ("+Inf", 3)] {
        let line = format!(
            r#"upcalld_step_seconds_bucket{{kind="core",step="identify",le="{le}"}} {count}"#
        );
        has(&metrics, &line);
    }
    has(
        &metrics,
        r#"upcalld_step_seconds_bucket{kind="core",step="held",le="0.5"} 0"#,
    );
    has(
        &metrics,
        r#"upcalld_step_seconds_bucket{kind="core",step="held",le="1"} 3"#,
    );
    has(
        &metrics,
        r#"upcalld_step_seconds_sum{kind="core",step="held"} 2.1"#,
    );
    has(
        &metrics,
        r#"upcalld_step_seconds_count{kind="core",step="held"} 3"#,
    );
    assert!(
        !page(&metrics).contains(r#"step="launch""#),
        "what did not happen has no time"
    );
}

#[test]
fn how_it_stands_is_looked_at() {
    let metrics = Metrics::default();
    has(
        &metrics,
        r#"upcalld_hook_state{hook="core",state="ours"} 1"#,
    );
    has(
        &metrics,
        r#"upcalld_hook_state{hook="core",state="foreign"} 0"#,
    );
    has(
        &metrics,
        r#"upcalld_hook_state{hook="module",state="not_installed"} 1"#,
    );
    has(&metrics, r#"upcalld_hook_foreign_total{hook="module"} 3"#);
    has(&metrics, "upcalld_module_askers_lost_total 7");
    assert!(
        !page(&metrics).contains("upcalld_spool_cores"),
        "unknown is left out"
    );
    let standing = Standing {
        spool: Some(Kept {
            cores: 2,
            bytes: 77,
            oldest: Some(1_500_000),
        }),
        ..Standing::default()
    };
    let page = text(&metrics.families(&standing));
    for line in [
        "upcalld_spool_cores 2",
        "upcalld_spool_bytes 77",
        "upcalld_spool_oldest_time_seconds 1.5",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
}

#[test]
fn the_number_of_series_is_bounded() {
    let metrics = Metrics::default();
    for number in 0..2 * SERIES_MAX {
        let mut record = record(None, &[], "failed");
        record.reason = Some(format!("reason_{number}"));
        metrics.closed(&record);
    }
    has(
        &metrics,
        &format!(r#"upcalld_reasons_total{{kind="other",reason="other"}} {SERIES_MAX}"#),
    );
    let series = page(&metrics)
        .lines()
        .filter(|line| line.starts_with("upcalld_reasons_total{"))
        .count();
    assert_eq!(series, SERIES_MAX + 1);
}

#[test]
fn the_text_is_prometheus_own() {
    let family = Family {
        name: "x_total".to_owned(),
        kind: "counter".to_owned(),
        help: "a\\b\nc".to_owned(),
        samples: vec![sample("", &[("l", "q\"\\\n")], 3.0)],
    };
    let none = gauge("none", "nothing", 0.0);
    let none = Family {
        samples: Vec::new(),
        ..none
    };
    assert_eq!(
        text(&[family, none]),
        "# HELP x_total a\\\\b\\nc\n# TYPE x_total counter\nx_total{l=\"q\\\"\\\\\\n\"} 3\n"
    );
}

#[test]
fn a_text_file_is_replaced_whole_and_links_are_not_followed() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("upcalld.prom");
    let victim = directory.path().join("victim");
    std::fs::write(&victim, "dear").unwrap();
    // What another user who owns the directory may have prepared.
    symlink(&victim, directory.path().join(".upcalld.prom.upcalld")).unwrap();
    symlink(&victim, &path).unwrap();
    write(&path, "one\n").unwrap();
    write(&path, "two\n").unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "dear");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    let meta = std::fs::symlink_metadata(&path).unwrap();
    assert!(meta.is_file() && meta.mode() & 0o777 == 0o644);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    let elsewhere = directory.path().join("link");
    symlink(directory.path(), &elsewhere).unwrap();
    let error = write(&elsewhere.join("x"), "").unwrap_err().to_string();
    assert!(error.contains("open: E"), "{error}");
    assert!(write(&directory.path().join("none/x"), "").is_err());
}
