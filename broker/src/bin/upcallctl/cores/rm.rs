//! `cores rm`: cores go, their records stay.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, ErrorKind, IsTerminal};

use jiff::Timestamp;
use serde::Serialize;
use upcalld::store::cores;
use upcalld::store::record::Record;
use upcalld::store::records::Entry;

use super::args::RmArgs;
use super::list::{Found, is_crash};
use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::newest::newest;
use crate::output::{complain, print, print_json};

/// What is said to programs.
#[derive(Debug, Serialize)]
struct Removed<'a> {
    schema: &'static str,
    version: u32,
    /// Whether they are; not with `--dry-run`.
    done: bool,
    /// Bytes on disk.
    stored_bytes: u64,
    /// Their records' ids.
    cores: Vec<&'a str>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &RmArgs) -> Result<(), Failure> {
    let (look, zone) = (&context.look, &context.look.zone);
    let without = asked.ids.is_empty() && asked.whose.is_empty() && asked.older_than.is_none();
    if without && !asked.all {
        return Err(Failure::Usage {
            what: "which cores?".to_owned(),
            help: "ids, filters, --older-than, or --all".to_owned(),
        });
    }
    let before = asked.older_than.map(|since| since.moment(look.now, zone));
    let meant = |record: Record| {
        let time: Option<Timestamp> = record.time.parse().ok();
        let old = before.is_none_or(|before| time.is_some_and(|time| time < before));
        let core = (old && asked.whose.takes(&record)).then(|| Found::of(context, record));
        core.filter(|core| core.file.is_some())
    };
    let found: Vec<Found> = if asked.ids.is_empty() {
        newest(context, 0, None, |record| {
            meant(record).filter(|core| is_crash(&core.record))
        })?
        .found
    } else {
        // One that is named twice is still one.
        let records = asked.ids.iter().map(|id| super::record(context, id));
        let records: Vec<Record> = records.collect::<Result<_, _>>()?;
        let records: BTreeMap<_, _> = records
            .into_iter()
            .map(|one| (one.id.clone(), one))
            .collect();
        records.into_values().filter_map(meant).collect()
    };
    if found.is_empty() {
        // For others than root no core is there; they cannot look.
        if !nix::unistd::Uid::effective().is_root() {
            return Err(Failure::root_only(context));
        }
        complain("no core is kept like this\n");
        return Ok(());
    }
    let bytes = found.iter().filter_map(|core| core.file.as_ref());
    let bytes = bytes.map(|(_, bytes)| bytes).sum();
    let said = Removed {
        schema: "upcalld.removed",
        version: 1,
        done: !asked.dry_run,
        stored_bytes: bytes,
        cores: found.iter().map(|core| &*core.record.id).collect(),
    };
    let what = format!(
        "{}, {}",
        format::count(found.len(), "core"),
        format::size(bytes)
    );
    let now = format::day(look.now, look.now, zone);
    let rest = format!("their records stay and say: removed by {}, {now}", user());
    if asked.dry_run {
        return match context.json {
            Some(_) => print_json(&said),
            None => print(&format!("would remove {what}; {rest}\n")),
        };
    }
    if !asked.yes && !agreed(&what)? {
        complain("nothing is removed\n");
        return Ok(());
    }
    let records = context.records();
    let entries = records
        .entries()
        .map_err(|error| Failure::records(context, error))?;
    let entries: HashMap<&str, &Entry> = entries.iter().map(|entry| (&*entry.id, entry)).collect();
    let by = format!("by {}, {}", user(), look.now);
    for core in &found {
        remove(context, core)?;
        let Some(entry) = entries.get(&*core.record.id) else {
            continue; // trimmed meanwhile
        };
        let told = records.amend(entry, |record| cores::gone(record, "removed", &by));
        told.map_err(|error| Failure::records(context, error))?;
    }
    match context.json {
        Some(_) => print_json(&said),
        None => print(&format!("removed {what}; {rest}\n")),
    }
}

/// Asks on the terminal.
fn agreed(what: &str) -> Result<bool, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::Usage {
            what: format!("{what} would be removed, and there is no terminal to ask on"),
            help: "--yes, or --dry-run".to_owned(),
        });
    }
    complain(&format!("remove {what}? their records stay [y/N] "));
    let mut line = String::new();
    let read = input.lock().read_line(&mut line);
    Ok(read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes"))
}

/// The file goes first: a record that says `removed` has none. The daemon may have been there before us.
fn remove(context: &Context, core: &Found) -> Result<(), Failure> {
    let Some((path, _)) = &core.file else {
        return Ok(());
    };
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(Failure::root_only(context))
        }
        Err(source) => Err(Failure::File {
            path: path.clone(),
            source,
        }),
    }
}

fn user() -> String {
    let uid = nix::unistd::Uid::effective();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}
