//! `cores rm`: cores go, their records stay.

use std::io::{BufRead, IsTerminal};

use upcalld::store::records::Entry;

use super::args::RmArgs;
use super::list::{Found, find};
use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::output::{complain, print};

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
    let found = if asked.ids.is_empty() {
        let before = asked.older_than.map(|since| since.moment(look.now, zone));
        find(context, |micros| {
            before.is_none_or(|before| format::timestamp(micros) < before)
        })?
    } else {
        let records = asked.ids.iter().map(|id| super::record(context, id));
        let records: Vec<_> = records.collect::<Result<_, _>>()?;
        let found = records.into_iter();
        found.map(|record| Found::of(context, record)).collect()
    };
    let meant = |core: &Found| core.file.is_some() && asked.whose.takes(&core.record);
    let found: Vec<Found> = found.into_iter().filter(meant).collect();
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
    let what = format!(
        "{}, {}",
        format::count(found.len(), "core"),
        format::size(bytes)
    );
    let now = format::day(look.now, look.now, zone);
    let rest = format!("their records stay and say: removed by {}, {now}", user());
    if asked.dry_run {
        return print(&format!("would remove {what}; {rest}\n"));
    }
    if !asked.yes && !agreed(&what)? {
        return print("nothing is removed\n");
    }
    for core in &found {
        remove(context, core)?;
    }
    print(&format!("removed {what}; {rest}\n"))
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

/// The file first: a record that says `removed` has none.
fn remove(context: &Context, core: &Found) -> Result<(), Failure> {
    let Some((path, _)) = &core.file else {
        return Ok(());
    };
    if let Err(source) = std::fs::remove_file(path) {
        return Err(if source.kind() == std::io::ErrorKind::PermissionDenied {
            Failure::root_only(context)
        } else {
            Failure::File {
                path: path.clone(),
                source,
            }
        });
    }
    let records = context.records();
    let entries = records.entries();
    let entries = entries.map_err(|error| Failure::records(context, error))?;
    let entry: Option<&Entry> = entries.iter().find(|entry| entry.id == core.record.id);
    let Some((entry, mut record)) = entry.and_then(|entry| Some((entry, records.read(entry)?)))
    else {
        return Ok(()); // trimmed meanwhile
    };
    for action in &mut record.actions {
        if action.action == "store" {
            action.state = Some("removed".to_owned());
            action.path = None;
            action.message = Some(format!("by {}, {}", user(), context.look.now));
        }
    }
    records
        .write(&record, entry.micros)
        .map_err(|error| Failure::records(context, error))
}

fn user() -> String {
    let uid = nix::unistd::Uid::effective();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}
