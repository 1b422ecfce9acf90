//! `list` and `show`.

use serde_json::Value;
use upcalld::store::record::Record;

use crate::bench::Bench;
use crate::given;

/// Without a container of the second's own name, so that ids are asked for by their start.
fn both() -> Bench {
    let mut other = given::storm();
    other.id = "k3zzzzzz".into();
    Bench::with(&[given::shop(), other])
}

#[test]
fn a_list_in_a_pipe() {
    insta::assert_snapshot!(Bench::with(&given::all()).run(&["list"]).all());
}

#[test]
fn a_list_as_json_is_the_records_themselves() {
    let bench = Bench::with(&given::all());
    let said = bench.run(&["list", "--json"]);
    assert_eq!((said.err.as_str(), said.status), ("", 0));
    assert!(
        said.out
            .starts_with(r#"{"schema":"upcalld.records","version":1,"records":[{"#)
    );
    let document: Value = serde_json::from_str(&said.out).unwrap();
    let records: Vec<Record> = serde_json::from_value(document["records"].clone()).unwrap();
    assert_eq!(records, given::all());

    let lines = bench.run(&["list", "--json=lines"]).out;
    let lines: Vec<Record> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, given::all());
}

#[test]
fn filters_choose_and_the_newest_are_last() {
    let bench = Bench::with(&given::all());
    let ids = |words: &[&str]| -> String {
        let said = bench.run(&[&["list"], words].concat());
        assert_eq!(said.status, 0, "{said:?}");
        let ids = said.out.lines().skip(1);
        let ids: Vec<_> = ids.map(|line| line.split(' ').next().unwrap()).collect();
        ids.join(" ")
    };
    assert_eq!(ids(&["-n", "2"]), "n1y6t3mb h2z6m1xe");
    assert_eq!(ids(&["--container", "web"]), "e9p4s8gd k3m9q0tz");
    assert_eq!(ids(&["--container", "podman/*"]), "n1y6t3mb");
    assert_eq!(ids(&["--pod", "shop/*", "--verdict", "done"]), "k3m9q0tz");
    assert_eq!(ids(&["--verdict", "refused"]), "n1y6t3mb h2z6m1xe");
    assert_eq!(ids(&["--verdict", "helper_missing"]), "e9p4s8gd");
    assert_eq!(
        ids(&["--since", "2026-11-22T13:04:00Z"]),
        "n1y6t3mb h2z6m1xe"
    );
    assert_eq!(ids(&["--kind", "core", "-n", "0"]).split(' ').count(), 7);
}

#[test]
fn nothing_to_list_says_why() {
    let bench = Bench::new();
    insta::assert_snapshot!("never", bench.run(&["list"]).all());
    assert_eq!(
        bench.run(&["list", "--json"]).out,
        "{\"schema\":\"upcalld.records\",\"version\":1,\"records\":[]}\n"
    );
    let bench = Bench::with(&given::all());
    insta::assert_snapshot!("filtered", bench.run(&["list", "--container", "x"]).all());
    let said = bench.run(&["list", "--since", "2126-01-01"]);
    insta::assert_snapshot!("since", said.all());
}

#[test]
fn a_damaged_record_hides_no_other() {
    let bench = Bench::with(&[given::shop()]);
    bench.write("s/records/1795000000000000-zzzzzzzz.json", "{\"half\":");
    let said = bench.run(&["list"]);
    assert_eq!(
        said.err,
        "warning: 1 file in /T/s/records cannot be read as records\n"
    );
    assert!(said.out.contains("k3m9q0tz") && said.status == 0);
}

#[test]
fn a_record_is_shown_by_the_start_of_its_id() {
    let bench = both();
    for id in ["k3m", "k3m9q0tz"] {
        let said = bench.run(&["show", id]);
        assert!(
            said.out
                .starts_with("core k3m9q0tz: run, store; done. Sun 2026-11-22 14:03:22.114 CET ("),
            "{said:?}"
        );
        assert_eq!((said.err.as_str(), said.status), ("", 0));
    }
    let record: Record = serde_json::from_str(&bench.run(&["show", "k3m", "--json"]).out).unwrap();
    assert_eq!(record, given::shop());
}

#[test]
fn no_record_and_two_records_are_errors() {
    let bench = both();
    let said = ["k3", "zzz", "../etc/passwd", ""].map(|id| bench.run(&["show", id]).all());
    insta::assert_snapshot!(said.concat());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    use std::process::Stdio;
    let bench = Bench::with(&given::all());
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_upcallctl"));
    let mut command = bench.command(program, &["list"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
