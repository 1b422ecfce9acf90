//! `upcallctl cores`: crashes and what became of their cores; the cores themselves.

use upcall_config::text::printable;
use upcalld::store::id;
use upcalld::store::record::Record;

use crate::context::Context;
use crate::failure::Failure;

pub(crate) mod args;
mod debug;
mod dump;
mod info;
mod list;
mod look;
mod progress;
mod rm;
mod root;
mod state;
mod stored;
pub(crate) mod worker;

use args::{CoresArgs, CoresCommand};
use state::State;
use stored::Stored;

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &CoresArgs) -> Result<(), Failure> {
    match &asked.command {
        None => list::run(context, &asked.list),
        Some(CoresCommand::List(asked)) => list::run(context, asked),
        Some(CoresCommand::Info(asked)) => info::run(context, asked),
        Some(CoresCommand::Dump(asked)) => dump::run(context, asked),
        Some(CoresCommand::Debug(asked)) => debug::run(context, asked),
        Some(CoresCommand::Rm(asked)) => rm::run(context, asked),
    }
}

/// The record of a crash, by the start of its id.
fn record(context: &Context, prefix: &str) -> Result<Record, Failure> {
    let missing = || Failure::NotFound {
        what: format!("there is no record of a crash {}", printable(prefix)),
        help: context.typed("cores list"),
    };
    if !id::is_prefix(prefix) {
        return Err(missing());
    }
    let found = context.records().find(prefix);
    let found = found.map_err(|error| Failure::records(context, error))?;
    found
        .filter(|record| record.kind == "core")
        .ok_or_else(missing)
}

/// A record's core; an error that says what became of it where there is none.
fn open(context: &Context, record: &Record) -> Result<Stored, Failure> {
    match Stored::open(&context.state, &record.id) {
        Ok(Some(stored)) => Ok(stored),
        Ok(None) => {
            let state = State::of(record, Some(false));
            Err(Failure::NotFound {
                what: format!("no core of {} is kept: {}", record.id, state.text(record)),
                help: context.typed(&format!("show {}", record.id)),
            })
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Failure::root_only(context))
        }
        Err(source) => Err(Failure::File {
            path: context.state.join("cores").join(&record.id),
            source,
        }),
    }
}
