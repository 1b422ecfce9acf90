//! What a record says about a module.

use upcall_config::facts::Facts;
use upcall_config::module;
use upcall_config::text::escape;

use super::key::described;
use super::{Draft, unknown};
use crate::identify::{Lost, Origin};
use crate::resolve::Resolution;
use crate::store::record::Module;

/// A module, as a record has it.
pub(crate) fn module_text(alias: &[u8]) -> Module {
    let family = module::of(alias);
    Module {
        alias: escape(alias),
        family: family.map(|family| family.glob.to_owned()),
        who_can_ask: family.map(|family| family.asker.to_string()),
    }
}

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
        "module".clone_into(&mut self.record.kind);
        let described = described(known, resolution, facts);
        self.found(described, known, candidates, resolution, facts);
        self.record.module = Some(module_text(alias));
        self.record.unknown = unknown(&self.record, resolution);
    }
}
