//! The keys of a `[[container]]`.

use super::{Key, Value, key, required};

/// The keys of a `[[container]]`; one of the last three says how it is found.
pub(super) const KNOWN: &[Key] = &[
    required(
        "name",
        Value::Text,
        r#""legacy-mail""#,
        "what rules and records call it; its id too",
    ),
    key(
        "unit",
        Value::Text,
        "",
        r#""mail-jail.service""#,
        "the systemd service or scope that it is",
    ),
    key(
        "cgroup",
        Value::Path,
        "",
        r#""/jails/mail""#,
        "the cgroup that it is, as /proc/PID/cgroup names it on the host",
    ),
    key(
        "pid_file",
        Value::Path,
        "",
        r#""/run/mail-jail.pid""#,
        "a file of root's with the number of its init",
    ),
];
