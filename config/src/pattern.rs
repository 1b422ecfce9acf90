//! Globs over bytes: `*` any bytes (also `/`), `?` one byte, `[abc]` `[a-z]` `[!a]` one byte of a set.
//!
//! Everything else stands for itself, also a backslash and braces: to match a `*` write `[*]`. A pattern always
//! covers the whole text. Text may be any bytes; a `?` is one of them, so a letter outside ASCII takes two or more.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use globset::{GlobBuilder, GlobMatcher};

/// One pattern. The plain shapes, which are nearly all that people write, need no automaton.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    text: Box<str>,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// No special character.
    Exact,
    /// `start*end`, each possibly empty; the byte at which the star is.
    Star(usize),
    /// `*middle*`
    Contains,
    /// All others.
    Glob(Box<GlobMatcher>),
}

/// Why a pattern cannot be used, for the `bad-glob` diagnostic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    /// `[` and no `]` after it.
    #[error("`[` is never closed; to match the character itself write `[[]`")]
    UnclosedSet,
    /// As in `[z-a]`.
    #[error("the range {0}-{1} is empty")]
    EmptyRange(char, char),
    /// A set is one byte, and this character is several.
    #[error(
        "`{0}` is not ASCII and a set stands for one byte; write `*` or one pattern per letter"
    )]
    WideSet(char),
    /// Whatever else the automaton's builder refuses, such as a pattern that is too big.
    #[error("{0}")]
    Other(String),
}

impl Pattern {
    /// Checks and prepares a pattern.
    pub(crate) fn new(text: &str) -> Result<Self, PatternError> {
        Ok(Self {
            form: form_of(text)?,
            text: text.into(),
        })
    }

    /// As it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it needs an automaton, which costs memory.
    pub(crate) fn is_costly(&self) -> bool {
        matches!(self.form, Form::Glob(_))
    }

    /// Whether the whole of `bytes` matches.
    pub(crate) fn matches(&self, bytes: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match &self.form {
            Form::Exact => text == bytes,
            Form::Star(at) => {
                let (start, end) = around(text, *at);
                bytes.len() >= start.len() + end.len()
                    && bytes.starts_with(start)
                    && bytes.ends_with(end)
            }
            Form::Contains => {
                let middle = text.get(1..text.len() - 1).unwrap_or_default();
                middle.is_empty() || bytes.windows(middle.len()).any(|window| window == middle)
            }
            // An automaton costs some hundred nanoseconds, and its fixed ends nearly always answer before.
            Form::Glob(glob) => {
                bytes.starts_with(fixed_start(text))
                    && bytes.ends_with(fixed_end(text))
                    && glob.is_match(OsStr::from_bytes(bytes))
            }
        }
    }

    /// Whether every text that matches `self` provably matches `other`; `false` also means "cannot tell".
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        if self.text == other.text {
            return true;
        }
        let (mine, theirs) = (self.text.as_bytes(), other.text.as_bytes());
        match (&self.form, &other.form) {
            (Form::Exact, _) => other.matches(mine),
            // What stands before the first special character is fixed, and so is what stands after the last; the
            // two do not overlap, because there is one.
            (_, Form::Star(at)) => {
                let (start, end) = around(theirs, *at);
                fixed_start(mine).starts_with(start) && fixed_end(mine).ends_with(end)
            }
            _ => false,
        }
    }
}

fn form_of(text: &str) -> Result<Form, PatternError> {
    let bytes = text.as_bytes();
    let special = bytes.iter().filter(|b| is_special(**b)).count();
    Ok(match (special, bytes) {
        (0, _) => Form::Exact,
        (1, _) if let Some(at) = bytes.iter().position(|b| *b == b'*') => Form::Star(at),
        (2, [b'*', .., b'*']) => Form::Contains,
        // A lone `]` is an ordinary character and nothing else is special in such a text.
        _ if bytes.iter().all(|b| !is_opening(*b)) => Form::Exact,
        _ => Form::Glob(Box::new(
            GlobBuilder::new(&plain_glob(text)?)
                .literal_separator(false)
                .backslash_escape(false)
                .build()
                .map_err(|error| PatternError::Other(error.kind().to_string()))?
                .compile_matcher(),
        )),
    })
}

/// The same pattern for globset, without what it knows beyond our three signs: `**` between slashes and braces.
fn plain_glob(text: &str) -> Result<String, PatternError> {
    let mut out = String::with_capacity(text.len() + 8);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => {
                while chars.next_if_eq(&'*').is_some() {}
                out.push('*');
            }
            '{' | '}' => out.extend(['[', c, ']']),
            '[' => copy_set(&mut chars, &mut out)?,
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn copy_set(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    out: &mut String,
) -> Result<(), PatternError> {
    out.push('[');
    out.extend(chars.next_if(|c| matches!(c, '!' | '^')));
    let mut members = String::new();
    loop {
        match chars.next() {
            // As the first member `]` is itself.
            Some(']') if !members.is_empty() => break,
            Some(c) if c.is_ascii() => members.push(c),
            Some(c) => return Err(PatternError::WideSet(c)),
            None => return Err(PatternError::UnclosedSet),
        }
    }
    for window in members.as_bytes().windows(3) {
        if let [low, b'-', high] = window
            && low > high
        {
            return Err(PatternError::EmptyRange(
                char::from(*low),
                char::from(*high),
            ));
        }
    }
    out.push_str(&members);
    out.push(']');
    Ok(())
}

fn is_opening(byte: u8) -> bool {
    matches!(byte, b'*' | b'?' | b'[')
}

fn is_special(byte: u8) -> bool {
    is_opening(byte) || byte == b']'
}

fn around(text: &[u8], star: usize) -> (&[u8], &[u8]) {
    let end = text.get(star + 1..).unwrap_or_default();
    (text.get(..star).unwrap_or_default(), end)
}

fn fixed_start(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .position(|b| is_special(*b))
        .unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn fixed_end(text: &[u8]) -> &[u8] {
    let start = text
        .iter()
        .rposition(|b| is_special(*b))
        .map_or(0, |i| i + 1);
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &[u8]) -> bool {
        Pattern::new(pattern).unwrap().matches(text)
    }

    #[test]
    fn the_three_signs() {
        assert!(matches("web", b"web"));
        assert!(!matches("web", b"web-1"));
        assert!(matches("web-*", b"web-"));
        assert!(matches("web-*", b"web-a/b"));
        assert!(!matches("web-*", b"xweb-a"));
        assert!(matches("*-web", b"a-web"));
        assert!(!matches("*-web", b"a-web2"));
        assert!(matches("*", b""));
        assert!(matches("w*b", b"web"));
        assert!(!matches("w*b", b"we"));
        assert!(matches("aba*aba", b"abaaba"));
        assert!(!matches("aba*aba", b"ababa"));
        assert!(matches("*web*", b"my-web-1"));
        assert!(matches("*web*", b"web"));
        assert!(!matches("*web*", b"we"));
        assert!(matches("**", b""));
        assert!(matches("/usr/*/python3.?", b"/usr/local/bin/python3.9"));
        assert!(!matches("/usr/*/python3.?", b"/usr/local/bin/python3.11"));
        assert!(matches("nfsv[34]", b"nfsv4"));
        assert!(!matches("nfsv[!34]", b"nfsv4"));
        assert!(!matches("nfsv[^34]", b"nfsv4"));
        assert!(matches("a[0-9]b*", b"a5b"));
    }

    #[test]
    fn the_whole_text_is_covered_also_over_line_ends() {
        assert!(matches("a*b?c", b"a\n\nb\nc"));
        assert!(!matches("a?c", b"xabc"));
        assert!(!matches("a[b]", b"ab\n"));
    }

    #[test]
    fn bytes_need_not_be_utf8() {
        assert!(matches("a*z?", b"a\xff\xfez\x80"));
        assert!(matches("a*", b"a\xff"));
        assert!(matches("*\u{e9}", b"\xff\xc3\xa9"));
        assert!(matches("?", b"\xff"));
        assert!(matches("??", "é".as_bytes()));
        assert!(!matches("?", "é".as_bytes()));
        assert!(matches("[!a]?", "é".as_bytes()));
    }

    #[test]
    fn what_other_globs_make_special_is_ordinary() {
        assert!(matches("{a,b}*x?", b"{a,b}x1"));
        assert!(!matches("{a,b}*x?", b"ax1"));
        assert!(matches(r"\*", br"\anything"));
        assert!(matches("[*]", b"*"));
        assert!(!matches("[*]", b"x"));
        assert!(matches("a]", b"a]"));
        assert!(matches("[]]x", b"]x"));
        // `**/` would also match nothing at all
        assert!(!matches("**/x", b"x"));
        assert!(matches("**/x", b"a/b/x"));
        assert!(!matches("a/**/b", b"a/b"));
        assert!(matches("a/**/b", b"a/x/y/b"));
    }

    #[test]
    fn mistakes() {
        let error = |text| Pattern::new(text).unwrap_err();
        assert_eq!(error("a[b"), PatternError::UnclosedSet);
        assert_eq!(error("[]"), PatternError::UnclosedSet);
        assert_eq!(error("[z-a]"), PatternError::EmptyRange('z', 'a'));
        assert_eq!(error("[é]"), PatternError::WideSet('é'));
        assert!(Pattern::new(&"[a]".repeat(1000)).is_ok());
    }

    #[test]
    fn within_is_said_only_where_it_is_certain() {
        let within = |a: &str, b: &str| {
            Pattern::new(a)
                .unwrap()
                .is_within(&Pattern::new(b).unwrap())
        };
        for (a, b) in [
            ("web", "web"),
            ("web", "w*"),
            ("web-1", "web-?"),
            ("web-*", "web*"),
            ("web-?x*", "web-*"),
            ("*-web", "*web"),
            ("web-?-1", "web*1"),
            ("*web*", "*"),
            ("a[b]*", "a[b]*"),
            ("a?", "*"),
        ] {
            assert!(within(a, b), "{a} is within {b}");
        }
        for (a, b) in [
            ("web*", "web"),
            ("w*", "web*"),
            ("*", "w*"),
            ("web-?", "web-1"),
            ("*web", "*-web"),
            ("[w]eb", "w*"),
            ("a*", "a*a"),
            ("aa*", "a*a"),
        ] {
            assert!(!within(a, b), "{a} is not provably within {b}");
        }
    }

    /// The slow and obvious way, without sets.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                (0..=text.len()).any(|skip| model(rest, text.get(skip..).unwrap()))
            }
            ([b'?', rest @ ..], [_, tail @ ..]) => model(rest, tail),
            ([p, rest @ ..], [t, tail @ ..]) => p == t && model(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn same_as_the_model(pattern in "[ab*?/{},\\\\]{0,7}", text in "[ab/{},\\\\]{0,7}") {
            prop_assert_eq!(matches(&pattern, text.as_bytes()), model(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn within_never_lies(a in "[ab*?]{0,6}", b in "[ab*?]{0,6}", text in "[ab]{0,5}") {
            let (inner, outer) = (Pattern::new(&a).unwrap(), Pattern::new(&b).unwrap());
            if inner.is_within(&outer) && inner.matches(text.as_bytes()) {
                prop_assert!(outer.matches(text.as_bytes()));
            }
        }
    }
}
