//! Reading typed values out of a spanned document, a diagnostic for each that is not what its key wants.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Report;
use crate::diagnostic::Code;
use crate::keys::{self, Keys, MAX_LIST, MAX_TEXT};

/// A value and its place.
pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

/// A table whose keys are known to be known.
pub(super) struct Table<'a> {
    /// Its full name, as in `match.process`; empty for a whole rule or file.
    path: String,
    entries: &'a DeTable<'a>,
}

/// One entry of a table.
#[derive(Clone)]
pub(super) struct Item<'a> {
    /// The full name of its key.
    pub(super) name: String,
    pub(super) key: Range<usize>,
    pub(super) value: &'a Value<'a>,
}

impl<'a> Table<'a> {
    /// Takes a table and reports every key in it that does not belong there. Those in `apart` belong, though they
    /// are in no list: the caller has something to say about them.
    pub(super) fn open(
        report: &mut Report,
        path: &str,
        entries: &'a DeTable<'a>,
        keys: &Keys,
        apart: &[&str],
    ) -> Self {
        let table = Self {
            path: path.to_owned(),
            entries,
        };
        let known = keys.known_below(path);
        for key in entries.keys() {
            let word = key.get_ref().as_ref();
            if known.contains(&word) || apart.contains(&word) {
                continue;
            }
            let full = table.full(word);
            let message = format!("unknown key `{full}`");
            report.unknown_word(Code::UnknownKey, key.span(), message, word, &known);
        }
        table
    }

    /// The entry with this key.
    pub(super) fn item(&self, word: &str) -> Option<Item<'a>> {
        let (key, value) = self.entries.get_key_value(word)?;
        Some(Item {
            name: self.full(word),
            key: key.span(),
            value,
        })
    }

    /// All entries, by the bytes of their keys.
    pub(super) fn items(&self) -> impl Iterator<Item = (&'a str, Item<'a>)> {
        self.entries.iter().map(|(key, value)| {
            let word = key.get_ref().as_ref();
            let item = Item {
                name: self.full(word),
                key: key.span(),
                value,
            };
            (word, item)
        })
    }

    pub(super) fn full(&self, word: &str) -> String {
        if self.path.is_empty() {
            word.to_owned()
        } else {
            format!("{}.{word}", self.path)
        }
    }
}

impl<'a> Item<'a> {
    /// The table that it is.
    pub(super) fn table(&self, report: &mut Report) -> Option<&'a DeTable<'a>> {
        let table = self.value.get_ref().as_table();
        if table.is_none() {
            wrong_type(report, self, self.value, "a table");
        }
        table
    }

    /// The table that it is, with its keys checked against those that rules have.
    pub(super) fn rule_table(&self, report: &mut Report) -> Option<Table<'a>> {
        let entries = self.table(report)?;
        Some(Table::open(report, &self.name, entries, &keys::RULES, &[]))
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, report: &mut Report) -> Option<bool> {
        self.flag_of(report, self.value)
    }

    pub(super) fn flag_of(&self, report: &mut Report, value: &Value<'_>) -> Option<bool> {
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            wrong_type(report, self, value, "`true` or `false`");
        }
        flag
    }

    /// A text of at most [`MAX_TEXT`] bytes.
    pub(super) fn text(&self, report: &mut Report) -> Option<&'a str> {
        self.text_of(report, self.value)
    }

    pub(super) fn text_of<'v>(&self, report: &mut Report, value: &'v Value<'v>) -> Option<&'v str> {
        self.text_up_to(report, value, MAX_TEXT)
    }

    pub(super) fn text_up_to<'v>(
        &self,
        report: &mut Report,
        value: &'v Value<'v>,
        most: usize,
    ) -> Option<&'v str> {
        let Some(text) = value.get_ref().as_str() else {
            wrong_type(report, self, value, "a text in quotes");
            return None;
        };
        if text.len() > most {
            let message = format!("a text of `{}` is longer than {most} bytes", self.name);
            report.mistake(
                Code::BadRange,
                value.span(),
                message,
                format!("{} bytes", text.len()),
            );
            return None;
        }
        if text.contains('\0') {
            report.mistake(
                Code::NulByte,
                value.span(),
                format!("a text of `{}` holds a zero byte", self.name),
                "no text of the kernel or of a program can hold one",
            );
            return None;
        }
        Some(text)
    }

    /// A number of the file, whatever it may be good for.
    pub(super) fn integer_of(&self, report: &mut Report, value: &Value<'_>) -> Option<i128> {
        let Some(integer) = value.get_ref().as_integer() else {
            wrong_type(report, self, value, "a number");
            return None;
        };
        // TOML has 64 bits; what does not fit into 128 either is out of every range.
        Some(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
    }

    /// A number from `least` to `most`.
    pub(super) fn count(&self, report: &mut Report, least: u64, most: u64) -> Option<u64> {
        let number = self.integer_of(report, self.value)?;
        let count = u64::try_from(number)
            .ok()
            .filter(|n| (least..=most).contains(n));
        if count.is_none() {
            let message = format!("`{}` is a number from {least} to {most}", self.name);
            report.mistake(
                Code::BadRange,
                self.value.span(),
                message,
                "outside of that",
            );
        }
        count
    }

    /// One of these words.
    pub(super) fn word<T>(
        &self,
        report: &mut Report,
        what: &str,
        known: &[&str],
        find: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.word_of(report, self.value, what, known, find)
    }

    pub(super) fn word_of<T>(
        &self,
        report: &mut Report,
        value: &Value<'_>,
        what: &str,
        known: &[&str],
        find: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let word = self.text_of(report, value)?;
        let found = find(word);
        if found.is_none() {
            let message = format!("`{word}` is not {what}");
            report.unknown_word(Code::UnknownValue, value.span(), message, word, known);
        }
        found
    }

    /// One value or a list of 1 to [`MAX_LIST`]; `None` if one of them is wrong.
    pub(super) fn one_or_more<T>(
        &self,
        report: &mut Report,
        mut read: impl FnMut(&mut Report, &'a Value<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        match self.value.get_ref().as_array() {
            Some(_) => self.list(report, 1, MAX_LIST, read),
            None => read(report, self.value).map(|one| vec![one]),
        }
    }

    /// A list of `least` to `most` values; `None` if one of them is wrong, and all of them are looked at.
    pub(super) fn list<T>(
        &self,
        report: &mut Report,
        least: usize,
        most: usize,
        mut read: impl FnMut(&mut Report, &'a Value<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(list) = self.value.get_ref().as_array() else {
            wrong_type(report, self, self.value, "a list");
            return None;
        };
        if list.len() < least {
            let message = format!("the list `{}` is empty", self.name);
            let help = "an empty list would match nothing and start nothing; leave the key out";
            report.mistake_with_help(Code::BadRange, self.value.span(), message, help);
            return None;
        }
        if list.len() > most {
            let message = format!("the list `{}` has more than {most} values", self.name);
            let label = format!("{} values", list.len());
            report.mistake(Code::BadRange, self.value.span(), message, label);
            return None;
        }
        let values: Vec<_> = list.iter().map(|value| read(report, value)).collect();
        values.into_iter().collect()
    }
}

/// What TOML calls the type of a value.
pub(super) fn type_of(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(true) => "`true`",
        DeValue::Boolean(false) => "`false`",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

pub(super) fn wrong_type(report: &mut Report, item: &Item<'_>, value: &Value<'_>, wanted: &str) {
    let found = type_of(value);
    report.mistake(
        Code::WrongType,
        value.span(),
        format!("`{}` wants {wanted}", item.name),
        format!("this is {found}"),
    );
}

/// Something that a later version will know.
pub(super) fn not_yet(report: &mut Report, span: Range<usize>, what: &str) {
    report.mistake_with_help(
        Code::NotYet,
        span,
        format!("`{what}` is not in this version yet"),
        "remove it; nothing of it would be done",
    );
}

/// The place of some bytes of a text inside its value: exact where the value is written without escapes, else all
/// of it.
pub(super) fn place_in(
    report: &Report,
    value: &Value<'_>,
    text: &str,
    at: &Range<usize>,
) -> Range<usize> {
    let span = value.span();
    let written = report.source.text().get(span.clone()).unwrap_or_default();
    for quotes in ["\"\"\"", "'''", "\"", "'"] {
        let inner = written
            .strip_prefix(quotes)
            .and_then(|rest| rest.strip_suffix(quotes));
        if inner == Some(text) {
            let start = span.start + quotes.len();
            return start + at.start..start + at.end;
        }
    }
    span
}
