//! What is wrong with a file, where, and what to do about it; shown as compilers show it.
//!
//! Nothing in a message or in a line of source reaches a terminal as a control character.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::text::printable;

mod code;
mod render;

pub use code::Code;

/// Whether the file can be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No: the last good policy stays.
    Error,
    /// Yes, and it does not do what was probably meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A file that was read.
#[derive(PartialEq, Eq)]
pub struct Source {
    path: Arc<Path>,
    text: Box<str>,
    /// The byte at which each line begins.
    lines: Vec<usize>,
}

impl Source {
    pub(crate) fn new(path: Arc<Path>, text: String) -> Arc<Self> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Arc::new(Self {
            path,
            lines: std::iter::once(0)
                .chain(ends.map(|(at, _)| at + 1))
                .collect(),
            text: text.into(),
        })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub(crate) fn position(&self, byte: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= byte);
        let start = line
            .checked_sub(1)
            .and_then(|before| self.lines.get(before))
            .copied();
        let before = self.text.get(start.unwrap_or(0)..byte).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may be a megabyte and is no help.
        f.debug_struct("Source")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A place in a file, and what to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub(crate) source: Arc<Source>,
    pub(crate) span: Range<usize>,
    pub(crate) text: String,
}

impl Label {
    pub(crate) fn new(source: &Arc<Source>, span: Range<usize>, text: impl Into<String>) -> Self {
        Self {
            source: Arc::clone(source),
            span,
            text: text.into(),
        }
    }

    /// The same place with other words.
    pub(crate) fn saying(&self, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..self.clone()
        }
    }

    /// The file.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The bytes in it.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// What is said about them; may be empty.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub(crate) severity: Severity,
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) file: Arc<Path>,
    pub(crate) primary: Option<Label>,
    pub(crate) secondary: Vec<Label>,
    pub(crate) note: Option<String>,
    pub(crate) help: Option<String>,
}

impl Diagnostic {
    /// A mistake at a place.
    pub(crate) fn at(code: Code, message: impl Into<String>, primary: Label) -> Self {
        Self {
            file: Arc::clone(&primary.source.path),
            primary: Some(primary),
            ..Self::in_file(code, message, Path::new("").into())
        }
    }

    /// A mistake about a file as a whole.
    pub(crate) fn in_file(code: Code, message: impl Into<String>, file: Arc<Path>) -> Self {
        Self {
            severity: code.severity(),
            code,
            message: message.into(),
            file,
            primary: None,
            secondary: Vec::new(),
            note: None,
            help: None,
        }
    }

    pub(crate) fn with(mut self, label: Label) -> Self {
        self.secondary.push(label);
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether the files can be used all the same.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Its kind, which never changes its word.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The file it is about.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line of its place, from 1; `None` if it is about the file as a whole.
    pub fn line(&self) -> Option<usize> {
        self.position().map(|(line, _)| line)
    }

    /// The column of its place, from 1, in characters.
    pub fn column(&self) -> Option<usize> {
        self.position().map(|(_, column)| column)
    }

    fn position(&self) -> Option<(usize, usize)> {
        let primary = self.primary.as_ref()?;
        Some(primary.source.position(primary.span.start))
    }

    /// As text of several lines, ending in a line end; `colour` adds escape sequences and nothing else.
    pub fn render(&self, colour: bool) -> String {
        render::render(self, colour)
    }

    /// The same as plain data, all texts fit for a terminal.
    pub fn plain(&self) -> PlainDiagnostic {
        let place = |label: &Label| {
            let (line, column) = label.source.position(label.span.start);
            PlainLabel {
                file: printable(&label.source.path.to_string_lossy()),
                line,
                column,
                text: printable(&label.text),
            }
        };
        PlainDiagnostic {
            severity: self.severity,
            code: self.code.as_str(),
            message: printable(&self.message),
            file: printable(&self.file.to_string_lossy()),
            line: self.line(),
            column: self.column(),
            label: self.primary.as_ref().map(|label| printable(&label.text)),
            also: self.secondary.iter().map(place).collect(),
            note: self.note.as_deref().map(printable),
            help: self.help.as_deref().map(printable),
        }
    }
}

/// A diagnostic for JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlainDiagnostic {
    /// `error` or `warning`.
    pub severity: Severity,
    /// [`Code::as_str`].
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The file.
    pub file: String,
    /// From 1; absent if the file as a whole is meant.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What is said about the place.
    pub label: Option<String>,
    /// Other places that belong to it.
    pub also: Vec<PlainLabel>,
    /// What else is to be known.
    pub note: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

/// A second place of a diagnostic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlainLabel {
    /// The file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is said about it.
    pub text: String,
}
