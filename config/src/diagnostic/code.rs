//! The kinds of mistakes: stable words, so that people can search for them and programs can tell them apart.

use std::fmt;

use super::Severity;

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $word:literal, $severity:ident;)+) => {
        /// The kind of a mistake. Words never change and are never used for something else.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl Code {
            /// All codes, in documentation order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in `error[word]`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// How bad it is.
            pub fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)+ }
            }

            /// One line about it, for the documentation.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($meaning),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// the file is not TOML
    Syntax = "syntax", Error;
    /// no such key in this table
    UnknownKey = "unknown-key", Error;
    /// a key that is needed is not there
    MissingKey = "missing-key", Error;
    /// the value is of another type than the key wants
    WrongType = "wrong-type", Error;
    /// the key takes one of a few words, and this is none of them
    UnknownValue = "unknown-value", Error;
    /// nothing is filled in for this word in braces
    UnknownPlaceholder = "unknown-placeholder", Error;
    /// the rule matches and then does nothing
    NoAction = "no-action", Error;
    /// two actions that cannot both be done
    ConflictingActions = "conflicting-actions", Error;
    /// the key does not go with this kind of upcall
    WrongKind = "wrong-kind", Error;
    /// the key does not go with this `run.in`
    WrongPlace = "wrong-place", Error;
    /// not a size such as `"4GiB"` or a number of bytes
    BadSize = "bad-size", Error;
    /// not a time such as `"30s"`
    BadDuration = "bad-duration", Error;
    /// not a rate such as `"10/min"`
    BadRate = "bad-rate", Error;
    /// a number, a range or a length outside its limits
    BadRange = "bad-range", Error;
    /// not a usable pattern
    BadGlob = "bad-glob", Error;
    /// a program or directory is not named by an absolute path, or its path has placeholders
    RelativePath = "relative-path", Error;
    /// not a usable path of a core or of a socket
    BadPath = "bad-path", Error;
    /// a `host_program` needs libraries of the host, which are not there inside a container
    DynamicHostProgram = "dynamic-host-program", Error;
    /// a program of the host that a rule starts cannot be started
    MissingHostProgram = "missing-host-program", Warning;
    /// `run.memory` limits a cgroup of upcalld's own, so it needs `cgroup = "broker"`
    NeedsBrokerCgroup = "needs-broker-cgroup", Error;
    /// `run` wants exactly one of `command` and `host_program`
    CommandAndHostProgram = "command-and-host-program", Error;
    /// a `[[container]]` wants exactly one of `unit`, `cgroup` and `pid_file`
    AmbiguousContainer = "ambiguous-container", Error;
    /// not the name of a systemd service or scope
    BadUnit = "bad-unit", Error;
    /// two rules, or two containers, have the same name
    DuplicateName = "duplicate-name", Warning;
    /// an earlier rule takes every upcall that this one could match
    UnreachableRule = "unreachable-rule", Warning;
    /// a runtime that the rule names keeps these labels nowhere on disk, so they are unknown
    LabelUnknown = "label-unknown", Warning;
    /// somebody else than root could have written the file
    UntrustedFile = "untrusted-file", Error;
    /// the file is there and could not be read
    UnreadableFile = "unreadable-file", Error;
    /// a later version will know it, this one does not
    NotYet = "not-yet", Error;
    /// a text with a zero byte, which no program could be given
    NulByte = "nul-byte", Error;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_differ_and_every_code_has_a_meaning() {
        let mut words: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(
                !code.meaning().is_empty() && code.meaning() == code.meaning().trim(),
                "{code}"
            );
        }
    }
}
