//! How answers look: for a terminal of some width or for a program, with or without colour, in which time zone.

use std::io::IsTerminal;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::{Color, Global};

/// Everything that an answer's form depends on, so that tests can choose it.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent, and each is one question about the reader"
)]
pub(crate) struct Look {
    /// Whether a person reads it; a program gets everything, without spaces in cells.
    pub(crate) terminal: bool,
    /// Columns that may be used; `None`: all that are needed.
    pub(crate) width: Option<usize>,
    /// Whether ids may be cut.
    pub(crate) cut: bool,
    /// Whether there may be colours on standard output.
    pub(crate) colour: bool,
    /// Whether there may be other letters than ASCII.
    pub(crate) utf8: bool,
    /// What is taken for now.
    pub(crate) now: Timestamp,
    /// Where.
    pub(crate) zone: TimeZone,
}

/// What a colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Nothing in particular.
    Plain,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Nobody knows, or not quite.
    Doubt,
    /// A heading.
    Head,
}

impl Look {
    /// As standard output, the environment and the options say.
    pub(crate) fn new(global: &Global) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colour = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !set("NO_COLOR") && !is("TERM", "dumb"),
        };
        Self {
            terminal,
            width: if terminal && !global.no_trunc {
                width()
            } else {
                None
            },
            cut: terminal && !global.no_trunc,
            colour,
            utf8: utf8(),
            now: Timestamp::now(),
            zone: TimeZone::system(),
        }
    }

    /// Text in its colour, if there are colours.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Plain => return text.to_owned(),
            Paint::Good => "32",
            Paint::Bad => "31",
            Paint::Doubt => "33",
            Paint::Head => "1",
        };
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Yes, no or unknown, by the word that records use.
    pub(crate) fn mark(&self, result: &str) -> String {
        let (paint, sign) = match (result, self.utf8) {
            ("yes", true) => (Paint::Good, "✓"),
            ("yes", false) => (Paint::Good, "yes"),
            ("no", true) => (Paint::Bad, "✗"),
            ("no", false) => (Paint::Bad, "no "),
            (_, true) => (Paint::Doubt, "?"),
            (_, false) => (Paint::Doubt, "?  "),
        };
        self.paint(paint, sign)
    }

    /// How wide a mark is.
    pub(crate) fn mark_width(&self) -> usize {
        if self.utf8 { 1 } else { 3 }
    }

    /// What stands for something left out.
    pub(crate) fn ellipsis(&self) -> &'static str {
        if self.utf8 { "…" } else { ".." }
    }
}

fn set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

fn is(name: &str, value: &str) -> bool {
    std::env::var_os(name).is_some_and(|found| found == value)
}

/// Of the terminal; COLUMNS counts for more, as in other programs.
fn width() -> Option<usize> {
    let columns = std::env::var("COLUMNS").ok();
    let columns = columns.and_then(|columns| columns.parse().ok());
    columns
        .or_else(|| terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)))
        .filter(|width| *width > 0)
}

/// As setlocale(3) decides: the first of these that says anything.
fn utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.ends_with("utf-8") || locale.ends_with("utf8")
    })
}

#[cfg(test)]
impl Look {
    /// For tests: a wide terminal with UTF-8 and without colours, at 14:05:30 on a Sunday.
    pub(crate) fn given() -> Self {
        Self {
            terminal: true,
            width: None,
            cut: true,
            colour: false,
            utf8: true,
            now: "2026-11-22T13:05:30Z".parse().unwrap(),
            zone: TimeZone::posix("CET-1").unwrap(),
        }
    }

    /// For tests: a pipe.
    pub(crate) fn given_pipe() -> Self {
        Self {
            terminal: false,
            cut: false,
            ..Self::given()
        }
    }
}
