//! What a record says about a module.

use upcall_config::facts::Facts;
use upcall_config::module;
use upcall_config::text::escape;

use super::key::described;
use super::{Draft, resolved, unknown};
use crate::identify::{Lost, Origin};
use crate::resolve::Resolution;
use crate::store::record::Module;

impl Draft {
    /// The module, the process, the container, and how they are known: one of so many candidates.
    pub(in crate::broker) fn describe_module(
        &mut self,
        alias: &[u8],
        known: Result<&Origin, &Lost>,
        candidates: usize,
        resolution: &Resolution,
        facts: &Facts,
    ) {
        let record = &mut self.record;
        "module".clone_into(&mut record.kind);
        (record.process, record.container) = described(known, resolution, facts);
        match known {
            Ok(origin) => {
                record.evidence.process = Some(origin.evidence.as_str().to_owned());
                record.evidence.candidates = u32::try_from(candidates).unwrap_or(u32::MAX);
            }
            Err(lost) => record.message = Some(lost.to_string()),
        }
        resolved(record, resolution);
        let family = module::of(alias);
        record.module = Some(Module {
            alias: escape(alias),
            family: family.map(|family| family.glob.to_owned()),
            who_can_ask: family.map(|family| family.asker.to_string()),
        });
        self.record.unknown = unknown(&self.record, resolution);
    }
}
