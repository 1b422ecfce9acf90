//! What explaining takes from answering: the same facts, and the same words about them.

use upcall_config::facts::Facts;

use super::{draft, facts};
use crate::identify::Origin;
use crate::identify::core::CoreWords;
use crate::resolve::Resolution;
use crate::store::record::{self, Process};

/// The facts of a core dump of a process that is known.
pub(crate) fn facts_of_core(words: &CoreWords, origin: &Origin, resolution: &Resolution) -> Facts {
    facts::core(words, Ok(origin), resolution)
}

/// What a record would say about a process and its container.
pub(crate) fn described(
    words: &CoreWords,
    origin: &Origin,
    resolution: &Resolution,
    facts: &Facts,
) -> (Process, Option<record::Container>) {
    draft::described(words, Ok(origin), resolution, facts)
}

/// The facts of a process that waits for a key.
pub(crate) fn facts_of_asker(origin: &Origin, resolution: &Resolution) -> Facts {
    facts::asker(Ok(origin), resolution)
}

/// What a record would say about a process that waits for a key, and its container.
pub(crate) fn described_asker(
    origin: &Origin,
    resolution: &Resolution,
    facts: &Facts,
) -> (Process, Option<record::Container>) {
    draft::key::described(Ok(origin), resolution, facts)
}
