//! The commands that ask a daemon, against one whose answers are made up here.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::given;

/// What is said to one question, one after the other and not before it is wanted.
pub(crate) type Answers = Box<dyn Iterator<Item = Value>>;

/// Listens where the daemon would.
pub(crate) struct Daemon {
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Daemon {
    pub(crate) fn start(
        bench: &Bench,
        answers: impl Fn(&Value) -> Answers + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(bench.path("r/control.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(answers);
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, seen) = (Arc::clone(&answers), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream, &*answers, &seen));
            }
        });
        Self { asked }
    }

    /// The methods that were called, without the interface's name.
    pub(crate) fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let methods = asked.iter().map(method).map(str::to_owned);
        methods.collect()
    }
}

fn serve(mut stream: UnixStream, answers: &impl Fn(&Value) -> Answers, asked: &Mutex<Vec<Value>>) {
    loop {
        let mut question = Vec::new();
        let mut byte = [0];
        loop {
            match stream.read(&mut byte) {
                Ok(1) if byte[0] == 0 => break,
                Ok(1) => question.push(byte[0]),
                _ => return,
            }
        }
        let question: Value = serde_json::from_slice(&question).unwrap();
        let all = answers(&question);
        asked.lock().unwrap().push(question);
        for answer in all {
            let mut bytes = serde_json::to_vec(&answer).unwrap();
            bytes.push(0);
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

/// What a question is, without the interface's name.
pub(crate) fn method(question: &Value) -> &str {
    let method = question["method"].as_str().unwrap();
    method.strip_prefix("org.upcalld.Control.").unwrap()
}

/// An answer.
pub(crate) fn answer(parameters: &Value) -> Answers {
    Box::new(std::iter::once(json!({ "parameters": parameters })))
}

/// `GetStatus` of a daemon that is well.
pub(crate) fn status(core: &str) -> Value {
    json!({
        "version": "0.1.0", "pid": 1, "launcher_pid": 1, "started": 1_795_331_464_000_000_u64,
        "rules": 1, "files": 1, "loaded": 1_795_331_464_000_000_u64, "unchanged": true, "core": core,
        "foreign": (core == "foreign").then_some("core.%p"),
        "foreign_since": (core == "foreign").then_some(1_795_331_464_000_000_u64),
        "checked": 1_795_331_464_000_000_u64, "previous": "core", "hook_file_problem": null,
        "keep_free": 2_u64 << 30,
    })
}

fn refused(name: &str, message: &str) -> Answers {
    Box::new(std::iter::once(json!({
        "error": format!("org.upcalld.Control.{name}"),
        "parameters": { "message": message },
    })))
}

#[test]
fn status_is_1_where_something_needs_the_admin() {
    let bench = Bench::with(&given::all());
    let _daemon = Daemon::start(&bench, |_| answer(&status("ours")));
    let said = bench.run(&["status"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""), "{said:?}");
    assert!(
        said.out
            .starts_with("● upcalld 0.1.0, running since Sun 2026-11-22 "),
        "{said:?}"
    );
    std::fs::create_dir(bench.path("s/spool")).unwrap();
    bench.write("s/spool/1-2.core", "xyz");
    let said = bench.run(&["status"]);
    assert_eq!(said.status, 1);
    assert!(
        said.out.starts_with("▲ ") && said.out.contains("✗ 1 core waiting, 3 B, "),
        "{said:?}"
    );
    let json: Value = serde_json::from_str(&bench.run(&["status", "--json"]).out).unwrap();
    assert_eq!(
        (&json["schema"], &json["degraded"]),
        (&"upcalld.status".into(), &true.into())
    );
    assert_eq!(json["spool"]["cores"], 1);
}

#[test]
fn a_foreign_hook_degrades() {
    let bench = Bench::new();
    let _daemon = Daemon::start(&bench, |_| answer(&status("foreign")));
    let said = bench.run(&["status"]);
    assert_eq!(said.status, 1);
    assert!(said.out.contains("✗ core    foreign since "), "{said:?}");
}

#[test]
fn watching_prints_records_and_hooks_until_the_daemon_ends() {
    let bench = Bench::new();
    let news = || {
        let change = json!({
            "schema": "upcalld.hook", "version": 1, "time": "2026-11-22T13:05:50.118000Z",
            "hook": "core", "state": "foreign", "pattern": "core.%p",
        });
        let mut news = vec![json!({})];
        news.extend(
            given::all()
                .into_iter()
                .map(|record| json!({ "record": record })),
        );
        news.extend([json!({ "hook": change }), json!({ "lost": 3 })]);
        news
    };
    let _daemon = Daemon::start(&bench, move |question| {
        assert_eq!(
            (method(question), &question["more"]),
            ("Watch", &true.into())
        );
        let news = news().into_iter();
        let answers = news.map(|parameters| json!({ "parameters": parameters, "continues": true }));
        // Something that ends the command.
        Box::new(answers.chain(refused("Internal", "the end")))
    });
    insta::assert_snapshot!("as_text", bench.run(&["watch"]).all());
    let filtered = bench.run(&["watch", "--verdict", "refused", "--container", "*runner*"]);
    insta::assert_snapshot!("filtered", filtered.all());
    let lines = bench.run(&["watch", "--json"]).out;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(lines[4], serde_json::to_value(given::shop()).unwrap());
    assert_eq!(lines[7]["schema"], "upcalld.hook");
}

#[test]
fn reloading_says_which_rules_stay() {
    let bench = Bench::new();
    let _daemon = Daemon::start(&bench, |question| {
        assert_eq!(method(question), "Reload");
        answer(&json!({
            "replaced": false, "rules": 17, "files": ["/etc/x", "/etc/y"], "errors": 1, "warnings": 1,
            "diagnostics": [
                { "text": "error[unknown-key]: unknown key\n", "plain": { "code": "unknown-key" } },
                { "text": "warning[unreachable-rule]: never\n", "plain": { "code": "unreachable-rule" } },
            ],
            "loaded": 1_795_331_464_000_000_u64,
        }))
    });
    let said = bench.run(&["reload"]);
    assert_eq!(said.status, 1);
    // How long ago that is, is another question.
    let (text, when) = said.out.split_once("keeps the rules of ").unwrap();
    assert!(when.trim_end().ends_with("08:11:04"), "{when}");
    insta::assert_snapshot!(text);
    let json: Value = serde_json::from_str(&bench.run(&["reload", "--json"]).out).unwrap();
    assert_eq!(
        (&json["schema"], &json["replaced"]),
        (&"upcalld.reload".into(), &false.into())
    );
    assert_eq!(json["diagnostics"][1]["code"], "unreachable-rule");
}

#[test]
fn reloading_that_works() {
    let bench = Bench::new();
    let _daemon = Daemon::start(&bench, |_| {
        answer(&json!({
            "replaced": true, "rules": 2, "files": ["/etc/upcalld/upcalld.toml"], "errors": 0,
            "warnings": 0, "diagnostics": [], "loaded": 1_795_331_464_000_000_u64,
        }))
    });
    assert_eq!(
        bench.run(&["reload"]).all(),
        "checked 1 file, 2 rules: nothing is wrong; in force; settings count from upcalld's next start\n\
         --- exit 0\n"
    );
}

#[test]
fn refusals_of_the_daemon_have_their_exit_status() {
    for (name, words, status) in [
        ("NotPermitted", &["reload"][..], 5),
        ("NoProcess", &["explain", "--pid", "1"], 4),
        ("NoContainer", &["explain", "--container", "x"], 4),
        ("NoRecord", &["explain", "--record", "x"], 4),
        ("Internal", &["reload"], 1),
    ] {
        let bench = Bench::new();
        let _daemon = Daemon::start(&bench, move |_| refused(name, "this is why"));
        let said = bench.run(words);
        assert_eq!((said.status, said.out.as_str()), (status, ""), "{said:?}");
        assert!(said.err.starts_with("error: "), "{said:?}");
    }
}

#[test]
fn another_versions_answer_is_no_panic() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, |_| answer(&json!({ "version": 7 })));
    let said = bench.run(&["status"]);
    assert_eq!(said.status, 1);
    assert!(
        said.err.contains("is it of another version?\n  help: "),
        "{said:?}"
    );
    assert_eq!(daemon.asked(), ["GetStatus"]);
}

#[test]
fn checking_says_what_upcalld_has() {
    if !crate::bench::is_root("rules must be root's") {
        return;
    }
    let bench = Bench::new();
    let _daemon = Daemon::start(&bench, |_| answer(&status("ours")));
    assert_eq!(
        bench.run(&["check"]).out,
        "checked 0 files, 0 rules: nothing is wrong; upcalld has these rules\n"
    );
    bench.write("c/rules.d/60-bad.toml", "nonsense = 1\n");
    let bad = bench.run(&["check"]);
    assert!(
        bad.out.contains("1 error; upcalld keeps the rules of "),
        "{bad:?}"
    );
}

#[test]
fn the_doctors_exit_status_tells_errors_from_warnings() {
    let bench = Bench::new();
    // A host of files that has next to nothing: most cannot be looked at, and the program is not there.
    std::fs::create_dir_all(bench.path("h/proc/sys/kernel")).unwrap();
    let host = bench.path("h").display().to_string();
    let words = ["doctor", "--host", &host];
    let said = bench.run(&words);
    assert_eq!((said.status, said.err.as_str()), (1, ""), "{said:?}");
    assert!(said.out.starts_with("error    program "), "{said:?}");
    bench.write("h/proc/sys/kernel/core_pattern", "core\n");
    bench.write("h/proc/sys/kernel/core_pipe_limit", "0\n");
    bench.write("c/upcalld.toml", "store.keep_free = 0\n");
    let program = format!("h/proc/1/root{}", bench.path("l/core").display());
    std::fs::create_dir_all(bench.path(&program).parent().unwrap()).unwrap();
    std::fs::create_dir_all(bench.path("h/proc/self")).unwrap();
    bench.write("h/proc/self/cgroup", "0::/\n");
    bench.write(&program, "");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bench.path(&program), executable).unwrap();
    if !crate::bench::is_root("the program must be root's") {
        return;
    }
    let said = bench.run(&words);
    assert_eq!(said.status, 0, "warnings only: {said:?}");
    assert!(
        said.out.contains("warning  hook ") && said.out.contains("warning  daemon "),
        "{said:?}"
    );
    assert_eq!(
        bench.run(&["doctor", "--strict", "--host", &host]).status,
        1
    );
    let json: Value =
        serde_json::from_str(&bench.run(&["doctor", "--json", "--host", &host]).out).unwrap();
    assert_eq!(
        (&json["schema"], &json["errors"]),
        (&"upcalld.doctor".into(), &0.into())
    );
    let findings = json["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 23);
    assert!(
        findings
            .iter()
            .all(|finding| finding["level"] == "ok" || finding["what"] != "")
    );
}
