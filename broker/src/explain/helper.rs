//! A module, or another helper, that a process which is alive would make the kernel want.

use upcall_config::text::{printable, unescape};

use super::{Case, ExplainError, Explainer};
use crate::broker::{module_text, umh_text};
use crate::intake::helper::{Helper, Wanted};

/// Why it is not the process's to be asked about.
const EXACT: &str = "who asks is taken to be known exactly; where it is not, and one who may have asked would be \
                     refused, all are";

/// Why a release agent is asked about otherwise.
const WORDS: &str =
    "its words are taken to be those that the kernel gives it; with any others it is refused";

/// What its asking for this module would be.
pub(super) fn module(
    explainer: &Explainer<'_>,
    pid: u32,
    alias: &str,
) -> Result<Case, ExplainError> {
    let alias = unescape(alias).ok_or_else(|| ExplainError::NoText(printable(alias)))?;
    case(explainer, pid, &Wanted::Module(alias))
}

/// What its causing this program to be started would be.
pub(super) fn umh(explainer: &Explainer<'_>, pid: u32, name: &str) -> Result<Case, ExplainError> {
    let name = unescape(name).ok_or_else(|| ExplainError::NoText(printable(name)))?;
    let helper = Helper {
        program: name.clone(),
        words: Vec::new(),
        name,
    };
    let mut case = case(explainer, pid, &Wanted::Other(helper))?;
    case.explanation.taken_for.push(WORDS.to_owned());
    Ok(case)
}

fn case(explainer: &Explainer<'_>, pid: u32, wanted: &Wanted) -> Result<Case, ExplainError> {
    let mut case = explainer.asker(pid, wanted.upcall(), None)?;
    case.explanation.taken_for.push(EXACT.to_owned());
    match wanted {
        Wanted::Module(alias) => case.explanation.module = Some(module_text(alias)),
        Wanted::Other(helper) => case.explanation.umh = Some(umh_text(helper)),
    }
    Ok(case)
}
