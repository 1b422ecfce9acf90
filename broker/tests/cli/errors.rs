//! What is said where something cannot be done, and the exit statuses.

use crate::bench::{Bench, is_root};
use crate::given;

#[test]
fn what_needs_a_daemon_says_that_it_does_not_run() {
    let bench = Bench::new();
    let commands = [&["status"][..], &["watch"], &["reload"], &["metrics"]];
    let said = commands.map(|words| bench.run(words).all());
    insta::assert_snapshot!(said.concat());
}

#[test]
fn what_becomes_of_crashes_meanwhile_is_said() {
    let bench = Bench::new();
    let hooks = bench.path("c/hooks").display().to_string();
    bench.write("k/core_pattern", &format!("|/x/core --hooks={hooks} %P\n"));
    let empty = bench.run(&["reload"]).err;
    std::fs::create_dir(bench.path("s/spool")).unwrap();
    bench.write("s/spool/1-2.core", "x");
    bench.write("s/spool/1-2.words", "x");
    let one = bench.run(&["reload"]).err;
    bench.write("s/spool/1-3.core", "x");
    let two = bench.run(&["reload"]).err;
    let notes: Vec<_> = [&empty, &one, &two]
        .iter()
        .filter_map(|err| err.lines().find(|line| line.contains("note: ")))
        .collect();
    insta::assert_snapshot!(notes.join("\n"));
}

#[test]
fn who_may_not_is_told_who_may() {
    if !is_root("becoming nobody needs root") {
        return;
    }
    let bench = Bench::with(&[given::shop()]);
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o750);
    std::fs::set_permissions(bench.path("s/records"), closed).unwrap();
    let commands = [
        &["list"][..],
        &["show", "k3m"],
        &["explain", "--pid", "1"],
        &["install", "core"],
        &["uninstall"],
    ];
    let said = commands.map(|words| bench.run_as_nobody(words).all());
    insta::assert_snapshot!(said.concat());
}

#[test]
fn wrong_usage_is_2() {
    let bench = Bench::new();
    for words in [
        &["list", "--nonsense"][..],
        &["list", "--since", "soon"],
        &["list", "--verdict", "refuse"],
        &["list", "--kind", "nonsense"],
        &["list", "--json=xml"],
        &["show"],
        &["explain", "core"],
        &["explain", "--pid", "1", "--signal", "SEGFAULT"],
        &["install"],
        &["install", "key", "--mode", "pipe"],
        &["frobnicate"],
        &[],
    ] {
        let said = bench.run(words);
        assert_eq!((said.status, said.out.as_str()), (2, ""), "{words:?}");
        assert!(!said.err.is_empty(), "{words:?}");
    }
    for words in [&["--help"][..], &["--version"], &["explain", "--help"]] {
        let said = bench.run(words);
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{words:?}");
    }
}
