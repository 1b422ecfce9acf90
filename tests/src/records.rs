//! The records of a sandbox's daemon, waited for.

use std::time::Duration;

use anyhow::{Result, bail};
use upcalld::store::record::{Action, Record};
use upcalld::store::records::Records as Store;

use crate::command::until;
use crate::report::Report;

/// How long a record is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The records of one state directory.
#[derive(Debug, Clone)]
pub struct Records(Store);

impl Records {
    /// Those below this state directory.
    pub fn at(state: &std::path::Path) -> Self {
        Self(Store::at(state))
    }

    /// All closed ones, oldest first.
    pub fn all(&self) -> Vec<Record> {
        let entries = self.0.entries().unwrap_or_default();
        entries
            .iter()
            .filter_map(|entry| self.0.read(entry))
            .collect()
    }

    /// Waits for one that fits.
    ///
    /// # Errors
    /// None came in time; the error lists those that did.
    pub fn wait(&self, what: &str, fits: impl Fn(&Record) -> bool) -> Result<Record> {
        self.wait_for(PATIENCE, what, fits)
    }

    /// Waits so long for one that fits.
    ///
    /// # Errors
    /// None came in time; the error lists those that did.
    pub fn wait_for(
        &self,
        patience: Duration,
        what: &str,
        fits: impl Fn(&Record) -> bool,
    ) -> Result<Record> {
        let found = until(patience, what, || self.all().into_iter().find(&fits));
        found.map_err(|error| {
            let all = self.all();
            let all: Vec<String> = all.iter().map(short).collect();
            anyhow::anyhow!(
                "no record of {what}: {error}; there are {}: {}",
                all.len(),
                all.join(", ")
            )
        })
    }

    /// The record of this process of the host's.
    ///
    /// # Errors
    /// As [`Records::wait`].
    pub fn of(&self, pid: u32) -> Result<Record> {
        self.wait(&format!("process {pid}"), |record| {
            record.process.pid == Some(pid)
        })
    }
}

/// A record in a few words.
fn short(record: &Record) -> String {
    let reason = record.reason.as_deref().unwrap_or("");
    let (id, pid) = (&record.id, record.process.pid.unwrap_or(0));
    format!("{id}: {pid} {} {reason}", record.outcome.as_str())
}

/// The first action by this name.
///
/// # Errors
/// There is none.
pub fn action<'a>(record: &'a Record, name: &str) -> Result<&'a Action> {
    match record.actions.iter().find(|action| action.action == name) {
        Some(action) => Ok(action),
        None => bail!("no {name} in {}", serde_json::to_string(record)?),
    }
}

/// What the helper said, its own bytes again.
///
/// # Errors
/// There was no helper, or what the record has is not as records have it.
pub fn said(record: &Record) -> Result<String> {
    let output = action(record, "run")?.output.clone().unwrap_or_default();
    match upcall_config::text::unescape(&output) {
        Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        None => bail!("not escaped as it should be: {output}"),
    }
}

/// What `upcall-probe` reported as the helper.
///
/// # Errors
/// It did not.
pub fn report(record: &Record) -> Result<Report> {
    let said = said(record)?;
    let mut report: Report = serde_json::from_str(&said).map_err(|error| {
        let whole = serde_json::to_string(record).unwrap_or_default();
        anyhow::anyhow!("no report of upcall-probe: {error}: {said:?} in {whole}")
    })?;
    if report.namespaces.is_empty() && !report.has_proc {
        // A kernel before 6.11 tells a process without /proc nothing about them; the joiner has looked.
        report.namespaces = action(record, "run")?
            .namespaces
            .clone()
            .unwrap_or_default();
    }
    Ok(report)
}
