//! What a record says about a module, or another program that the kernel starts.

use upcall_config::facts::Facts;
use upcall_config::module;
use upcall_config::text::escape;
use upcall_helpers::umh::Look;

use super::Draft;
use super::key::described;
use super::words::unknown;
use crate::identify::{Lost, Origin};
use crate::intake::helper::{Helper, Wanted};
use crate::resolve::Resolution;
use crate::store::record::{Module, Umh};

/// A module, as a record has it.
pub(crate) fn module_text(alias: &[u8]) -> Module {
    let family = module::of(alias);
    Module {
        alias: escape(alias),
        family: family.map(|family| family.glob.to_owned()),
        who_can_ask: family.map(|family| family.asker.to_string()),
    }
}

/// Another program, as a record has it.
pub(crate) fn umh_text(helper: &Helper) -> Umh {
    let program = &helper.program;
    Umh {
        name: escape(&helper.name),
        program: (!program.is_empty()).then(|| escape(program)),
        words: helper.words.iter().map(|word| escape(word)).collect(),
        known: matches!(helper.look(), Look::Known(_)),
    }
}

impl Draft {
    /// What is wanted, the process, the container, and how they are known: one of so many candidates.
    pub(in crate::broker) fn describe_helper(
        &mut self,
        wanted: &Wanted,
        known: Result<&Origin, &Lost>,
        candidates: usize,
        resolution: &Resolution,
        facts: &Facts,
    ) {
        wanted.kind().as_str().clone_into(&mut self.record.kind);
        let described = described(known, resolution, facts);
        self.found(described, known, candidates, resolution, facts);
        match wanted {
            Wanted::Module(alias) => self.record.module = Some(module_text(alias)),
            Wanted::Other(helper) => {
                self.record.umh = Some(umh_text(helper));
                // Most of these are started by the kernel of its own accord, so nothing is wrong where nobody is found.
                self.record.message = None;
            }
        }
        self.record.unknown = unknown(&self.record, resolution);
    }
}
