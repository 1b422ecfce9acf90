//! The keys of a `[[rule]]` that are for keys only, in the order in which the whole list has them.

use super::{Key, Value, Words, key};
use crate::check;

pub(super) const MATCH: Key = key(
    "match.key",
    Value::Table,
    "not looked at",
    r#"{ type = "dns_resolver" }"#,
    "the key that wants instantiating",
);

pub(super) const TYPE: Key = key(
    "match.key.type",
    Value::Globs,
    "any",
    r#"["dns_resolver", "user"]"#,
    "its type",
);

pub(super) const DESCRIPTION: Key = key(
    "match.key.description",
    Value::Globs,
    "any",
    r#""*.corp.example""#,
    "its description, the tenant's own words where the caller is a user",
);

pub(super) const CALLOUT: Key = key(
    "match.key.callout",
    Value::Globs,
    "any",
    r#""""#,
    "its callout information, likewise",
);

pub(super) const CALLER: Key = key(
    "match.key.caller",
    Value::Words(Words::Callers),
    "any",
    r#""kernel""#,
    "the kernel itself, or a program",
);

pub(super) const JOIN: Key = key(
    "run.join",
    Value::Words(Words::Of(&["net"])),
    "none",
    r#"["net"]"#,
    "of a key, on the host: the container's namespaces that the program is in",
);

pub(super) const FILES: Key = key(
    "run.files",
    Value::Words(Words::Of(&check::FILES)),
    "none",
    r#"["/etc/resolv.conf"]"#,
    "files of the container that it sees in the place of the host's",
);

pub(super) const ANSWER: Key = key(
    "answer",
    Value::Table,
    "off",
    r#"{ payload = "192.0.2.7", ttl = "5s" }"#,
    "give a key this payload",
);

pub(super) const PAYLOAD: Key = key(
    "answer.payload",
    Value::Text,
    "or `file`",
    r#""192.0.2.7""#,
    "the payload",
);

pub(super) const FILE: Key = key(
    "answer.file",
    Value::Path,
    "or `payload`",
    r#""/etc/upcalld/keys/a""#,
    "a file of root's with the payload, at most 16 KiB, read for each key",
);

pub(super) const TTL: Key = key(
    "answer.ttl",
    Value::Duration(1_000, 86_400_000),
    r#""5s""#,
    r#""1m""#,
    "how long it is good for, 1s to 1 day",
);

pub(super) const ERRNO: Key = key(
    "deny.errno",
    Value::Word(check::ERRNO),
    r#""EACCES""#,
    r#""EKEYREJECTED""#,
    "what the requester of a key is told",
);

pub(super) const DENY_TTL: Key = key(
    "deny.ttl",
    Value::Duration(1_000, 60_000),
    r#""1s""#,
    r#""5s""#,
    "for how long the refusal of a key holds",
);
