//! Every key that can be written, in one table: what checking accepts, what the schema says and what docs/rules.md
//! must explain all come from here.

use crate::facts::{Runtime, UserNamespace};
use crate::upcall::{Kind, Signal};

/// Most rules in one policy.
pub const MAX_RULES: usize = 4096;
/// Most values in one list.
pub const MAX_LIST: usize = 256;
/// Longest single text, in bytes; a word of argv may be longer, [`crate::template::MAX_WORD`].
pub const MAX_TEXT: usize = 1024;
/// Most words in one argv.
pub const MAX_ARGV: usize = 64;
/// Most patterns with `?`, `[` or several `*` in one policy; each is an automaton of some ten KiB.
pub const MAX_COSTLY: usize = 8192;
/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As written in a rule, or in `upcalld.toml`: `match.process.uid`.
    pub path: &'static str,
    /// What may be its value.
    pub value: Value,
    /// Whether its table is incomplete without it.
    pub required: bool,
    /// The default, as people would write it, or in words; empty where there is none.
    pub default: &'static str,
    /// A value as it is written.
    pub example: &'static str,
    /// One line about it.
    pub meaning: &'static str,
}

/// What may be the value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// A table with the keys below.
    Table,
    /// A table of texts with any keys, each a glob or a list of globs.
    Labels,
    /// A text.
    Text,
    /// One of a few words.
    Word(Words),
    /// One of a few words, or a list of them.
    Words(Words),
    /// A glob or a list of globs.
    Globs,
    /// A number up to this one, a range of numbers as text, or a list of those.
    Numbers(u32),
    /// `true` or `false`.
    Flag,
    /// `true` or `false` or a list of those.
    Flags,
    /// A number from the first to the second.
    Count(u64, u64),
    /// `"4GiB"` or a number of bytes, at least this many.
    Size(u64),
    /// `"30s"`, from the first to the second in milliseconds.
    Duration(u64, u64),
    /// `"10/min"`.
    Rate,
    /// A list of words, the first an absolute path.
    Argv,
    /// An absolute path.
    Path,
    /// A list of absolute paths.
    Paths,
}

/// Sets of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// [`Kind`], those that this version decides.
    Kinds,
    /// [`Runtime`].
    Runtimes,
    /// [`UserNamespace`].
    UserNamespaces,
    /// [`Signal`], those with a name.
    Signals,
    /// These.
    Of(&'static [&'static str]),
}

impl Words {
    /// The words, in documentation order.
    pub fn list(self) -> Vec<&'static str> {
        match self {
            Self::Kinds => vec![Kind::Core.as_str()],
            Self::Runtimes => Runtime::ALL.map(Runtime::as_str).to_vec(),
            Self::UserNamespaces => UserNamespace::ALL.map(UserNamespace::as_str).to_vec(),
            Self::Signals => Signal::names().collect(),
            Self::Of(words) => words.to_vec(),
        }
    }
}

const fn key(
    path: &'static str,
    value: Value,
    default: &'static str,
    example: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        path,
        value,
        required: false,
        default,
        example,
        meaning,
    }
}

const fn required(
    path: &'static str,
    value: Value,
    example: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        required: true,
        ..key(path, value, "required", example, meaning)
    }
}

/// Smallest size of anything that a program must live in.
const MIB: u64 = 1 << 20;

/// The keys of a `[[rule]]`; a table comes before what is in it.
const RULE_KEYS: &[Key] = &[
    key(
        "name",
        Value::Text,
        "`file:line`",
        r#""shop: the rest""#,
        "what people call the rule",
    ),
    required(
        "upcall",
        Value::Word(Words::Kinds),
        r#""core""#,
        "whose upcalls the rule is for",
    ),
    key(
        "match",
        Value::Table,
        "everything",
        r#"{ core = { signal = "SEGV" } }"#,
        "what must hold; all of it",
    ),
    key(
        "match.process",
        Value::Table,
        "not looked at",
        "{ uid = 0 }",
        "the process that caused the upcall",
    ),
    key(
        "match.process.uid",
        Value::Numbers(u32::MAX - 1),
        "any",
        r#"[0, "1000-1999"]"#,
        "its real user id, on the host",
    ),
    key(
        "match.process.exe",
        Value::Globs,
        "any",
        r#""/usr/bin/*""#,
        "its program, the tenant's own words",
    ),
    key(
        "match.process.comm",
        Value::Globs,
        "any",
        r#""shopd""#,
        "its thread's name, the tenant's own words",
    ),
    key(
        "match.process.cgroup",
        Value::Globs,
        "any",
        r#""/system.slice/*""#,
        "its cgroup, seen from the host",
    ),
    key(
        "match.process.user_namespace",
        Value::Words(Words::UserNamespaces),
        "any",
        r#""container""#,
        "whose user namespace it lives in",
    ),
    key(
        "match.process.kernel_thread",
        Value::Flags,
        "any",
        "false",
        "whether it is a thread of the kernel",
    ),
    key(
        "match.container",
        Value::Table,
        "not looked at",
        r#"{ runtime = "podman" }"#,
        "the registered container it lives in; `{}` is any",
    ),
    key(
        "match.container.runtime",
        Value::Words(Words::Runtimes),
        "any",
        r#"["containerd", "cri-o"]"#,
        "what made the container",
    ),
    key(
        "match.container.name",
        Value::Globs,
        "any",
        r#""web-*""#,
        "its name",
    ),
    key(
        "match.container.id",
        Value::Globs,
        "any",
        r#""3f9c1e*""#,
        "its id",
    ),
    key(
        "match.container.image",
        Value::Globs,
        "any",
        r#""registry.local/shop/*""#,
        "its image",
    ),
    key(
        "match.container.label",
        Value::Labels,
        "any",
        r#"{ tier = "frontend" }"#,
        "its labels and annotations",
    ),
    key(
        "match.container.owner",
        Value::Numbers(u32::MAX - 1),
        "0",
        r#""10000-19999""#,
        "the host's uid whose state proves it; without this key a rule sees root's only",
    ),
    key(
        "match.pod",
        Value::Table,
        "not looked at",
        r#"{ namespace = "shop" }"#,
        "the pod of the container; `{}` is any",
    ),
    key(
        "match.pod.namespace",
        Value::Globs,
        "any",
        r#""shop""#,
        "its Kubernetes namespace",
    ),
    key(
        "match.pod.name",
        Value::Globs,
        "any",
        r#""web-*""#,
        "its name",
    ),
    key(
        "match.pod.uid",
        Value::Globs,
        "any",
        r#""0a1b2c3d-*""#,
        "its uid, or podman's pod id",
    ),
    key(
        "match.pod.label",
        Value::Labels,
        "any",
        r#"{ tier = "frontend" }"#,
        "its labels",
    ),
    key(
        "match.core",
        Value::Table,
        "not looked at",
        r#"{ signal = "SEGV" }"#,
        "the core dump",
    ),
    key(
        "match.core.signal",
        Value::Words(Words::Signals),
        "any",
        r#"["SEGV", "ABRT"]"#,
        "the signal that killed the process",
    ),
    key(
        "match.core.dumpable",
        Value::Numbers(2),
        "any",
        "1",
        "1 is an ordinary process, 2 one whose core is root's alone",
    ),
    key(
        "run",
        Value::Table,
        "off",
        r#"{ in = "container", command = ["/on-crash", "{pid}"] }"#,
        "start a helper; its stdin is the core",
    ),
    required(
        "run.in",
        Value::Word(Words::Of(&["container", "host"])),
        r#""container""#,
        "where it runs",
    ),
    key(
        "run.command",
        Value::Argv,
        "or `host_program`",
        r#"["/on-crash", "{pid}"]"#,
        "a program there, ELF or script; no shell",
    ),
    key(
        "run.host_program",
        Value::Argv,
        "or `command`",
        r#"["/usr/libexec/report", "{pid}"]"#,
        "a static ELF of the host, executed inside",
    ),
    key(
        "run.user",
        Value::Word(Words::Of(&["root", "origin"])),
        "the init's ids",
        r#""origin""#,
        "as whom it runs inside",
    ),
    key(
        "run.timeout",
        Value::Duration(1_000, 3_600_000),
        r#""30s""#,
        r#""1m""#,
        "how long it may make no progress, 1s to 1h",
    ),
    key(
        "run.cgroup",
        Value::Word(Words::Of(&["container", "broker"])),
        r#""container""#,
        r#""broker""#,
        "whose cgroup pays for it",
    ),
    key(
        "run.memory",
        Value::Size(MIB),
        "none",
        r#""256MiB""#,
        "memory.max of its cgroup, only with upcalld's own",
    ),
    key(
        "run.address_space",
        Value::Size(MIB),
        "none",
        r#""2GiB""#,
        "RLIMIT_AS",
    ),
    key(
        "run.without_user_namespace",
        Value::Flag,
        "false",
        "true",
        "also in a container that shares the host's user namespace",
    ),
    key(
        "run.trusted_container",
        Value::Flag,
        "false",
        "true",
        "also where its init could take over the host anyway",
    ),
    key(
        "store",
        Value::Table,
        "off",
        r#"{ max_size = "4GiB" }"#,
        "keep a copy of the core on the host",
    ),
    key(
        "store.max_size",
        Value::Size(4096),
        r#""32GiB""#,
        r#""4GiB""#,
        "bytes kept at most",
    ),
    key(
        "store.ignore_limit",
        Value::Flag,
        "false",
        "true",
        "also if the process's own core limit forbids it",
    ),
    key(
        "pass",
        Value::Table,
        "no rule matches",
        "{}",
        "give the upcall to what stood before us",
    ),
    key(
        "deny",
        Value::Table,
        "off",
        r#"{ reason = "batch jobs keep no cores" }"#,
        "refuse the upcall",
    ),
    required(
        "deny.reason",
        Value::Text,
        r#""batch jobs keep no cores""#,
        "why, for the record",
    ),
    key(
        "limit",
        Value::Table,
        "none",
        r#"{ rate = "10/min", concurrent = 2 }"#,
        "how much of this rule one container may have",
    ),
    key(
        "limit.rate",
        Value::Rate,
        "none",
        r#""10/min""#,
        "upcalls in a time; s, min, h, day",
    ),
    key(
        "limit.concurrent",
        Value::Count(1, 1024),
        "none",
        "2",
        "at once",
    ),
    key(
        "on_failure",
        Value::Word(Words::Of(&["store", "pass", "drop"])),
        r#""store""#,
        r#""pass""#,
        "what happens when `run` cannot be done",
    ),
];

/// The keys of `upcalld.toml`; a table comes before what is in it.
const SETTING_KEYS: &[Key] = &[
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
];

/// Keys of a rule that a later version will know.
const LATER: &[&str] = &[
    "match.key",
    "match.module",
    "match.umh",
    "run.join",
    "run.files",
    "store.compress",
    "store.level",
    "deliver",
    "file",
    "answer",
    "post",
];

/// All keys of one sort of file.
#[derive(Debug)]
pub struct Keys {
    /// Those of this version.
    pub known: &'static [Key],
    /// Those of a later version, refused as `not-yet`.
    pub later: &'static [&'static str],
}

/// What a `[[rule]]` may hold.
pub static RULES: Keys = Keys {
    known: RULE_KEYS,
    later: LATER,
};

/// What `upcalld.toml` may hold.
pub static SETTINGS: Keys = Keys {
    known: SETTING_KEYS,
    later: &[],
};

impl Keys {
    /// The entry with this path.
    pub fn find(&self, path: &str) -> Option<&'static Key> {
        self.known.iter().find(|key| key.path == path)
    }

    /// The words of this version directly below a table; the empty path is the table of everything.
    pub(crate) fn known_below(&self, table: &str) -> Vec<&'static str> {
        below(self.known.iter().map(|key| key.path), table).collect()
    }

    /// As [`Keys::known_below`], for the words of a later version.
    pub(crate) fn later_below(&self, table: &str) -> Vec<&'static str> {
        below(self.later.iter().copied(), table).collect()
    }
}

fn below<'a>(paths: impl Iterator<Item = &'a str>, table: &str) -> impl Iterator<Item = &'a str> {
    paths.filter_map(move |path| {
        let word = match table {
            "" => path,
            _ => path.strip_prefix(table)?.strip_prefix('.')?,
        };
        (!word.contains('.')).then_some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Field, Shape};

    #[test]
    fn every_field_of_match_has_a_key_of_its_type_and_every_key_a_field() {
        for field in Field::ALL {
            let path = format!("match.{}", field.key());
            let value = RULES
                .find(&path)
                .unwrap_or_else(|| panic!("{path} has no key"))
                .value;
            let wanted = match field.shape() {
                Shape::Presence => Value::Table,
                Shape::Numbers(most) => Value::Numbers(most),
                Shape::Globs => Value::Globs,
                Shape::Labels => Value::Labels,
                Shape::Runtimes => Value::Words(Words::Runtimes),
                Shape::UserNamespaces => Value::Words(Words::UserNamespaces),
                Shape::Signals => Value::Words(Words::Signals),
                Shape::Flag => Value::Flags,
            };
            assert_eq!(value, wanted, "{path}");
        }
        for key in RULE_KEYS.iter().filter(|key| key.value != Value::Table) {
            if let Some(word) = key.path.strip_prefix("match.") {
                assert!(
                    Field::ALL.iter().any(|f| f.key() == word),
                    "{word} is no field"
                );
            }
        }
    }

    #[test]
    fn tables_come_before_what_is_in_them() {
        for keys in [RULE_KEYS, SETTING_KEYS] {
            for (position, key) in keys.iter().enumerate() {
                if let Some((table, _)) = key.path.rsplit_once('.') {
                    let before = keys.iter().take(position).find(|k| k.path == table);
                    assert!(
                        before.is_some_and(|k| k.value == Value::Table),
                        "{}",
                        key.path
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_below_a_table() {
        assert_eq!(RULES.known_below("limit"), ["rate", "concurrent"]);
        assert!(RULES.known_below("").contains(&"match"));
        assert!(RULES.known_below("").iter().all(|word| !word.contains('.')));
        assert_eq!(RULES.later_below("match"), ["key", "module", "umh"]);
        assert_eq!(SETTINGS.later_below(""), [""; 0]);
    }
}
