//! `upcallctl modules`: what each container made the kernel ask for, and got; from the records.

use std::collections::BTreeMap;

use serde::Serialize;
use upcalld::store::record::{Container, Module, Outcome, Record, Rule};

use crate::cli::{Json, ModulesArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::filter::Whose;
use crate::list::{column, when};
use crate::look::Look;
use crate::newest::newest;
use crate::output::{complain, print, print_json};
use crate::row::Row;
use crate::table::{self, Cell, Column};

mod suggest;

const COLUMNS: [Column; 7] = [
    column("CONTAINER", false, 0, true),
    column("ASKED FOR", false, 0, true),
    column("BY", false, 2, true),
    column("TIMES", true, 0, false),
    column("LAST", false, 3, false),
    column("VERDICT", false, 0, true),
    column("WHO CAN ASK FOR IT", false, 1, false),
];

/// The same asker, module and answer.
#[derive(Debug, Clone)]
struct Asked {
    /// How often.
    times: u64,
    /// The newest record of it.
    last: Record,
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    modules: Vec<Line<'a>>,
}

/// One of its lines.
#[derive(Serialize)]
struct Line<'a> {
    container: Option<&'a Container>,
    module: &'a Module,
    times: u64,
    /// Of the last of them: when, by whom, and what came of it.
    time: &'a str,
    record: &'a str,
    pid: Option<u32>,
    comm: Option<&'a str>,
    outcome: Outcome,
    reason: Option<&'a str>,
    actions: &'a [String],
    rule: Option<&'a Rule>,
    /// What modprobe ended with: 0 where it loaded it, or had; `null`: it was not started, or nobody knows.
    modprobe_exit_code: Option<u8>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &ModulesArgs) -> Result<(), Failure> {
    let whose = Whose {
        container: asked.container.clone(),
        ..Whose::default()
    };
    let found = newest(context, 0, asked.since, |record| {
        let tested = record.verdict.actions == ["self_test"];
        let meant = record.module.is_some() && !tested && whose.takes(&record);
        meant.then_some(record)
    })?;
    let all = together(found.found);
    if asked.suggest {
        return print(&suggest::rules(&all));
    }
    match context.json {
        Some(Json::Document) => {
            return print_json(&Document {
                schema: "upcalld.modules",
                version: 1,
                modules: all.iter().filter_map(Asked::line).collect(),
            });
        }
        Some(Json::Lines) => {
            let lines = all.iter().filter_map(Asked::line);
            return lines.into_iter().try_for_each(|line| print_json(&line));
        }
        None => {}
    }
    if all.is_empty() {
        complain("no request for a module recorded; kernel.modprobe: upcallctl status\n");
        if context.look.terminal {
            return Ok(());
        }
    }
    print(&text(&all, &context.look))
}

/// Those with the same asker, module and answer in one, oldest first by their newest.
fn together(records: Vec<Record>) -> Vec<Asked> {
    let mut all: BTreeMap<_, (usize, Asked)> = BTreeMap::new();
    for (place, record) in records.into_iter().enumerate() {
        let container = record.container.as_ref();
        let whose = container.map(|container| (container.runtime.clone(), container.id.clone()));
        let alias = record.module.as_ref().map(|module| module.alias.clone());
        let rule = record.verdict.rule.as_ref();
        let rule = rule.map(|rule| (rule.file.clone(), rule.line));
        let exit = exit_code(&record);
        let key = (
            (whose, record.process.user_namespace.clone(), alias),
            (record.outcome.as_str(), record.reason.clone(), rule, exit),
        );
        let count = record.count;
        let times = all.get(&key).map_or(0, |(_, asked)| asked.times);
        let asked = Asked {
            times: times.saturating_add(count),
            last: record,
        };
        all.insert(key, (place, asked));
    }
    let mut all: Vec<(usize, Asked)> = all.into_values().collect();
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, asked)| asked).collect()
}

fn exit_code(record: &Record) -> Option<u8> {
    record.actions.iter().find_map(|action| action.exit_code)
}

fn text(all: &[Asked], look: &Look) -> String {
    let rows: Vec<Vec<Cell>> = all.iter().map(|asked| asked.cells(look)).collect();
    table::draw(&COLUMNS, &rows, look)
}

impl Asked {
    fn line(&self) -> Option<Line<'_>> {
        let record = &self.last;
        Some(Line {
            container: record.container.as_ref(),
            module: record.module.as_ref()?,
            times: self.times,
            time: &record.time,
            record: &record.id,
            pid: record.process.pid,
            comm: record.process.comm.as_deref(),
            outcome: record.outcome,
            reason: record.reason.as_deref(),
            actions: &record.verdict.actions,
            rule: record.verdict.rule.as_ref(),
            modprobe_exit_code: exit_code(record),
        })
    }

    fn cells(&self, look: &Look) -> Vec<Cell> {
        let once = Record {
            count: 1,
            ..self.last.clone()
        };
        let row = Row::new(&once, look);
        let between = if look.terminal { " " } else { "," };
        let loaded = match exit_code(&self.last) {
            Some(0) => Some("loaded".to_owned()),
            Some(code) => Some(format!("not loaded ({code})").replace(' ', between)),
            None => None,
        };
        let rule = (row.rule.text != "-").then_some(row.rule.text);
        let parts = [Some(row.verdict.text), rule, loaded];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let who = match self
            .last
            .module
            .as_ref()
            .and_then(|m| m.who_can_ask.as_deref())
        {
            Some("any_user") => "any user",
            Some("any_user_namespace") => "root of a user namespace",
            Some("host_root") => "root of the host",
            _ => "?",
        };
        let who = if look.terminal {
            who.to_owned()
        } else {
            who.replace(' ', "_")
        };
        vec![
            row.container,
            row.what,
            row.process,
            Cell::new(self.times.to_string()),
            when(&self.last, look),
            Cell::new(parts.join(between)).painted(row.verdict.paint),
            Cell::new(who),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given;

    #[test]
    fn the_same_is_one_line_and_what_came_of_it_is_told_apart() {
        let all = together(given::modules());
        let of = |look: &Look| text(&all, look);
        insta::assert_snapshot!([of(&Look::given()), of(&Look::given_pipe())].join("\n"));
        insta::assert_snapshot!("suggested", suggest::rules(&all));
    }
}
