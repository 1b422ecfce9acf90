//! `upcallctl list`: the records, newest last.

use serde::Serialize;
use upcalld::store::record::Record;

use crate::cli::{Json, ListArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::look::Look;
use crate::newest::{Newest, newest};
use crate::output::{complain, print, print_json};
use crate::row::{self, Row};
use crate::table::{self, Cell, Column};
use crate::{format, status};

const COLUMNS: [Column; 9] = [
    column("ID", false, 0, false),
    column("WHEN", false, 0, false),
    column("KIND", false, 0, false),
    column("CONTAINER", false, 0, true),
    column("PROCESS", false, 3, true),
    column("WHAT", false, 0, true),
    column("RULE", false, 2, true),
    column("VERDICT", false, 0, true),
    column("HELD", true, 1, false),
];

/// A column of a table.
pub(crate) const fn column(name: &'static str, right: bool, goes: u8, cut: bool) -> Column {
    Column {
        name,
        right,
        goes,
        cut,
    }
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    records: &'a [Record],
}

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &ListArgs) -> Result<(), Failure> {
    let look = &context.look;
    let Newest { found, all } = newest(context, asked.number, asked.since, |record| {
        asked.filter.takes(&record).then_some(record)
    })?;
    match context.json {
        Some(Json::Document) => {
            return print_json(&Document {
                schema: "upcalld.records",
                version: 1,
                records: &found,
            });
        }
        Some(Json::Lines) => return found.iter().try_for_each(print_json),
        None => {}
    }
    if found.is_empty() {
        complain(&(nothing(context, all, asked) + "\n"));
        if look.terminal {
            return Ok(());
        }
    }
    print(&text(&found, look))
}

/// Why the list is empty, and what to do.
fn nothing(context: &Context, all: usize, asked: &ListArgs) -> String {
    if all == 0 {
        let hook = status::hook_word(context);
        return format!("no upcalls recorded yet; {hook}");
    }
    let records = format::count(all, "record");
    let without = match (asked.filter.is_empty(), asked.since) {
        (true, Some(_)) => "since then",
        _ => "like this",
    };
    format!("no upcall recorded {without}; in all there are {records} (upcallctl list)")
}

/// The table.
fn text(records: &[Record], look: &Look) -> String {
    let rows = records.iter().map(|record| {
        let row = Row::new(record, look);
        vec![
            row.id,
            when(record, look),
            row.kind,
            row.container,
            row.process,
            row.what,
            row.rule,
            row.verdict,
            row.held,
        ]
    });
    let rows: Vec<Vec<Cell>> = rows.collect();
    table::draw(&COLUMNS, &rows, look)
}

/// When, for a table.
pub(crate) fn when(record: &Record, look: &Look) -> Cell {
    let Some(time) = row::time(record).filter(|_| look.terminal) else {
        return Cell::new(&*record.time);
    };
    let ago = format::ago_short(time, look.now);
    if look.now.as_second() - time.as_second() >= 86_400 {
        return Cell {
            short: Some(ago),
            ..Cell::new(format::day(time, look.now, &look.zone))
        };
    }
    Cell {
        short: Some(ago.clone()),
        ..Cell::new(format!(
            "{}{ago:>9}",
            format::clock(time, look.now, &look.zone)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given;

    fn at(width: usize) -> String {
        let look = Look {
            width: Some(width),
            ..Look::given()
        };
        let text = text(&given::all(), &look);
        for line in text.lines() {
            assert!(table::length(line) <= width, "{width}: {line}");
        }
        text
    }

    #[test]
    fn a_wide_terminal_gets_everything() {
        insta::assert_snapshot!(text(&given::all(), &Look::given()));
    }

    #[test]
    fn a_terminal_of_80_columns_loses_what_is_least() {
        insta::assert_snapshot!(at(80));
    }

    #[test]
    fn terminals_of_other_widths() {
        insta::assert_snapshot!([130, 110, 100, 64].map(at).join("\n"));
    }

    #[test]
    fn of_keys_what_was_wanted_is_shown() {
        let keys = [given::name(), given::forged()];
        let (wide, pipe) = (Look::given(), Look::given_pipe());
        insta::assert_snapshot!([text(&keys, &wide), text(&keys, &pipe)].join("\n"));
    }

    #[test]
    fn a_pipe_gets_cells_without_spaces() {
        let text = text(&given::all(), &Look::given_pipe());
        for line in text.lines() {
            assert_eq!(line.split_whitespace().count(), COLUMNS.len(), "{line}");
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn colour_is_on_what_did_not_go_well() {
        let look = Look {
            colour: true,
            ..Look::given()
        };
        let text = text(&[given::shop(), given::storm(), given::missing()], &look);
        assert!(
            text.contains("\u{1b}[33mrefused: rate_limit\u{1b}[0m"),
            "{text}"
        );
        assert!(
            text.contains("\u{1b}[31mpartial: helper_missing\u{1b}[0m"),
            "{text}"
        );
        let plain = text.replace("\u{1b}[33m", "").replace("\u{1b}[31m", "");
        let plain = plain.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
        let look = Look::given();
        let expected = super::text(&[given::shop(), given::storm(), given::missing()], &look);
        assert_eq!(plain, expected, "colour changes no place");
    }
}
