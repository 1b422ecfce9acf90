//! `install` and `uninstall`, over files in the place of the kernel's settings. What stands in the kernel itself is left
//! alone; but a child of the self-test really crashes, and who borrows the kernel's own hook for a test shall not get it.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::{Bench, is_root};
use crate::daemon::{Daemon, answer, method, status};
use crate::given;

/// A daemon that records the self-test, or does not.
fn daemon(bench: &Bench, records: bool, core: &'static str) -> Daemon {
    let expected = Arc::new(Mutex::new(0));
    Daemon::start(bench, move |question| match method(question) {
        "GetStatus" => answer(&status(core)),
        "ExpectSelfTest" => {
            *expected.lock().unwrap() = question["parameters"]["pid"].as_u64().unwrap();
            answer(&json!({}))
        }
        "Watch" => {
            let greeting = json!({ "parameters": {}, "continues": true });
            let expected = Arc::clone(&expected);
            let record = std::iter::from_fn(move || Some(recorded(&expected)));
            let most = usize::from(records);
            Box::new(std::iter::once(greeting).chain(record.take(most)))
        }
        other => panic!("{other}"),
    })
}

/// The record of the process that is to crash, once somebody has said which.
fn recorded(expected: &Mutex<u64>) -> Value {
    loop {
        #[expect(clippy::disallowed_methods, reason = "a test may wait")]
        std::thread::sleep(Duration::from_millis(5));
        let pid = *expected.lock().unwrap();
        if pid != 0 {
            let mut record = given::tested();
            record.process.pid = Some(pid.try_into().unwrap());
            return json!({ "parameters": { "record": record }, "continues": true });
        }
    }
}

/// Waits until nobody has borrowed the kernel's own hook for a test of his.
fn crashes_are_nobodys() -> File {
    let lock = File::create("/run/upcalld-host-hooks.lock").unwrap();
    lock.lock().unwrap();
    lock
}

fn kernel(bench: &Bench) -> (String, String) {
    (
        bench.read("k/core_pattern"),
        bench.read("k/core_pipe_limit"),
    )
}

fn shim_bench() -> Option<Bench> {
    is_root("hooks are root's").then(|| Bench::new().with_shim())
}

#[test]
fn a_dry_run_changes_nothing() {
    let Some(bench) = shim_bench() else { return };
    let said = bench.run(&["install", "core", "--dry-run"]);
    assert_eq!(kernel(&bench), ("core\n".into(), "0\n".into()));
    assert!(!bench.path("c/hooks").exists());
    // Paths of a test have any length.
    let said = said.all();
    let squeezed: Vec<String> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    insta::assert_snapshot!(squeezed.join("\n"));
    let json = bench.run(&["install", "core", "--dry-run", "--json"]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["schema"], "upcalld.install");
    assert_eq!(json["current"]["core_pattern"], "core");
    assert_eq!(json["dry_run"], true);
}

#[test]
fn without_a_daemon_nothing_is_installed_unless_nothing_is_tried() {
    let Some(bench) = shim_bench() else { return };
    let said = bench.run(&["install", "core"]);
    assert_eq!(said.status, 3, "{said:?}");
    assert_eq!(kernel(&bench), ("core\n".into(), "0\n".into()));
    let installed = bench.run(&["install", "core", "--no-self-test"]);
    assert!(bench.read("k/core_pattern").starts_with('|'));
    assert_eq!(bench.read("k/core_pipe_limit"), "1024\n");
    let again = bench.run(&["install", "core", "--no-self-test"]);
    assert_eq!(again.out, installed.out, "what stood there first stays");
    let out = bench.run(&["uninstall", "core"]);
    let twice = bench.run(&["uninstall"]);
    assert_eq!(kernel(&bench), ("core\n".into(), "0\n".into()));
    assert!(!bench.path("c/hooks/core").exists());
    insta::assert_snapshot!([installed, out, twice].map(|said| said.all()).concat());
}

#[test]
fn a_hook_that_is_recorded_stays() {
    let Some(bench) = shim_bench() else { return };
    let _lock = crashes_are_nobodys();
    let daemon = daemon(&bench, true, "ours");
    let said = bench.run(&["install", "core"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""), "{said:?}");
    let start =
        "core: ours, pipe mode; self-test: a child of this command crashed, its record came after ";
    assert!(said.out.starts_with(start), "{said:?}");
    assert!(bench.read("k/core_pattern").contains("/core --hooks="));
    let file = bench.read("c/hooks/core");
    assert!(
        file.contains("\nprevious = core\nprevious_pipe_limit = 0\n"),
        "{file}"
    );
    assert!(
        file.contains("\ndeadline_ms = 2000\n") && file.contains("/r/upcall.sock\n"),
        "{file}"
    );
    assert!(daemon.asked().contains(&"ExpectSelfTest".to_owned()));
    let uninstalled = bench.run(&["uninstall", "--json"]);
    let json: Value = serde_json::from_str(&uninstalled.out).unwrap();
    assert_eq!(
        (&json["state"], &json["current"]["core_pattern"]),
        (&"restored".into(), &"core".into())
    );
}

#[test]
fn a_hook_that_is_not_recorded_goes_out_again() {
    let Some(bench) = shim_bench() else { return };
    bench.write("k/core_pattern", "|/usr/bin/handler %p\n");
    let _lock = crashes_are_nobodys();
    let _daemon = daemon(&bench, false, "ours");
    let said = bench.run(&["install", "core"]);
    assert_eq!(said.status, 6, "{said:?}");
    let first = "error: self-test failed: a child crashed and no record came within 2 s; core_pattern is \
                 |/usr/bin/handler %p again\n";
    assert!(said.err.starts_with(first), "{said:?}");
    assert_eq!(
        kernel(&bench),
        ("|/usr/bin/handler %p\n".into(), "0\n".into())
    );
    assert!(!bench.path("c/hooks/core").exists());
}

#[test]
fn a_daemon_that_looks_elsewhere_is_found_out() {
    let Some(bench) = shim_bench() else { return };
    let _lock = crashes_are_nobodys();
    let _daemon = daemon(&bench, true, "not_installed");
    let said = bench.run(&["install", "core"]);
    assert_eq!(said.status, 6, "{said:?}");
    assert!(
        said.err.contains("looks for the hook's file elsewhere"),
        "{said:?}"
    );
    assert_eq!(kernel(&bench), ("core\n".into(), "0\n".into()));
}

#[test]
fn what_keeps_a_hook_out_or_in_is_said() {
    let Some(bench) = shim_bench() else { return };
    bench.run(&["install", "core", "--no-self-test"]);
    let before = kernel(&bench);
    bench.write("c/hooks/core", "garbage\n");
    let mut said = bench.run(&["install", "core", "--no-self-test"]).all();
    said += &bench.run(&["uninstall"]).all();
    assert_eq!(kernel(&bench), before);
    assert_eq!(bench.read("c/hooks/core"), "garbage\n");

    bench.write(
        "k/core_pattern",
        "|/run/other/core --hooks=/run/other/hooks %P\n",
    );
    said += &bench.run(&["install", "core", "--no-self-test"]).all();
    bench.write("k/core_pattern", "|/usr/share/apport/apport -p%p\n");
    said += &bench.run(&["uninstall"]).all();
    std::fs::remove_file(bench.path("l/core")).unwrap();
    said += &bench.run(&["install", "core", "--no-self-test"]).all();
    insta::assert_snapshot!(said);
}

#[test]
fn a_path_that_core_pattern_cannot_hold_is_refused() {
    let Some(bench) = shim_bench() else { return };
    let long = bench.path(&"x".repeat(100));
    std::fs::create_dir(&long).unwrap();
    std::fs::copy(bench.path("l/core"), long.join("core")).unwrap();
    let long = long.display().to_string();
    let said = bench.run(&["install", "core", "--no-self-test", "--libexec", &long]);
    assert_eq!(said.status, 6);
    assert!(said.err.contains("and the kernel keeps 127"), "{said:?}");
    assert_eq!(kernel(&bench), ("core\n".into(), "0\n".into()));
}

#[test]
fn while_the_hook_is_in_a_line_for_systemd_sysctl_says_so() {
    let Some(bench) = shim_bench() else { return };
    assert_eq!(bench.run(&["install", "core", "--no-self-test"]).status, 0);
    let text = bench.read("k/sysctl.d/99-upcalld.conf");
    let (ours, limit) = kernel(&bench);
    assert!(
        text.contains(&format!("\nkernel.core_pattern = {ours}")),
        "{text}"
    );
    assert!(
        text.contains(&format!("\nkernel.core_pipe_limit = {limit}")),
        "{text}"
    );
    assert_eq!(bench.run(&["uninstall"]).status, 0);
    assert!(!bench.path("k/sysctl.d/99-upcalld.conf").exists());
    assert_eq!(kernel(&bench), ("core\n".into(), "0\n".into()));
}
