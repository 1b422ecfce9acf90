//! The newest records that are meant: what `list` and `cores list` have in common.

use upcalld::store::record::Record;

use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::output::complain;
use crate::since::Since;

/// What was found.
#[derive(Debug)]
pub(crate) struct Newest<T> {
    /// Oldest first.
    pub(crate) found: Vec<T>,
    /// How many records there are, meant or not.
    pub(crate) all: usize,
}

/// Reads records from the newest on, and no more of them than it takes: until `number` are found, 0 being all, or they
/// are from before `since`. `meant` says what is to be had of a record. Complains of files that are no records.
///
/// # Errors
/// A directory that cannot be read, or not one record in it that can.
pub(crate) fn newest<T>(
    context: &Context,
    number: usize,
    since: Option<Since>,
    meant: impl Fn(Record) -> Option<T>,
) -> Result<Newest<T>, Failure> {
    let records = context.records();
    let entries = records.entries();
    let entries = entries.map_err(|error| Failure::records(context, error))?;
    let most = if number == 0 { usize::MAX } else { number };
    let first = since.map_or(0, |since| since.micros(&context.look));
    let (mut found, mut unreadable, mut looked) = (Vec::new(), 0, 0);
    for entry in entries
        .iter()
        .rev()
        .take_while(|entry| entry.micros >= first)
    {
        if found.len() == most {
            break;
        }
        looked += 1;
        match records.read(entry) {
            Some(record) => found.extend(meant(record)),
            None => unreadable += 1,
        }
    }
    // One that is damaged or just removed is no reason to show nothing; none that can be read is.
    if unreadable > 0 && unreadable == looked && !nix::unistd::Uid::effective().is_root() {
        return Err(Failure::denied(context));
    }
    if unreadable > 0 {
        let files = format::count(unreadable, "file");
        complain(&format!(
            "warning: {files} in {} cannot be read as records\n",
            context.state.join("records").display()
        ));
    }
    found.reverse();
    let all = entries.len();
    Ok(Newest { found, all })
}
