//! What a helper said about itself, from inside: the script in lines of words, the probe in JSON.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use upcall_e2e::records::said;
use upcall_e2e::report::Report;
use upcalld::store::record::Record;

/// Where and as whom a helper found itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inside {
    pub(crate) namespaces: BTreeMap<String, u64>,
    pub(crate) ids: String,
    pub(crate) capabilities: u64,
}

impl Inside {
    /// Reads it from a record.
    pub(crate) fn of(record: &Record) -> Result<Self> {
        let said = said(record)?;
        if said.starts_with('{') {
            let report: Report = serde_json::from_str(&said).context("the helper's report")?;
            let [uid, ..] = report.uid;
            let [gid, ..] = report.gid;
            return Ok(Self {
                namespaces: report.namespaces,
                ids: format!("{uid}:{gid}"),
                capabilities: u64::from_str_radix(&report.capabilities.effective, 16)?,
            });
        }
        let mut inside = Self::default();
        for (key, value) in said.lines().filter_map(|line| line.split_once(' ')) {
            match key {
                "ids" => value.clone_into(&mut inside.ids),
                "capabilities" => inside.capabilities = u64::from_str_radix(value, 16)?,
                kind => drop(inside.namespaces.insert(kind.to_owned(), value.parse()?)),
            }
        }
        Ok(inside)
    }
}
