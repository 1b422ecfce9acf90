//! A module that a process which is alive would make the kernel want.

use upcall_config::text::{printable, unescape};
use upcall_config::upcall::Upcall;

use super::{Case, ExplainError, Explainer};
use crate::broker::module_text;

/// Why it is not the process's to be asked about.
const EXACT: &str = "who asks is taken to be known exactly; where it is not, and one who may have asked would be \
                     refused, all are";

/// What its asking for this module would be.
pub(super) fn case(explainer: &Explainer<'_>, pid: u32, alias: &str) -> Result<Case, ExplainError> {
    let alias = unescape(alias).ok_or_else(|| ExplainError::NoText(printable(alias)))?;
    let text = module_text(&alias);
    let mut case = explainer.asker(pid, Upcall::Module(alias), None)?;
    case.explanation.taken_for.push(EXACT.to_owned());
    case.explanation.module = Some(text);
    Ok(case)
}
