//! How far a large core has come: one line on the terminal of standard error, and nothing anywhere else.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::format;
use crate::look::Look;

/// Less than this needs no bar.
const WORTH: u64 = 64 << 20;

/// How often it is drawn.
const EVERY: Duration = Duration::from_millis(100);

/// How long the bar is.
const CELLS: u64 = 20;

/// A bar that is drawn over itself and wiped when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    all: u64,
    utf8: bool,
    drawn: Option<Instant>,
    shown: bool,
}

impl Progress {
    /// One for so many bytes; 0 is "nobody knows", and draws none.
    pub(crate) fn new(what: &'static str, all: u64, look: &Look) -> Self {
        Self {
            what,
            all,
            utf8: look.utf8,
            drawn: None,
            shown: all >= WORTH && std::io::stderr().is_terminal(),
        }
    }

    /// So many bytes are done.
    pub(crate) fn at(&mut self, done: u64) {
        if !self.shown || self.drawn.is_some_and(|drawn| drawn.elapsed() < EVERY) {
            return;
        }
        self.drawn = Some(Instant::now());
        let text = line(self.what, done, self.all, self.utf8);
        drop(write!(std::io::stderr().lock(), "\r{text}\u{1b}[K"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            drop(write!(std::io::stderr().lock(), "\r\u{1b}[K"));
        }
    }
}

/// `unpacking   ████░░ 251 of 412 MiB`.
fn line(what: &str, done: u64, all: u64, utf8: bool) -> String {
    let (full, empty) = if utf8 { ("█", "░") } else { ("#", ".") };
    let part = u128::from(done.min(all)) * u128::from(CELLS) / u128::from(all.max(1));
    let part = usize::try_from(part).unwrap_or(0);
    let rest = usize::try_from(CELLS).unwrap_or(0).saturating_sub(part);
    let bar = [full.repeat(part), empty.repeat(rest)].concat();
    let all = format::size(all);
    let done = format::size(done);
    let unit = |text: &str| text.split(' ').next_back().map(str::to_owned);
    let done = match done.split_once(' ') {
        Some((number, _)) if unit(&done) == unit(&all) => number.to_owned(),
        _ => done,
    };
    format!("{what:<12}{bar} {done} of {all}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_its_figures() {
        assert_eq!(
            line("unpacking", 263_192_576, 432_013_312, true),
            "unpacking   ████████████░░░░░░░░ 251 of 412 MiB"
        );
        assert_eq!(
            line("unpacking", 0, 3 << 30, false),
            "unpacking   .................... 0 B of 3.0 GiB"
        );
        assert!(line("x", u64::MAX, u64::MAX, false).contains(&"#".repeat(20)));
    }
}
