//! `cores list`: crashes, and what became of their cores.

use serde::Serialize;
use upcalld::store::record::{Container, Record};

use super::args::ListArgs;
use super::state::{self, State, Word};
use super::stored;
use crate::cli::Json;
use crate::context::Context;
use crate::failure::Failure;
use crate::list::{column, when};
use crate::look::Look;
use crate::newest::{Newest, newest};
use crate::output::{complain, print, print_json};
use crate::row;
use crate::table::{self, Cell, Column};

const COLUMNS: [Column; 7] = [
    column("ID", false, 0, false),
    column("WHEN", false, 0, false),
    column("CONTAINER", false, 0, true),
    column("EXE", false, 0, true),
    column("SIGNAL", false, 1, false),
    column("SIZE", true, 0, false),
    column("STATE", false, 0, true),
];

/// The JSON document.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Document {
    /// Always `upcalld.cores`.
    schema: &'static str,
    /// Always 1.
    version: u32,
    /// Oldest first.
    cores: Vec<Core>,
}

/// One crash and its core.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Core {
    /// The record's.
    id: String,
    /// When the kernel asked: RFC 3339, UTC.
    time: String,
    /// How many crashes this stands for; over 1 for refusals by rate.
    count: u64,
    /// The registered container it lived in, as in a record.
    #[cfg_attr(test, schemars(schema_with = "tests::container"))]
    container: Option<Container>,
    /// On the host.
    pid: Option<u32>,
    /// The thread's name, escaped.
    comm: Option<String>,
    /// The program, escaped.
    exe: Option<String>,
    /// The signal's name.
    signal: Option<String>,
    /// What became of it.
    state: Word,
    /// Why, where it was not simply kept: a reason of the record's.
    reason: Option<String>,
    /// The same for people.
    message: Option<String>,
    /// Where it is, if it is there and the asker may look.
    path: Option<String>,
    /// Bytes of the core, as far as somebody read it.
    size_bytes: Option<u64>,
    /// Bytes on disk.
    stored_bytes: Option<u64>,
}

/// A record and what became of its core.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) state: State,
    /// Where it is, and its bytes on disk.
    pub(super) file: Option<(std::path::PathBuf, u64)>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &ListArgs) -> Result<(), Failure> {
    let look = &context.look;
    let is = |core: &Found| asked.is.is_none_or(|word| core.state.word == word);
    let Newest { found, .. } = newest(context, asked.number, asked.since, |record| {
        let crash = is_crash(&record) && asked.whose.takes(&record);
        crash.then(|| Found::of(context, record)).filter(is)
    })?;
    match context.json {
        Some(Json::Document) => {
            return print_json(&Document {
                schema: "upcalld.cores",
                version: 1,
                cores: found.into_iter().map(Core::from).collect(),
            });
        }
        Some(Json::Lines) => {
            let mut cores = found.into_iter().map(Core::from);
            return cores.try_for_each(|core| print_json(&core));
        }
        None => {}
    }
    if found.is_empty() {
        let all = context.typed("cores -n 0");
        complain(&format!("no crash recorded like this ({all} lists all)\n"));
        if look.terminal {
            return Ok(());
        }
    }
    print(&text(&found, look))
}

/// Whether a record is of a crash, and not one of a self-test.
pub(super) fn is_crash(record: &Record) -> bool {
    record.kind == "core" && record.verdict.actions != ["self_test"]
}

impl Found {
    /// Looks for a record's core.
    pub(super) fn of(context: &Context, record: Record) -> Self {
        // Who is not root cannot look, and believes the record.
        let file = stored::find(&context.state, &record.id);
        let there = file.as_ref().ok().map(Option::is_some);
        Self {
            state: State::of(&record, there),
            file: file.ok().flatten(),
            record,
        }
    }
}

impl From<Found> for Core {
    fn from(found: Found) -> Self {
        let Found {
            record,
            state,
            file,
        } = found;
        let stored = state::store(&record).and_then(|store| store.stored_bytes);
        Self {
            size_bytes: row::size(&record),
            stored_bytes: file.as_ref().map(|(_, bytes)| *bytes).or(stored),
            path: file.map(|(path, _)| path.display().to_string()),
            id: record.id,
            time: record.time,
            count: record.count,
            container: record.container,
            pid: record.process.pid,
            comm: record.process.comm,
            exe: record.process.exe,
            signal: record.core.and_then(|core| core.signal),
            state: state.word,
            reason: state.reason,
            message: state.message,
        }
    }
}

/// The table.
fn text(found: &[Found], look: &Look) -> String {
    let rows = found.iter().map(|core| {
        let Found { record, state, .. } = core;
        let signal = record.core.as_ref().and_then(|core| core.signal.clone());
        let size = row::size(record).map(crate::format::size);
        let state_cell = if look.terminal {
            state.text(record)
        } else {
            state.cell()
        };
        vec![
            Cell::new(&*record.id),
            when(record, look),
            Cell::new(row::container(record, look)),
            Cell::new(row::theirs(
                record.process.exe.as_deref().unwrap_or("?"),
                look,
            )),
            Cell::new(signal.unwrap_or_else(|| "?".to_owned())),
            Cell::new(size.map_or_else(|| "-".to_owned(), |size| row::ours(&size, look))),
            Cell::new(state_cell).painted(state.paint()),
        ]
    });
    let rows: Vec<Vec<Cell>> = rows.collect();
    table::draw(&COLUMNS, &rows, look)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::given;

    /// That of the record's schema.
    pub(super) fn container(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let container = "record.schema.json#/$defs/Container";
        schemars::json_schema!({ "anyOf": [{ "$ref": container }, { "type": "null" }] })
    }

    fn all() -> Vec<Found> {
        let found = given::all().into_iter().map(|record| Found {
            state: State::of(&record, None),
            file: None,
            record,
        });
        found.collect()
    }

    #[test]
    fn a_wide_terminal_a_narrow_one_and_a_pipe() {
        let narrow = Look {
            width: Some(80),
            ..Look::given()
        };
        let looks = [Look::given(), narrow, Look::given_pipe()];
        let texts = looks.map(|look| text(&all(), &look));
        assert!(texts[1].lines().all(|line| table::length(line) <= 80));
        for line in texts[2].lines() {
            assert_eq!(line.split_whitespace().count(), COLUMNS.len(), "{line}");
        }
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn the_schema_in_docs_is_current() {
        let settings = schemars::generate::SchemaSettings::draft2020_12();
        let schema = settings.into_generator().into_root_schema_for::<Document>();
        let mut schema = schema.to_value();
        schema["title"] = json!("upcalld: cores");
        schema["description"] = json!(
            "What upcallctl cores list --json prints; with --json=lines one of `cores` a line. Fields and \
             words may be added within a version, and readers ignore what they do not know. Text that a \
             tenant chose is escaped."
        );
        schema["properties"]["schema"]["const"] = json!("upcalld.cores");
        schema["properties"]["version"]["const"] = json!(1);
        let properties = schema["$defs"]["Core"]["properties"].as_object().unwrap();
        let required: Vec<String> = properties.keys().cloned().collect();
        schema["$defs"]["Core"]["required"] = json!(required);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cores.schema.json");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == text,
            "{} is not current; UPDATE_DOCS=1 cargo test -p upcalld writes it anew",
            path.display()
        );
        let core = serde_json::to_value(Core::from(all().remove(0))).unwrap();
        let names = |value: &Value| -> Vec<String> {
            let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            names.sort_unstable();
            names
        };
        let properties = &schema["$defs"]["Core"]["properties"];
        assert_eq!(names(&core), names(properties));
    }
}
