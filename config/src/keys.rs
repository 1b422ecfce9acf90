//! Every key that can be written, in one table: what checking accepts, what the schema says and what docs/rules.md
//! must explain all come from here.

mod containers;
mod of_keys;
mod rules;
mod settings;

use crate::capability;
use crate::facts::{Runtime, UserNamespace};
use crate::keytype::Caller;
use crate::upcall::{Kind, Signal};

/// Most rules in one policy.
pub const MAX_RULES: usize = 4096;
/// Most containers that the admin declares.
pub const MAX_CONTAINERS: usize = 256;
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
    /// [`Caller`].
    Callers,
    /// [`capability`].
    Capabilities,
    /// These.
    Of(&'static [&'static str]),
}

impl Words {
    /// The words, in documentation order.
    pub fn list(self) -> Vec<&'static str> {
        match self {
            Self::Kinds => Kind::ALL.map(Kind::as_str).to_vec(),
            Self::Capabilities => capability::words(),
            Self::Callers => Caller::ALL.map(Caller::as_str).to_vec(),
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

/// All keys of one sort of file.
#[derive(Debug)]
pub struct Keys {
    /// Those of this version.
    pub known: &'static [Key],
}

/// What a `[[rule]]` may hold.
pub static RULES: Keys = Keys {
    known: rules::KNOWN,
};

/// What a `[[container]]` may hold.
pub static CONTAINERS: Keys = Keys {
    known: containers::KNOWN,
};

/// What `upcalld.toml` may hold.
pub static SETTINGS: Keys = Keys {
    known: settings::KNOWN,
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
                Shape::Callers => Value::Words(Words::Callers),
                Shape::Flag => Value::Flags,
            };
            assert_eq!(value, wanted, "{path}");
        }
        for key in RULES.known.iter().filter(|key| key.value != Value::Table) {
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
        for keys in [RULES.known, SETTINGS.known] {
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
    }
}
