//! A crash of a process that is alive.

use std::os::unix::fs::MetadataExt;

use upcall_config::matcher::Truth;
use upcall_config::upcall::{Signal, Upcall};
use upcall_helpers::wire::CORE_WORDS;

use super::{Case, Check, ExplainError, Explainer, Explanation, checks, looked_at, plan};
use crate::broker::described;
use crate::identify::Origin;
use crate::identify::core::CoreWords;
use crate::linux::parse;

/// What its crash by this signal would be.
pub(super) fn case(
    explainer: &Explainer<'_>,
    pid: u32,
    signal: &str,
) -> Result<Case, ExplainError> {
    let named = Signal::from_name(signal);
    let signal = named.ok_or_else(|| ExplainError::NoSignal(signal.to_owned()))?;
    let origin = looked_at(pid, crate::identify::core::look)?;
    let (dumpable, mut taken_for) = (dumpable(&origin), Vec::new());
    if dumpable == Truth::Unknown {
        taken_for.push("dumpable is taken to be 1: of root's processes only a crash says".into());
    }
    let words = words(&origin, signal, dumpable);
    let resolution = explainer
        .resolver
        .resolve(&origin, explainer.policy.containers());
    let verified = origin.process.verify();
    verified.map_err(|_| ExplainError::Ended(pid))?;
    let facts = crate::broker::facts_of_core(&words, &origin, &resolution);
    let (process, container) = described(&words, &origin, &resolution, &facts);
    let mut explanation = Explanation::new(process, container);
    explanation.checks = checks(&facts, &resolution, Some(Check::dumpable(dumpable)));
    explanation.refused_nominees.clone_from(&resolution.refused);
    explanation.taken_for = taken_for;
    Ok(Case {
        upcall: Upcall::Core(words.upcall()),
        facts,
        seen: plan::Seen::live(&resolution, &origin),
        explanation,
    })
}

/// Whether the process dumps as an ordinary one (prctl(2), PR_SET_DUMPABLE): only then its /proc directory is its own
/// user's and not root's (proc(5)). Of root's own processes that says nothing.
fn dumpable(origin: &Origin) -> Truth {
    let path = format!("/proc/{}", origin.process.pid());
    let [_, effective, ..] = origin.status.uids;
    let root = origin.directory.id_maps().ok();
    let root = root.and_then(|[uids, _]| uids.outside(0));
    match std::fs::metadata(path) {
        Ok(meta) if meta.uid() != effective => Truth::No,
        Ok(_) if effective != 0 && Some(effective) != root => Truth::Yes,
        _ => Truth::Unknown,
    }
}

/// The words that the kernel would say if the process crashed now.
fn words(origin: &Origin, signal: Signal, dumpable: Truth) -> CoreWords {
    let limits = origin
        .directory
        .read("limits")
        .ok()
        .and_then(|text| parse::limits(&text));
    let limit = limits
        .and_then(|limits| limits.get(4).map(|(soft, _)| *soft))
        .unwrap_or(u64::MAX);
    let ([uid, ..], [gid, ..]) = (origin.status.uids, origin.status.gids);
    let inside = |numbers: &[u32]| numbers.last().copied().unwrap_or_default().to_string();
    let word = |specifier: &&str| match *specifier {
        "%P" | "%I" => origin.process.pid().to_string(),
        "%p" => inside(&origin.status.pids),
        "%i" => inside(&origin.status.tids),
        "%u" => uid.to_string(),
        "%g" => gid.to_string(),
        "%d" if dumpable == Truth::No => "2".to_owned(),
        "%d" => "1".to_owned(),
        "%s" => signal.number().to_string(),
        "%c" => limit.to_string(),
        "%t" => (crate::store::records::now_micros() / 1_000_000).to_string(),
        _ => String::new(),
    };
    let words: Vec<Vec<u8>> = CORE_WORDS.iter().map(|s| word(s).into_bytes()).collect();
    // As many words as there are places: cannot fail.
    CoreWords::new(words).unwrap_or_default()
}
