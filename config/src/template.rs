//! Placeholders in a helper's argv: found once, when rules are loaded; filled in for every upcall.
//!
//! A word stays one word, whatever is filled in: there is no shell and nothing is split.

use std::ops::Range;

use crate::upcall::Kind;

/// Longest word after filling in, in bytes; what is beyond is cut. Tenants choose some of the texts.
pub const MAX_WORD: usize = 4096;

/// What a word of argv can have filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Placeholder::meaning says it")]
pub enum Placeholder {
    Pid,
    Tid,
    Uid,
    Gid,
    Signal,
    Exe,
    Comm,
    Time,
    Container,
    Record,
    Key,
    Type,
    Description,
    Callout,
}

impl Placeholder {
    /// All of them, in documentation order.
    pub const ALL: [Self; 14] = [
        Self::Pid,
        Self::Tid,
        Self::Uid,
        Self::Gid,
        Self::Signal,
        Self::Exe,
        Self::Comm,
        Self::Time,
        Self::Container,
        Self::Record,
        Self::Key,
        Self::Type,
        Self::Description,
        Self::Callout,
    ];

    /// The word between the braces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Tid => "tid",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Signal => "signal",
            Self::Exe => "exe",
            Self::Comm => "comm",
            Self::Time => "time",
            Self::Container => "container",
            Self::Record => "record",
            Self::Key => "key",
            Self::Type => "type",
            Self::Description => "description",
            Self::Callout => "callout",
        }
    }

    /// What is filled in, for the documentation.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Pid => "the process's id; inside a container as the container numbers it",
            Self::Tid => {
                "the id of the thread that crashed or asked; inside a container as the container numbers it"
            }
            Self::Uid => "its real user id; inside a container as the container sees it",
            Self::Gid => "its real group id; inside a container as the container sees it",
            Self::Signal => "the signal's name without `SIG`, such as `SEGV`",
            Self::Exe => "the path of its program, the tenant's own words",
            Self::Comm => "the thread's name, at most 15 bytes, the tenant's own words",
            Self::Time => "when it crashed, in seconds since 1970",
            Self::Container => "the container's name, else its id; `-` for a process in none",
            Self::Record => "the id of the upcall's record",
            Self::Key => "the key's serial number",
            Self::Type => "the key's type",
            Self::Description => {
                "the key's description, the tenant's own words where the caller is a user"
            }
            Self::Callout => "the key's callout information, likewise",
        }
    }

    /// Those that an upcall of this kind can fill in.
    pub fn for_kind(kind: Kind) -> impl Iterator<Item = Self> {
        let of_keys = [Self::Key, Self::Type, Self::Description, Self::Callout];
        let of_cores = [Self::Signal, Self::Time];
        Self::ALL.into_iter().filter(move |word| match kind {
            Kind::Core => !of_keys.contains(word),
            Kind::Key => !of_cores.contains(word),
            // Refused as a whole by this version.
            Kind::Module | Kind::Umh => false,
        })
    }
}

/// One word of argv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Text(Box<str>),
    Fill(Placeholder),
}

/// A mistake in a word, with its bytes in the word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateError {
    pub(crate) at: Range<usize>,
    pub(crate) what: TemplateMistake,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TemplateMistake {
    /// `{word}` with a word that is none.
    Unknown(String),
    /// `{` without `}`, or a lone `}`.
    Brace,
}

impl Template {
    /// Splits a word at its placeholders; `{{` and `}}` are braces. All mistakes of the word are returned.
    pub(crate) fn parse(word: &str, kind: Kind) -> Result<Self, Vec<TemplateError>> {
        let mut segments = Vec::new();
        let mut mistakes = Vec::new();
        let mut text = String::new();
        let mut chars = word.char_indices().peekable();
        while let Some((start, c)) = chars.next() {
            match c {
                '{' | '}' if chars.next_if(|(_, next)| *next == c).is_some() => text.push(c),
                '}' => mistakes.push(TemplateError::brace(start..start + 1)),
                '{' => {
                    let rest = word.get(start + 1..).unwrap_or_default();
                    let Some(length) = rest
                        .find(['{', '}'])
                        .filter(|end| rest.as_bytes().get(*end) == Some(&b'}'))
                    else {
                        mistakes.push(TemplateError::brace(start..start + 1));
                        continue;
                    };
                    let name = rest.get(..length).unwrap_or_default();
                    let end = start + 1 + length + 1;
                    while chars.next_if(|(at, _)| *at < end).is_some() {}
                    match Placeholder::for_kind(kind).find(|p| p.as_str() == name) {
                        Some(placeholder) => {
                            push_text(&mut segments, &mut text);
                            segments.push(Segment::Fill(placeholder));
                        }
                        None => mistakes.push(TemplateError {
                            at: start..end,
                            what: TemplateMistake::Unknown(name.to_owned()),
                        }),
                    }
                }
                _ => text.push(c),
            }
        }
        push_text(&mut segments, &mut text);
        if mistakes.is_empty() {
            Ok(Self { segments })
        } else {
            Err(mistakes)
        }
    }

    /// The word, if nothing is filled in.
    pub(crate) fn fixed(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [] => Some(""),
            [Segment::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The word with everything filled in: no NUL, at most [`MAX_WORD`] bytes.
    pub(crate) fn fill(&self, mut value: impl FnMut(Placeholder, &mut Vec<u8>)) -> Vec<u8> {
        let mut word = Vec::new();
        for segment in &self.segments {
            match segment {
                Segment::Text(text) => word.extend_from_slice(text.as_bytes()),
                Segment::Fill(placeholder) => value(*placeholder, &mut word),
            }
        }
        // execve(2) ends a word at a NUL. None can come from the kernel; a broken state file is another matter.
        word.retain(|byte| *byte != 0);
        word.truncate(MAX_WORD);
        word
    }
}

impl TemplateError {
    fn brace(at: Range<usize>) -> Self {
        Self {
            at,
            what: TemplateMistake::Brace,
        }
    }
}

fn push_text(segments: &mut Vec<Segment>, text: &mut String) {
    if !text.is_empty() {
        segments.push(Segment::Text(std::mem::take(text).into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(word: &str) -> String {
        let template = Template::parse(word, Kind::Core).unwrap();
        let bytes = template.fill(|placeholder, out| {
            out.extend_from_slice(placeholder.as_str().to_uppercase().as_bytes());
        });
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn placeholders_and_braces() {
        assert_eq!(filled("--pid={pid}.{tid}"), "--pid=PID.TID");
        assert_eq!(filled("{{pid}}"), "{pid}");
        assert_eq!(filled("{{{pid}}}"), "{PID}");
        assert_eq!(filled("{{}}"), "{}");
        assert_eq!(filled(""), "");
        assert_eq!(filled("é{uid}é"), "éUIDé");
        for placeholder in Placeholder::for_kind(Kind::Core) {
            let word = format!("{{{}}}", placeholder.as_str());
            assert_eq!(filled(&word), placeholder.as_str().to_uppercase());
        }
    }

    #[test]
    fn every_mistake_is_found_at_its_place() {
        let mistakes = Template::parse("a{pdi}b{{{x y}c}d{pid", Kind::Core).unwrap_err();
        let places: Vec<_> = mistakes
            .iter()
            .map(|m| (m.at.clone(), m.what.clone()))
            .collect();
        assert_eq!(
            places,
            [
                (1..6, TemplateMistake::Unknown("pdi".into())),
                (9..14, TemplateMistake::Unknown("x y".into())),
                (15..16, TemplateMistake::Brace),
                (17..18, TemplateMistake::Brace),
            ]
        );
        assert!(Template::parse("{key}", Kind::Core).is_err());
        assert!(Template::parse("{signal}", Kind::Key).is_err());
        assert!(Template::parse("{key}{pid}{callout}", Kind::Key).is_ok());
    }

    #[test]
    fn only_a_word_without_placeholders_is_fixed() {
        assert_eq!(
            Template::parse("/a", Kind::Core).unwrap().fixed(),
            Some("/a")
        );
        assert_eq!(Template::parse("/{pid}", Kind::Core).unwrap().fixed(), None);
    }

    #[test]
    fn what_is_filled_in_is_bounded_and_without_nul() {
        let template = Template::parse("{exe}", Kind::Core).unwrap();
        let long = template.fill(|_, out| out.extend(vec![b'x'; 2 * MAX_WORD]));
        assert_eq!(long.len(), MAX_WORD);
        assert_eq!(
            template.fill(|_, out| out.extend_from_slice(b"a\0b")),
            b"ab"
        );
    }
}
