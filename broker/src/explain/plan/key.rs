//! What is done about a key, in words.

use std::path::Path;

use nix::errno::Errno;
use upcall_config::decide::Denial;
use upcall_config::plan::{Answer, Payload, Run};
use upcall_config::text::printable;
use upcall_helpers::hookfile::HookFile;

use super::{Seen, quoted, time};
use crate::broker::name;

/// What runs.
pub(super) fn run(run: &Run) -> String {
    let answers = if run.has_authority() {
        "it answers the key itself"
    } else {
        "what it prints is the payload"
    };
    let (words, timeout) = (quoted(run), time(run.timeout()));
    format!("{words}; stdin: the callout; {answers}, within {timeout}")
}

/// Where a program is that runs beside a container.
pub(super) fn beside(run: &Run, seen: &Seen) -> String {
    let net = match seen.leader {
        Some(leader) if seen.own.iter().any(|own| own == "net") => {
            format!("in net of leader {leader}")
        }
        Some(_) => "in the host's net, which is the container's too".to_owned(),
        None => "in the container's net".to_owned(),
    };
    match run.files() {
        [] => format!("the host, {net}"),
        files => format!("the host, {net}, with the container's {}", files.join(" ")),
    }
}

/// What the key gets.
pub(super) fn answered(answer: &Answer) -> String {
    let payload = match answer.payload() {
        Payload::Text(text) => format!("\"{}\"", printable(text)),
        Payload::File(path) => format!("what {} holds", printable(&path.display().to_string())),
    };
    format!("{payload}, good for {}", time(answer.ttl()))
}

/// What the requester is told.
pub(super) fn denied(reason: &str, denial: &Denial) -> String {
    let errno = Errno::from_raw(i32::try_from(denial.errno).unwrap_or(0));
    format!("{reason}; {} for {}", name(errno), time(denial.ttl))
}

/// What `pass` comes to.
pub(super) fn passed(hooks: &Path) -> String {
    if !hooks.join("key").exists() {
        return "what answers keys before the hook is installed".to_owned();
    }
    let program = HookFile::read(hooks, "key").program;
    format!("{}, with its own configuration", program.display())
}
