//! The keys of `upcalld.toml`.

use super::{Key, Value, key};

/// The keys of `upcalld.toml`; a table comes before what is in it.
pub(super) const KNOWN: &[Key] = &[
    key("store", Value::Table, "", "", "space for cores"),
    key(
        "store.keep_free",
        Value::Size(0),
        r#""2GiB""#,
        r#""10GiB""#,
        "nothing is kept when less would stay free",
    ),
    key("limits", Value::Table, "", "", "how much at once"),
    key(
        "limits.concurrent",
        Value::Count(1, 1024),
        "64",
        "128",
        "upcalls handled at once",
    ),
    key(
        "limits.per_container",
        Value::Count(1, 1024),
        "8",
        "4",
        "of these for one container",
    ),
    key("hooks", Value::Table, "", "", "the kernel's hooks"),
    key(
        "hooks.retake",
        Value::Flag,
        "false",
        "true",
        "take a hook back that somebody else has taken",
    ),
    key(
        "runtimes",
        Value::Table,
        "",
        "",
        "where runtimes keep their state",
    ),
    key(
        "runtimes.runc",
        Value::Paths,
        r#"["/run/runc"]"#,
        r#"["/run/runc", "/run/k3s/runc"]"#,
        "runc's state directories",
    ),
    key(
        "runtimes.crun",
        Value::Paths,
        r#"["/run/crun"]"#,
        r#"["/run/crun", "/srv/crun"]"#,
        "crun's state directories",
    ),
    key(
        "runtimes.podman_graphroot",
        Value::Path,
        r#""/var/lib/containers/storage""#,
        r#""/srv/containers""#,
        "storage of root's podman",
    ),
    key(
        "runtimes.podman_runroot",
        Value::Path,
        r#""/run/containers/storage""#,
        r#""/run/containers""#,
        "state of root's podman",
    ),
    key("records", Value::Table, "", "", "what is remembered"),
    key(
        "records.keep",
        Value::Count(1, 100_000_000),
        "100000",
        "1000000",
        "records at most, the oldest go first",
    ),
    key("metrics", Value::Table, "", "", "what is counted"),
    key(
        "metrics.textfile",
        Value::Path,
        "not written",
        r#""/var/lib/prometheus/node-exporter/upcalld.prom""#,
        "the text of upcallctl metrics, every 15 seconds",
    ),
];
