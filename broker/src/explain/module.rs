//! A module that a process which is alive would make the kernel want.

use upcall_config::text::{printable, unescape};
use upcall_config::upcall::Upcall;

use super::{Case, ExplainError, Explainer, Explanation};
use super::{checks, looked_at, plan};
use crate::broker::{described_asker, facts_of_asker, module_text};

/// Why it is not the process's to be asked about.
const EXACT: &str = "who asks is taken to be known exactly; where it is not, and one who may have asked would be \
                     refused, all are";

/// What its asking for this module would be.
pub(super) fn case(explainer: &Explainer<'_>, pid: u32, alias: &str) -> Result<Case, ExplainError> {
    let alias = unescape(alias).ok_or_else(|| ExplainError::NoText(printable(alias)))?;
    let origin = looked_at(pid, crate::identify::key::look)?;
    let resolution = explainer
        .resolver
        .resolve(&origin, explainer.policy.containers());
    let verified = origin.process.verify();
    verified.map_err(|_| ExplainError::Ended(pid))?;
    let facts = facts_of_asker(&origin, &resolution);
    let (process, container) = described_asker(&origin, &resolution, &facts);
    let mut explanation = Explanation::new(process, container);
    explanation.checks = checks(&facts, &resolution, None);
    explanation.refused_nominees.clone_from(&resolution.refused);
    explanation.taken_for.push(EXACT.to_owned());
    explanation.module = Some(module_text(&alias));
    Ok(Case {
        upcall: Upcall::Module(alias),
        facts,
        seen: plan::Seen::live(&resolution, &origin),
        explanation,
    })
}
