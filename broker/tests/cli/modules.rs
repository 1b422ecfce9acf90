//! `modules`, and the rules that it suggests.

use serde_json::Value;

use crate::bench::Bench;
use crate::given;

#[test]
fn what_is_suggested_are_rules_without_a_mistake() {
    let bench = Bench::with(&given::modules());
    let said = bench.run(&["modules", "--suggest"]);
    assert_eq!((said.err.as_str(), said.status), ("", 0));
    // Nothing of a tenant's begins a line, or stands in a text.
    let odd = |line: &&str| !line.starts_with('#') && line.contains(['\\', '\u{202e}', '*']);
    assert_eq!(said.out.lines().find(odd), None, "{}", said.out);
    assert!(
        said.out.contains(r#"match.module    = ["algif-aead"]"#),
        "{}",
        said.out
    );
    bench.write("50-suggested.toml", &said.out);
    let file = bench.path("50-suggested.toml").display().to_string();
    let checked = bench.run(&["check", &file]);
    assert_eq!(checked.status, 0, "{checked:?}\n{}", said.out);
    assert!(
        !checked.all().contains("warning"),
        "{checked:?}\n{}",
        said.out
    );
    let one = bench
        .run(&["modules", "--suggest", "--container", "web"])
        .out;
    assert_eq!(one.matches("[[rule]]").count(), 1, "{one}");
    let none = bench
        .run(&["modules", "--suggest", "--container", "nobody"])
        .out;
    assert!(none.starts_with("# No rule"), "{none}");
}

#[test]
fn modules_as_json_are_counted() {
    let bench = Bench::with(&given::modules());
    let document = bench.run(&["modules", "--json"]).out;
    let document: Value = serde_json::from_str(&document).unwrap();
    let lines = document["modules"].as_array().unwrap();
    let first = |alias: &str| {
        lines
            .iter()
            .find(|line| line["module"]["alias"] == alias)
            .unwrap()
    };
    assert_eq!(first("algif-aead")["times"], 1284);
    assert_eq!(first("rtnl-link-wireguard")["modprobe_exit_code"], 0);
    let lines = bench
        .run(&["modules", "--json=lines", "--since", "2026-11-22T13:02:30Z"])
        .out;
    assert_eq!(lines.lines().count(), 3);
    assert!(bench.run(&["modules"]).out.contains("algif-aead"));
}
