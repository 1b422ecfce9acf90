//! Records that tests start from: one invented node, a Sunday afternoon. The tests of the finished command, in
//! `broker/tests`, have them from here too.

use std::collections::BTreeMap;

use upcalld::store::record::{
    Action, Container, Core, Evidence, Key, Module, Outcome, Pod, Process, Record, Rule, SCHEMA,
    Timings, TraceStep, VERSION, Verdict,
};

/// A crash in a pod: its helper ran, and a copy was kept.
pub(crate) fn shop() -> Record {
    let mut record = blank("k3m9q0tz", "2026-11-22T13:03:22.114203Z");
    record.process = Process {
        pid: Some(20417),
        tid: Some(20421),
        pid_inside: Some(7),
        tid_inside: Some(11),
        uid: Some(1_245_217),
        gid: Some(1_245_217),
        uid_inside: Some(33),
        gid_inside: Some(33),
        comm: text("shopd"),
        exe: text("/usr/bin/shopd"),
        cmdline: Some(vec!["/usr/bin/shopd".into(), "--serve".into()]),
        cgroup: text("/kubepods.slice/x"),
        user_namespace: text("container"),
        kernel_thread: Some(false),
        dumpable: Some(1),
        no_new_privs: Some(true),
        seccomp: text("filter"),
        label: None,
        namespaces: namespaces(),
    };
    record.container = Some(web());
    record.evidence.container = ["state", "leader", "namespaces", "cgroup"]
        .map(str::to_owned)
        .to_vec();
    record.unknown = vec!["container.labels".into(), "container.pod.labels".into()];
    record.verdict = Verdict {
        rule: rule("50-shop.toml", 12, "shop: the rest"),
        actions: vec!["run".into(), "store".into()],
        host_only: None,
        trace: vec![
            step(
                "10-host.toml",
                1,
                "no",
                "process.exe",
                Some("/usr/bin/shopd"),
                &["/usr/lib/systemd/*"],
            ),
            step(
                "20-signals.toml",
                3,
                "no",
                "core.signal",
                Some("SEGV"),
                &["ABRT", "BUS"],
            ),
            step(
                "50-shop.toml",
                1,
                "unknown",
                "pod.label.tier",
                None,
                &["frontend"],
            ),
            TraceStep {
                file: "/etc/upcalld/rules.d/50-shop.toml".into(),
                line: 12,
                result: "yes".into(),
                key: None,
                is: None,
                wants: Vec::new(),
            },
        ],
    };
    record.timings_us = Timings {
        accept: Some(21),
        identify: Some(108),
        resolve: Some(31),
        decide: Some(7),
        admit: Some(2),
        launch: Some(418),
        actions: Some(371_402),
        record: Some(310),
        held: Some(372_150),
    };
    let mut run = Action::new("run");
    run.outcome = Outcome::Done;
    run.argv = Some(
        ["/usr/local/bin/on-crash", "7", "SEGV", "/usr/bin/shopd"]
            .map(str::to_owned)
            .to_vec(),
    );
    run.exit_code = Some(0);
    run.duration_us = Some(371_020);
    run.namespaces = Some(namespaces());
    (run.uid, run.gid) = (Some(1_245_217), Some(1_245_217));
    (run.uid_inside, run.gid_inside) = (Some(33), Some(33));
    run.capabilities = Some(Vec::new());
    run.cgroup = text("/kubepods.slice/x/upcall-k3m9q0tz");
    run.fed_bytes = Some(432_013_312);
    run.output = text("saved 7, ticket 881");
    let mut store = Action::new("store");
    store.outcome = Outcome::Done;
    store.path = text("/var/lib/upcalld/cores/k3m9q0tz.core");
    (store.size_bytes, store.stored_bytes) = (Some(432_013_312), Some(63_963_136));
    store.truncated = Some(false);
    record.actions = vec![run, store];
    record
}

/// A crash of the host's own, two days ago: no rule matched, and it was passed on.
pub(crate) fn host() -> Record {
    let mut record = blank("t0v5n3kc", "2026-11-20T08:12:01.5Z");
    record.process = Process {
        pid: Some(811),
        tid: Some(811),
        uid: Some(0),
        gid: Some(0),
        comm: text("sshd worker"),
        exe: text("/usr/sbin/sshd"),
        user_namespace: text("initial"),
        dumpable: Some(2),
        ..Process::default()
    };
    record.unknown = vec!["process.cmdline".into()];
    record.verdict.actions = vec!["pass".into()];
    record.verdict.host_only = text("not_dumpable");
    record.timings_us.held = Some(9_040);
    let mut pass = Action::new("pass");
    pass.outcome = Outcome::Done;
    pass.argv = Some(vec![
        "/usr/lib/systemd/systemd-coredump".into(),
        "811".into(),
    ]);
    pass.exit_code = Some(0);
    pass.duration_us = Some(8_800);
    record.actions = vec![pass];
    record
}

/// 1,274 crashes within ten seconds that a rule's rate refused.
pub(crate) fn storm() -> Record {
    let mut record = blank("n1y6t3mb", "2026-11-22T13:04:21.002Z");
    record.count = 1274;
    record.process.pid = Some(20702);
    record.process.comm = text("runner");
    record.process.user_namespace = text("container");
    record.process.dumpable = Some(1);
    record.container = Some(Container {
        runtime: "podman".into(),
        id: "77aa01bc23de45f67789aabbccddeeff77aa01bc23de45f67789aabbccddeeff".into(),
        name: text("ci-runner-0"),
        image: None,
        pod: None,
        ..web()
    });
    record.verdict.rule = rule("90-default.toml", 9, "crashes in containers are kept");
    record.verdict.actions = vec!["store".into()];
    record.outcome = Outcome::Refused;
    record.reason = text("rate_limit");
    record.message = text("90-default.toml:9 allows 10 in 60 s; next in 4 s");
    record.timings_us.held = Some(20);
    record
}

/// A helper that was not in its image: the core was kept instead.
pub(crate) fn missing() -> Record {
    let mut record = shop();
    record.id = "e9p4s8gd".into();
    record.time = "2026-11-22T12:45:00.25Z".into();
    record.outcome = Outcome::Partial;
    record.reason = text("helper_missing");
    let message = "/usr/local/bin/on-crash is not in web 3f9c1e0a77d2 (stage program: ENOENT); \
                   help: add it to the image, or use host_program";
    record.message = text(message);
    let mut run = Action::new("run");
    run.outcome = Outcome::Failed;
    run.reason = text("helper_missing");
    run.message = text(message);
    run.stage = text("program");
    run.errno = text("ENOENT");
    run.argv = Some(vec!["/usr/local/bin/on-crash".into(), "7".into()]);
    record.actions.remove(0);
    record.actions.insert(0, run);
    record
}

/// A process of nobody's container that chose its name to forge a line, refused by a rule.
pub(crate) fn hostile() -> Record {
    let mut record = blank("h2z6m1xe", "2026-11-22T13:05:12.9Z");
    record.process.pid = Some(31337);
    record.process.comm = text("x y\\x1b[2J\\x0ak3m");
    record.process.exe = text("/tmp/a b\\\\c");
    record.process.uid = Some(65534);
    record.process.user_namespace = text("other");
    record.process.dumpable = Some(1);
    record.evidence.refused_nominees =
        vec!["runc web: forged cgroup name: its init is not in this cgroup".into()];
    record.verdict.rule = rule("50-tenants.toml", 4, "");
    record.verdict.rule.as_mut().unwrap().name = None;
    record.verdict.actions = vec!["deny".into()];
    record.outcome = Outcome::Refused;
    record.reason = text("rule");
    record.message = text("keys are for registered containers");
    record.timings_us.held = Some(210);
    record
}

/// A process that was gone before it could be looked at.
pub(crate) fn gone() -> Record {
    let mut record = blank("g3h4j5k6", "2026-11-22T13:01:00Z");
    record.process.pid = Some(4711);
    record.process.dumpable = Some(1);
    record.evidence = Evidence::default();
    record.unknown = vec!["process.exe".into(), "process.comm".into()];
    record.verdict.actions = vec!["pass".into()];
    record.verdict.host_only = text("identity_lost");
    record.message = text("process 4711 : it was gone before it could be looked at");
    let mut store = Action::new("store");
    store.outcome = Outcome::Refused;
    store.reason = text("core_limit");
    store.message = text("its core limit is 0 (store.ignore_limit is false)");
    record.actions = vec![store];
    record.outcome = Outcome::Failed;
    record.timings_us.held = Some(1_500);
    record
}

/// The self-test of `install core`.
pub(crate) fn tested() -> Record {
    let mut record = blank("q8d2w7ya", "2026-11-22T07:11:30Z");
    record.process.pid = Some(950);
    record.process.comm = text("upcallctl");
    record.process.user_namespace = text("initial");
    record.process.dumpable = Some(1);
    record.verdict.actions = vec!["self_test".into()];
    record.message = text("self-test of the core hook: a child of upcallctl crashed");
    record
}

/// A name that a program of a container resolved, whose words the shim gave to the key.
pub(crate) fn name() -> Record {
    let mut record = shop();
    record.id = "b7x0c2fe".into();
    record.kind = "key".into();
    record.core = None;
    record.process.dumpable = None;
    record.evidence.process = text("auth_key");
    record.verdict.rule = rule(
        "60-keys.toml",
        1,
        "names are resolved where they are asked for",
    );
    record.verdict.actions = vec!["run".into()];
    record.verdict.trace.clear();
    record.timings_us.held = Some(3_120);
    record.key = Some(Key {
        kind: "dns_resolver".into(),
        description: "srv.corp.example".into(),
        callout: text(""),
        serial: 0x2f1c_9a77,
        caller: "kernel".into(),
        answer: text("instantiated"),
        payload_bytes: Some(12),
        ttl_us: Some(5_000_000),
        errno: None,
    });
    record.actions.truncate(1);
    let run = &mut record.actions[0];
    run.argv = Some(vec!["/usr/bin/resolve".into(), "srv.corp.example".into()]);
    run.output = text("192.0.2.7\\x0a");
    run.fed_bytes = None;
    run.duration_us = Some(2_100);
    record
}

/// A program that asked in the kernel's name.
pub(crate) fn forged() -> Record {
    let mut record = hostile();
    record.id = "f0rg3dke".into();
    record.kind = "key".into();
    record.core = None;
    record.process.dumpable = None;
    record.evidence.process = text("auth_key");
    record.evidence.refused_nominees.clear();
    record.verdict = Verdict::default();
    record.reason = text("forged");
    record.message = text(
        "only the kernel asks for keys of this type, and this was a program; nothing was started",
    );
    record.key = Some(Key {
        kind: "cifs.spnego".into(),
        description: "ver=0x2;host=a b;pid=0x1".into(),
        callout: None,
        serial: 0x1b22_c7d1,
        caller: "forged".into(),
        answer: text("rejected"),
        payload_bytes: None,
        ttl_us: Some(1_000_000),
        errno: text("EPERM"),
    });
    record
}

/// All of them, oldest first.
pub(crate) fn all() -> Vec<Record> {
    vec![
        host(),
        tested(),
        missing(),
        gone(),
        shop(),
        storm(),
        hostile(),
    ]
}

/// Requests for modules: refused twice and more, loaded, not there, by nobody's container, and with a hostile name.
pub(crate) fn modules() -> Vec<Record> {
    let asked = |id: &str, time: &str, alias: &str, who: &str| {
        let mut record = storm();
        record.id = id.into();
        record.kind = "module".into();
        record.time = time.into();
        record.count = 1;
        record.core = None;
        record.process.dumpable = None;
        record.evidence.process = text("kprobe");
        record.reason = text("rule");
        record.message = text("modules are the host's business");
        record.verdict.rule = rule("90-default.toml", 29, "containers load nothing");
        record.verdict.actions = vec!["deny".into()];
        record.module = Some(Module {
            alias: alias.into(),
            family: None,
            who_can_ask: text(who),
        });
        record
    };
    let mut pooled = asked("m2a", "2026-11-22T13:00:09Z", "algif-aead", "any_user");
    pooled.count = 1283;
    let mut loaded = asked(
        "m3a",
        "2026-11-22T13:01:00Z",
        "rtnl-link-wireguard",
        "any_user_namespace",
    );
    (loaded.outcome, loaded.reason, loaded.message) = (Outcome::Done, None, None);
    loaded.verdict.actions = vec!["pass".into()];
    let mut pass = Action::new("pass");
    pass.exit_code = Some(0);
    loaded.actions = vec![pass];
    let mut missing = loaded.clone();
    missing.id = "m4a".into();
    missing.container = None;
    missing.process.user_namespace = text("initial");
    missing.verdict.rule = None;
    missing.actions[0].exit_code = Some(1);
    missing.module.as_mut().unwrap().alias = "net-pf-9".into();
    let mut home = asked(
        "m5a",
        "2026-11-22T13:02:00Z",
        "fs-nfs4",
        "any_user_namespace",
    );
    home.container = None;
    home.process.user_namespace = text("other");
    let mut hostile = asked(
        "m6a",
        "2026-11-22T13:03:00Z",
        "fs-x\\x0a\"]\\u{202e} \u{202e}*",
        "any_user_namespace",
    );
    hostile.container.as_mut().unwrap().name = text("a\"}*");
    let mut other = asked(
        "m7a",
        "2026-11-22T13:03:01Z",
        "fs-nfs4",
        "any_user_namespace",
    );
    other.container = hostile.container.clone();
    let mut pod = asked("m8a", "2026-11-22T13:03:02Z", "crypto-cbc(aes)", "any_user");
    pod.container = Some(web());
    vec![
        asked("m1a", "2026-11-22T13:00:00Z", "algif-aead", "any_user"),
        pooled,
        loaded,
        missing,
        home,
        hostile,
        other,
        pod,
    ]
}

fn blank(id: &str, time: &str) -> Record {
    Record {
        schema: SCHEMA.to_owned(),
        version: VERSION,
        id: id.to_owned(),
        kind: "core".to_owned(),
        time: time.to_owned(),
        node: "node7".to_owned(),
        count: 1,
        unknown: Vec::new(),
        process: Process::default(),
        container: None,
        evidence: Evidence {
            process: text("kernel_pidfd"),
            candidates: 1,
            ..Evidence::default()
        },
        verdict: Verdict::default(),
        outcome: Outcome::Done,
        reason: None,
        message: None,
        timings_us: Timings::default(),
        actions: Vec::new(),
        key: None,
        module: None,
        umh: None,
        core: Some(Core {
            hook: "pipe".to_owned(),
            signal: text("SEGV"),
            signal_number: Some(11),
            threads: Some(9),
            limit_bytes: Some(0),
        }),
    }
}

fn web() -> Container {
    Container {
        runtime: "containerd".into(),
        id: "3f9c1e0a77d2aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".into(),
        name: text("web"),
        image: text("registry.local/shop/web:4.2"),
        labels: None,
        owner_uid: 0,
        leader_pid: 20391,
        own_namespaces: ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]
            .map(str::to_owned)
            .to_vec(),
        pod: Some(Pod {
            namespace: text("shop"),
            name: text("web-7c9f-x2lqk"),
            uid: text("0a1b2c3d"),
            labels: None,
        }),
    }
}

fn namespaces() -> BTreeMap<String, u64> {
    ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"]
        .iter()
        .zip(4_026_532_707..)
        .map(|(name, inode)| ((*name).to_owned(), inode))
        .collect()
}

#[expect(clippy::unnecessary_wraps, reason = "for fields that may be null")]
fn rule(file: &str, line: u32, name: &str) -> Option<Rule> {
    Some(Rule {
        file: format!("/etc/upcalld/rules.d/{file}"),
        line,
        name: text(name),
    })
}

fn step(
    file: &str,
    line: u32,
    result: &str,
    key: &str,
    is: Option<&str>,
    wants: &[&str],
) -> TraceStep {
    TraceStep {
        file: format!("/etc/upcalld/rules.d/{file}"),
        line,
        result: result.into(),
        key: text(key),
        is: is.map(str::to_owned),
        wants: wants.iter().map(|want| (*want).to_owned()).collect(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "for fields that may be null")]
fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}
