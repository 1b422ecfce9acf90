//! The words that upcall-store is started with: `NAME=value` each, in any order.

use std::ffi::OsString;

use crate::copy::Format;

/// What they say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Words {
    /// `id`: the record's.
    pub(crate) id: String,
    /// `slot`: the launch's.
    pub(crate) slot: u8,
    /// `name`: of the copy; without it the file has none, and is there for the takers alone.
    pub(crate) name: Option<String>,
    /// `zstd`: its level; without it the core is kept as it is.
    pub(crate) format: Format,
    /// `max_size`: bytes of the core at most.
    pub(crate) max_size: u64,
    /// `reader`: the user who may read the copy, beside root.
    pub(crate) reader: Option<u32>,
    /// `tokens`: whether room is to be taken from 1 and 2.
    pub(crate) tokens: bool,
    /// `keep_free`: bytes that are to stay free on the file system.
    pub(crate) keep_free: u64,
}

impl Words {
    /// Reads them; `None` where one is missing, or is none that we know.
    pub(crate) fn parse(arguments: &[OsString]) -> Option<Self> {
        let mut words = Self {
            id: String::new(),
            slot: 0,
            name: None,
            format: Format::Plain,
            max_size: 0,
            reader: None,
            tokens: false,
            keep_free: 0,
        };
        let mut wanted = vec!["id", "slot", "max_size", "keep_free"];
        for word in arguments.iter().skip(1) {
            let (key, value) = word.to_str()?.split_once('=')?;
            match key {
                "id" => value.clone_into(&mut words.id),
                "slot" => words.slot = value.parse().ok()?,
                "name" => words.name = Some(value.to_owned()),
                "zstd" => words.format = Format::Zstd(value.parse().ok()?),
                "reader" => words.reader = Some(value.parse().ok()?),
                "tokens" => words.tokens = value == "1",
                "max_size" => words.max_size = value.parse().ok()?,
                "keep_free" => words.keep_free = value.parse().ok()?,
                _ => return None,
            }
            wanted.retain(|wanted| *wanted != key);
        }
        wanted.is_empty().then_some(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Option<Words> {
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        Words::parse(&words)
    }

    #[test]
    fn all_that_must_be_said_is_said_and_nothing_unknown() {
        let words = parse("upcall-store id=k3m9q0tz slot=1 max_size=5 keep_free=7 zstd=3").unwrap();
        assert_eq!((words.format, words.name), (Format::Zstd(3), None));
        assert_eq!(parse("upcall-store id=k3m9q0tz slot=1 max_size=5"), None);
        assert_eq!(
            parse("upcall-store id=a slot=1 max_size=5 keep_free=7 x=1"),
            None
        );
        assert_eq!(parse("upcall-store"), None);
    }
}
