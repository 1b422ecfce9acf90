//! `check`, and `explain` without a daemon.

use serde_json::Value;

use crate::bench::{Bench, is_root};
use crate::given;

const GOOD: &str = "[[rule]]\nname = \"all\"\nupcall = \"core\"\nstore = {}\n";

const BAD: &str = r#"[[rule]]
upcall = "core"
match.contaner = { name = "web*" }
match.core = { signal = ["SEGFAULT", "ABRT"] }
store = {}

[[rule]]
upcall = "core"
store = {}
deny = { reason = "no" }
"#;

#[test]
fn files_are_checked_wherever_they_are() {
    let bench = Bench::new();
    bench.write("good.toml", GOOD);
    bench.write("bad.toml", BAD);
    bench.write("upcalld.toml", "[store]\nkeep_free = \"lots\"\n");
    let path = |name| bench.path(name).display().to_string();
    let good = bench.run(&["check", &path("good.toml")]);
    assert_eq!(
        good.all(),
        "checked 1 file, 1 rule: nothing is wrong\n--- exit 0\n"
    );
    let all = bench.run(&[
        "check",
        &path("bad.toml"),
        &path("good.toml"),
        &path("upcalld.toml"),
    ]);
    insta::assert_snapshot!(all.all());
}

#[test]
fn mistakes_as_json() {
    let bench = Bench::new();
    bench.write("bad.toml", BAD);
    let bad = bench.path("bad.toml").display().to_string();
    let said = bench.run(&["check", &bad, "--json"]);
    assert_eq!((said.status, said.err.as_str()), (1, ""));
    assert!(
        said.out.starts_with(
            r#"{"schema":"upcalld.check","version":1,"files":["/T/bad.toml"],"rules":2,"errors":3,"#
        ),
        "{}",
        said.out
    );
    let document: Value = serde_json::from_str(&said.out).unwrap();
    let first = &document["diagnostics"][0];
    assert_eq!(first["code"], "unknown-key");
    assert_eq!((&first["line"], &first["column"]), (&3.into(), &7.into()));
}

#[test]
fn a_file_that_is_not_there_is_an_error_of_its_own() {
    let bench = Bench::new();
    bench.write("latin1.toml", "");
    std::fs::write(bench.path("latin1.toml"), b"# \xe9\n").unwrap();
    let missing = bench.path("nothing.toml").display().to_string();
    let latin1 = bench.path("latin1.toml").display().to_string();
    let said = [&missing, &latin1].map(|path| bench.run(&["check", path]).all());
    insta::assert_snapshot!(said.concat());
}

#[test]
fn directories_are_checked_without_files() {
    if !is_root("rules must be root's") {
        return;
    }
    let bench = Bench::new();
    let empty = bench.run(&["check"]);
    assert_eq!(
        empty.all(),
        "checked 0 files, 0 rules: nothing is wrong\n--- exit 0\n"
    );
    bench.write("c/rules.d/50-good.toml", GOOD);
    let good = bench.run(&["check"]);
    assert_eq!(
        good.all(),
        "checked 1 file, 1 rule: nothing is wrong\n--- exit 0\n"
    );
    bench.write("c/rules.d/60-bad.toml", "nonsense = 1\n");
    let bad = bench.run(&["check"]);
    assert!(
        bad.out.ends_with("checked 2 files, 1 rule: 1 error\n") && bad.status == 1,
        "{bad:?}"
    );
}

#[test]
fn without_a_daemon_explaining_goes_by_the_rules_on_disk() {
    if !is_root("of others' processes only root sees what rules look at") {
        return;
    }
    let bench = Bench::with(&[given::shop(), given::storm()]);
    bench.write(
        "c/rules.d/50-shop.toml",
        "[[rule]]\nupcall = \"core\"\nmatch.pod.namespace = \"shop\"\nmatch.core.signal = \"SEGV\"\n\
         run = { in = \"container\", command = [\"/on-crash\", \"{pid}\"] }\n\
         limit = { rate = \"10/min\", concurrent = 2 }\n\
         [[rule]]\nname = \"the rest\"\nupcall = \"core\"\nstore = {}\n",
    );
    let record = bench.run(&["explain", "--record", "k3m"]);
    insta::assert_snapshot!("of_a_record", record.all());
    let other = bench.run(&["explain", "--record", "n1y", "--all"]);
    insta::assert_snapshot!("of_another", other.all());

    let own = std::process::id().to_string();
    let said = bench.run(&["explain", "--pid", &own, "core", "--signal", "ABRT"]);
    assert_eq!((said.err.as_str(), said.status), ("", 0));
    for part in [
        &*format!("process     {own} "),
        "policy      2 rules from 1 file, from disk: upcalld does not run\n",
        "✓ alive",
        "✗ 50-shop.toml:1",
        "✓ 50-shop.toml:7    \"the rest\"\n",
        "plan        store  /T/s/cores, at most 32GiB, ",
        "nothing was run\n",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    let json = bench.run(&["explain", "--pid", &own, "--json"]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["schema"], "upcalld.explanation");
    assert_eq!(json["plan"]["rule"], "50-shop.toml:7");
}

#[test]
fn a_key_that_a_process_would_need_is_explained() {
    if !is_root("of others' processes only root sees what rules look at") {
        return;
    }
    let bench = Bench::with(&[given::name(), given::forged()]);
    bench.write(
        "c/rules.d/60-keys.toml",
        "[[rule]]\nupcall = \"key\"\nmatch.container = {}\nmatch.key = { type = \"dns_resolver\" }\n\
         run = { in = \"host\", join = [\"net\"], command = [\"/sbin/key.dns_resolver\", \"{key}\"], \
         files = [\"/etc/hosts\"] }\n\
         [[rule]]\nupcall = \"key\"\nmatch.key = { type = \"user\", description = \"given:*\" }\n\
         answer = { payload = \"x y\", ttl = \"1m\" }\n\
         [[rule]]\nupcall = \"key\"\nmatch.key = { caller = \"kernel\" }\n\
         run = { in = \"host\", command = [\"/sbin/key.dns_resolver\", \"{key}\"] }\n\
         [[rule]]\nupcall = \"key\"\nmatch.key = { type = \"user\" }\n\
         deny = { reason = \"not here\", errno = \"EKEYREVOKED\", ttl = \"5s\" }\n\
         [[rule]]\nupcall = \"core\"\nstore = {}\n",
    );
    let record = bench.run(&["explain", "--record", "b7x"]);
    insta::assert_snapshot!("of_a_keys_record", record.all());
    let forged = bench.run(&["explain", "--record", "f0r", "key"]);
    insta::assert_snapshot!("of_a_forged_key", forged.all());
    let own = std::process::id().to_string();
    let says = |words: &[&str], parts: &[&str]| {
        let words = [&["explain", "--pid", &own, "key", "--type"], words].concat();
        let said = bench.run(&words);
        assert_eq!((said.err.as_str(), said.status), ("", 0));
        for part in parts {
            assert!(said.out.contains(part), "{part}: {}", said.out);
        }
    };
    says(
        &["dns_resolver", "--desc", "host.example"],
        &[
            "key         dns_resolver \"host.example\", callout \"\", for the kernel itself\n",
            "note: the kernel itself is taken to ask",
            "5 rules from 1 file, from disk: upcalld does not run; 1 are for other kinds\n",
            "plan        run    /sbin/key.dns_resolver \"0\"; stdin: the callout; it answers the key itself, within 10s\n",
            "on failure  refused\n",
        ],
    );
    says(
        &["user", "--desc", "given:a\\x0ab"],
        &["answer  \"x y\", good for 1m\n", "user \"given:a\\x0ab\""],
    );
    says(&["user"], &["deny   \"not here\"; EKEYREVOKED for 5s\n"]);
    says(
        &["rxrpc", "--callout", "c"],
        &[
            "no rule matches: pass",
            "pass   what answers keys before the hook is installed\n",
        ],
    );
    says(
        &["id_resolver", "--caller", "user"],
        &[
            "✗ not forged (it claims to be the kernel)",
            "refused before any rule is looked at",
        ],
    );
    for words in [
        &["explain", "--pid", &own, "key"][..],
        &["explain", "--pid", &own, "--type", "user"],
    ] {
        assert_eq!(bench.run(words).status, 2);
    }
}

#[test]
fn what_cannot_be_explained_is_said() {
    if !is_root("of others' processes only root sees what rules look at") {
        return;
    }
    let bench = Bench::new();
    // No process has a number above the kernel's own limit.
    let said = [
        &["explain", "--pid", "4194305"][..],
        &["explain", "--container", "no-such-container"],
        &["explain", "--record", "zzz"],
    ];
    let mut all: String = said.iter().map(|words| bench.run(words).all()).collect();
    bench.write("c/rules.d/60-bad.toml", "nonsense = 1\n");
    all += &bench.run(&["explain", "--pid", "1"]).all();
    insta::assert_snapshot!(all);
}
