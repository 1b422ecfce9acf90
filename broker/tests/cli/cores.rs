//! `cores list`, `dump` and `rm`.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::Value;

use crate::bench::{Bench, is_root};
use crate::given;

/// With a core of `shop`, compressed, and one of `missing`, not.
fn bench() -> Bench {
    let bench = Bench::with(&given::all());
    let cores = bench.path("s/cores");
    std::fs::create_dir(&cores).unwrap();
    let packed = zstd::stream::encode_all(&core()[..], 1).unwrap();
    std::fs::write(cores.join("k3m9q0tz.core.zst"), packed).unwrap();
    std::fs::write(cores.join("e9p4s8gd.core"), core()).unwrap();
    bench
}

/// Something, much of nothing, something, nothing.
fn core() -> Vec<u8> {
    let mut core = b"\x7fELF".repeat(5000);
    core.resize(4 << 20, 0);
    core.extend(b"end");
    core.resize(5 << 20, 0);
    core
}

#[test]
fn cores_are_listed_with_what_became_of_them() {
    let bench = bench();
    insta::assert_snapshot!(bench.run(&["cores"]).all());
    assert_eq!(bench.run(&["cores", "list"]).out, bench.run(&["cores"]).out);
    let ids = |words: &[&str]| -> String {
        let said = bench.run(&[&["cores", "list"], words].concat());
        assert_eq!(said.status, 0, "{said:?}");
        let ids = said.out.lines().skip(1);
        let ids: Vec<_> = ids.map(|line| line.split(' ').next().unwrap()).collect();
        ids.join(" ")
    };
    assert_eq!(ids(&["--is", "kept"]), "e9p4s8gd k3m9q0tz");
    assert_eq!(ids(&["--is", "refused", "-n", "1"]), "h2z6m1xe");
    assert_eq!(ids(&["--exe", "shopd", "-n", "1"]), "k3m9q0tz");
    assert_eq!(ids(&["--image", "*/shop/*"]), "e9p4s8gd k3m9q0tz");
    assert_eq!(
        ids(&["--signal", "11", "--pod", "shop/*"]),
        "e9p4s8gd k3m9q0tz"
    );
    assert_eq!(ids(&["--signal", "ABRT"]), "");
    assert_eq!(
        ids(&["--since", "2026-11-22T13:04:00Z"]),
        "n1y6t3mb h2z6m1xe"
    );
    let said = bench
        .run(&["cores", "--json", "--is", "kept", "-n", "1"])
        .out;
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(document["schema"], "upcalld.cores");
    let core = &document["cores"][0];
    assert_eq!(
        (&core["id"], &core["state"]),
        (&"k3m9q0tz".into(), &"kept".into())
    );
    assert!(
        core["path"]
            .as_str()
            .unwrap()
            .ends_with("s/cores/k3m9q0tz.core.zst")
    );
    assert!(core["stored_bytes"].as_u64().unwrap() < 10_000);
}

#[test]
fn a_core_comes_out_as_it_went_in() {
    let bench = bench();
    for id in ["k3m", "e9p"] {
        let name = bench.path(&format!("{id}.out"));
        let words = ["cores", "dump", id, "-o", name.to_str().unwrap()];
        let said = bench.run(&words);
        assert_eq!(
            (said.out.as_str(), said.err.as_str(), said.status),
            ("", "", 0)
        );
        assert!(std::fs::read(&name).unwrap() == core());
        let meta = name.metadata().unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        let again = bench.run(&words);
        assert_eq!(again.status, 1, "{again:?}");
        assert!(again.err.contains("EEXIST"), "{again:?}");
        assert!(bench.bytes(&["cores", "dump", id]) == core());
        let program = Path::new(env!("CARGO_BIN_EXE_upcallctl"));
        let mut full = bench.command(program, &["cores", "dump", id]);
        full.stdout(std::fs::File::create("/dev/full").unwrap());
        let full = full.output().unwrap();
        assert_eq!(full.status.code(), Some(1), "{full:?}");
    }
}

#[test]
fn what_cannot_be_dumped_says_why() {
    let bench = bench();
    let damaged = b"\x28\xb5\x2f\xfdnonsense";
    std::fs::write(bench.path("s/cores/k3m9q0tz.core.zst"), damaged).unwrap();
    let out = bench.path("out");
    let mut said = String::new();
    for words in [
        &["cores", "dump", "zzz"][..],
        &["cores", "dump", "n1y"],
        &["cores", "dump", "k3m", "-o", out.to_str().unwrap()],
        &["cores", "rm"],
        &["cores", "rm", "--all"],
    ] {
        said += &bench.run(words).all();
    }
    insta::assert_snapshot!(said);
    assert!(
        !out.exists(),
        "nothing is left of a core that did not come out"
    );
}

#[test]
fn removed_cores_leave_their_records() {
    let bench = bench();
    let would = bench.run(&["cores", "rm", "--all", "--dry-run"]);
    assert!(
        would.out.starts_with("would remove 2 cores, 5.0 MiB; "),
        "{would:?}"
    );
    assert!(bench.path("s/cores/e9p4s8gd.core").exists());
    let none = bench.run(&[
        "cores",
        "rm",
        "--older-than",
        "2026-11-22T12:00:00Z",
        "--yes",
    ]);
    assert_eq!(none.err, "no core is kept like this\n");
    let old = bench.run(&[
        "cores",
        "rm",
        "--older-than",
        "2026-11-22T13:00:00Z",
        "--yes",
    ]);
    assert!(old.out.starts_with("removed 1 core, 5.0 MiB; "), "{old:?}");
    assert!(!bench.path("s/cores/e9p4s8gd.core").exists());
    assert!(bench.path("s/cores/k3m9q0tz.core.zst").exists());
    let listed = bench.run(&["cores", "--json=lines", "--is", "removed"]).out;
    let core: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(core["id"], "e9p4s8gd");
    assert!(
        core["message"].as_str().unwrap().starts_with("by "),
        "{core}"
    );
    let young = [
        "cores",
        "rm",
        "k3m",
        "--older-than",
        "2026-11-22T13:00:00Z",
        "--yes",
    ];
    assert_eq!(bench.run(&young).err, "no core is kept like this\n");
    let other = bench.run(&["cores", "rm", "k3m", "--pod", "other/*", "--yes"]);
    assert_eq!(
        (other.err.as_str(), other.status),
        ("no core is kept like this\n", 0)
    );
    // The same core under two names; an admin whose files are nobody else's; an answer for programs.
    let words = [
        "-c",
        "umask 077; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_upcallctl"),
    ];
    let twice = ["cores", "rm", "k3m", "k3m9", "--yes", "--json"];
    let mut command = bench.wrapped(Path::new("/bin/sh"), &words, &twice);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["cores"], serde_json::json!(["k3m9q0tz"]));
    for record in std::fs::read_dir(bench.path("s/records")).unwrap() {
        let meta = record.unwrap().metadata().unwrap();
        assert_eq!(meta.mode() & 0o777, 0o640, "the daemon's group may read it");
    }
    assert_eq!(std::fs::read_dir(bench.path("s/cores")).unwrap().count(), 0);
    assert_eq!(bench.run(&["list", "-n0"]).out.lines().count(), 8);
}

#[test]
fn cores_are_roots_alone() {
    if !is_root("becoming nobody needs root") {
        return;
    }
    let bench = bench();
    for (name, mode) in [("s", 0o755), ("s/records", 0o755), ("s/cores", 0o700)] {
        std::fs::set_permissions(bench.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let records_for_all = || {
        for entry in std::fs::read_dir(bench.path("s/records")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
        }
    };
    records_for_all();
    let listed = bench.run_as_nobody(&["cores", "--is", "kept"]);
    assert_eq!(
        (listed.out.lines().count(), listed.status),
        (3, 0),
        "{listed:?}"
    );
    // Who cannot look for the file is told by the record.
    let removed = bench.run(&["cores", "rm", "e9p", "--yes"]);
    assert_eq!(removed.status, 0, "{removed:?}");
    records_for_all();
    for (word, lines) in [("kept", 2), ("removed", 2)] {
        let listed = bench.run_as_nobody(&["cores", "--is", word]);
        assert_eq!(listed.out.lines().count(), lines, "{listed:?}");
    }
    let shown = bench.run_as_nobody(&["show", "e9p"]);
    assert!(shown.out.contains(", removed: by root, "), "{shown:?}");
    let dump = bench.run_as_nobody(&["cores", "dump", "k3m"]);
    let rm = bench.run_as_nobody(&["cores", "rm", "--all", "--yes"]);
    insta::assert_snapshot!([dump.all(), rm.all()].concat());
}

/// With a core that the kernel wrote.
pub(crate) fn crashed() -> Bench {
    let bench = Bench::with(&[given::shop()]);
    std::fs::create_dir(bench.path("s/cores")).unwrap();
    let core = include_bytes!("../core/crash.core.zst");
    std::fs::write(bench.path("s/cores/k3m9q0tz.core.zst"), core).unwrap();
    bench
}

#[test]
fn info_has_the_record_and_what_the_core_says() {
    let bench = crashed();
    let said = bench.run(&["cores", "info", "k3m"]);
    assert_eq!((said.err.as_str(), said.status), ("", 0));
    let core = said.out.split_once("core        ").unwrap().1;
    insta::assert_snapshot!(core);
    let shown = bench.run(&["show", "k3m"]).out;
    assert_eq!(said.out.lines().nth(1), shown.lines().nth(1));
    let json = bench.run(&["cores", "info", "k3m", "--json"]).out;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["schema"], "upcalld.core");
    assert_eq!(json["crash"]["address"], 0x18);
    assert_eq!(json["record"]["id"], "k3m9q0tz");
    let fields = json.as_object().unwrap().len();
    assert_eq!((fields, &json["unread"]), (6, &Value::Null));
}

#[test]
fn a_core_that_is_none_or_not_here_is_said_in_info() {
    let bench = crashed();
    let mut said = String::new();
    for (name, bytes) in [
        ("s/cores/k3m9q0tz.core", &b"#!/bin/sh\n"[..]),
        ("s/cores/k3m9q0tz.core", &b"\x7fELF\x02\x01\x01"[..]),
        ("s/cores/k3m9q0tz.core", &[0xff; 1000]),
    ] {
        std::fs::write(bench.path(name), bytes).unwrap();
        let out = bench.run(&["cores", "info", "k3m"]);
        assert_eq!(out.status, 0);
        said += out.out.split_once("core        ").unwrap().1;
    }
    std::fs::remove_file(bench.path("s/cores/k3m9q0tz.core")).unwrap();
    std::fs::remove_file(bench.path("s/cores/k3m9q0tz.core.zst")).unwrap();
    said += bench
        .run(&["cores", "info", "k3m"])
        .out
        .split_once("core        ")
        .unwrap()
        .1;
    insta::assert_snapshot!(said);
}
