//! The one way in which bytes that somebody else chose are shown to people.
//!
//! Tenants choose comm, exe, names and labels; shown raw they could move a terminal's cursor or forge a line of a
//! table. [`escape`] is reversible, pure ASCII, and the same in tables, JSON, the journal and diagnostics.
//! What an *admin* wrote in a rule file keeps its letters; [`printable`] takes out only what a terminal would act on.

use std::fmt;
use std::fmt::Write as _;

/// Bytes that print escaped: what is outside `0x20..=0x7e` as `\xNN`, a backslash as `\\`.
///
/// ```
/// use upcall_config::text::Escaped;
/// assert_eq!(Escaped(b"a\x1b[31m\\").to_string(), r"a\x1b[31m\\");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            write_byte(f, byte)?;
        }
        Ok(())
    }
}

fn write_byte(out: &mut impl fmt::Write, byte: u8) -> fmt::Result {
    match byte {
        b'\\' => out.write_str("\\\\"),
        0x20..=0x7e => out.write_char(char::from(byte)),
        _ => write!(out, "\\x{byte:02x}"),
    }
}

/// The bytes as escaped text; see [`Escaped`].
pub fn escape(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
}

/// As [`escape`], and a space becomes `\x20`: one cell of a table that a program splits at spaces.
pub fn escape_cell(bytes: &[u8]) -> String {
    escape(bytes).replace(' ', "\\x20")
}

/// The bytes that [`escape`] or [`escape_cell`] made this text from; `None` if neither can have made it.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match (byte, byte == b'\\') {
            (_, true) => match rest.next()? {
                b'\\' => bytes.push(b'\\'),
                b'x' => bytes.push(hex(rest.next()?)? << 4 | hex(rest.next()?)?),
                _ => return None,
            },
            (0x20..=0x7e, false) => bytes.push(byte),
            _ => return None,
        }
    }
    Some(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Text of a rule file or a path, fit for a terminal: characters that are not printed as themselves (control
/// characters, direction marks, invisible ones) as `\xNN`, one for each of their bytes; all others stay.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        push_printable(&mut out, c);
    }
    out
}

/// One character of [`printable`].
pub(crate) fn push_printable(out: &mut String, c: char) {
    if is_printed(c) {
        out.push(c);
    } else {
        let mut buffer = [0; 4];
        for byte in c.encode_utf8(&mut buffer).bytes() {
            // Writing to a String cannot fail.
            _ = write!(out, "\\x{byte:02x}");
        }
    }
}

fn is_printed(c: char) -> bool {
    // The standard library knows which characters Unicode calls unprintable, but says so only by escaping them.
    matches!(c, '\\' | '"' | '\'') || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_what_is_not_plain_ascii() {
        assert_eq!(escape(b"plain text ~"), "plain text ~");
        assert_eq!(escape(b"\x00\x1b\x7f\xff\n"), "\\x00\\x1b\\x7f\\xff\\x0a");
        assert_eq!(escape("é".as_bytes()), "\\xc3\\xa9");
        assert_eq!(escape(br"C:\x41"), r"C:\\x41");
        assert_eq!(escape_cell(b"a b"), r"a\x20b");
    }

    #[test]
    fn nothing_but_escaped_text_is_unescaped() {
        assert_eq!(unescape(r"\x1"), None);
        assert_eq!(unescape(r"\n"), None);
        assert_eq!(unescape("\u{1b}"), None);
        assert_eq!(unescape("é"), None);
    }

    #[test]
    fn an_admins_letters_stay_and_what_a_terminal_acts_on_goes() {
        assert_eq!(printable("für \"x\" \\ 'y'"), "für \"x\" \\ 'y'");
        assert_eq!(printable("a\u{1b}[2J\u{9b}b"), "a\\x1b[2J\\xc2\\x9bb");
        assert_eq!(
            printable("a\u{202e}b\u{200b}"),
            "a\\xe2\\x80\\xaeb\\xe2\\x80\\x8b"
        );
        assert_eq!(printable("tab\there"), "tab\\x09here");
    }

    proptest! {
        #[test]
        fn escaping_is_reversible_and_ascii(bytes: Vec<u8>) {
            let text = escape(&bytes);
            prop_assert!(text.bytes().all(|b| (0x20..=0x7e).contains(&b)));
            prop_assert_eq!(unescape(&text), Some(bytes.clone()));
            let cell = escape_cell(&bytes);
            prop_assert!(!cell.contains(' '));
            prop_assert_eq!(unescape(&cell), Some(bytes));
        }
    }
}
