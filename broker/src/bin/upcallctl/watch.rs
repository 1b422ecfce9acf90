//! `upcallctl watch`: records and changes of hooks as they come.

use serde_json::Value;
use upcalld::hooks::watch::HookChange;
use upcalld::store::record::Record;

use crate::context::Context;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::format;
use crate::look::{Look, Paint};
use crate::output::{complain, print, print_json};
use crate::row::{self, Row};
use crate::table::{Cell, length, without_middle};

/// Widths of container, process, what, rule, verdict and held: nobody knows what will come.
const WIDTHS: [usize; 6] = [20, 16, 16, 14, 22, 7];

/// Runs the command.
pub(crate) fn run(context: &Context, filter: &Filter) -> Result<(), Failure> {
    let mut client = context.connect()?;
    client
        .watch()
        .map_err(|error| Failure::call(context, error))?;
    loop {
        let news = client
            .next()
            .map_err(|error| Failure::call(context, error))?;
        show(context, filter, &news)?;
    }
}

fn show(context: &Context, filter: &Filter, news: &Value) -> Result<(), Failure> {
    let look = &context.look;
    if let Some(lost) = news.get("lost") {
        complain(&format!(
            "note: {lost} were too fast for this reader; upcallctl list has them\n"
        ));
    } else if let Some(change) = news.get("hook") {
        let change: HookChange = parsed(change)?;
        if filter.is_empty() {
            return if context.json.is_some() {
                print_json(&change)
            } else {
                print(&change_text(&change, look))
            };
        }
    } else if let Some(record) = news.get("record") {
        let record: Record = parsed(record)?;
        if filter.takes(&record) {
            return if context.json.is_some() {
                print_json(&record)
            } else {
                print(&record_text(&record, look))
            };
        }
    }
    Ok(())
}

fn parsed<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| Failure::Call(error.into()))
}

fn record_text(record: &Record, look: &Look) -> String {
    let row = Row::new(record, look);
    let when = match row::time(record).filter(|_| look.terminal) {
        Some(time) => format::clock_exact(time, &look.zone),
        None => record.time.clone(),
    };
    let cells = [
        row.container,
        row.process,
        row.what,
        row.rule,
        row.verdict,
        row.held,
    ];
    let mut line = format!("{when}  {:6}", row.kind.text);
    let last = cells.len() - 1;
    for (place, (cell, width)) in cells.iter().zip(WIDTHS).enumerate() {
        line.push_str("  ");
        line += &padded(cell, width, place == last, look);
    }
    format!("{line}  {}\n", row.id.text)
}

fn padded(cell: &Cell, width: usize, right: bool, look: &Look) -> String {
    let text = if look.cut {
        without_middle(&cell.text, width, look.ellipsis())
    } else {
        cell.text.clone()
    };
    let padding = " ".repeat(width.saturating_sub(length(&text)));
    let text = look.paint(cell.paint, &text);
    if right {
        padding + &text
    } else {
        text + &padding
    }
}

fn change_text(change: &HookChange, look: &Look) -> String {
    let time = change.time.parse().ok().filter(|_| look.terminal);
    let when = time.map_or_else(
        || change.time.clone(),
        |time| format::clock_exact(time, &look.zone),
    );
    let hook = &change.hook;
    let (paint, text) = match (change.state.as_str(), &change.pattern) {
        ("foreign", Some(pattern)) => {
            let pattern = upcall_config::text::printable(pattern);
            (
                Paint::Bad,
                format!("{hook} is foreign: {pattern} (upcallctl status)"),
            )
        }
        ("ours", _) => (Paint::Good, format!("{hook} is ours again")),
        ("not_installed", _) => (Paint::Doubt, format!("{hook} is not installed any more")),
        (other, _) => (Paint::Plain, format!("{hook} is {other}")),
    };
    format!("{when}  {:6}  {}\n", "hook", look.paint(paint, &text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given;

    fn change(state: &str, pattern: Option<&str>) -> HookChange {
        HookChange {
            schema: "upcalld.hook".into(),
            version: 1,
            time: "2026-11-22T13:05:50.118Z".into(),
            hook: "core".into(),
            state: state.into(),
            pattern: pattern.map(str::to_owned),
        }
    }

    #[test]
    fn lines_as_they_come() {
        for (name, look) in [("terminal", Look::given()), ("pipe", Look::given_pipe())] {
            let mut text: String = given::all()
                .iter()
                .map(|record| record_text(record, &look))
                .collect();
            text += &change_text(
                &change("foreign", Some("@@/run/systemd/coredump-kernel")),
                &look,
            );
            text += &change_text(&change("ours", None), &look);
            text += &change_text(&change("not_installed", None), &look);
            insta::assert_snapshot!(name, text);
        }
    }
}
