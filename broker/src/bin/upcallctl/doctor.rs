//! `upcallctl doctor`: what about this host keeps upcalld from doing what its rules say, why that matters, and the cure.
//!
//! Every check is a function of a [`Host`], which only reads; it works while upcalld is stopped. A check that could not
//! look says so and is neither well nor ill.

mod finding;
mod host;
mod kernel;
mod key;
mod module;
mod places;
mod service;
mod sysctl_d;
#[cfg(test)]
mod tests;
mod umh;

use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::look::{Look, Paint};
use crate::output::{print, print_json};
use finding::{Finding, Level};
use host::Host;

/// Everything that is looked at, in the order in which it is told.
const CHECKS: [fn(&Host<'_>) -> Finding; 23] = [
    places::hook,
    key::hook,
    module::hook,
    module::modprobe,
    module::askers,
    module::diversions,
    umh::hook,
    places::program,
    places::boot,
    places::sysctl_d,
    places::systemd,
    kernel::pipe_limit,
    kernel::pidfd,
    kernel::bset,
    kernel::pid1,
    kernel::suid_dumpable,
    kernel::cgroups,
    kernel::labels,
    service::daemon,
    service::capabilities,
    service::descriptors,
    service::space,
    service::rules,
];

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    errors: usize,
    warnings: usize,
    unknown: usize,
    findings: &'a [Finding],
}

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &DoctorArgs) -> Result<(), Failure> {
    let host = match &asked.host {
        Some(root) => Host::below(context, root),
        None => Host::of(context),
    };
    let findings = CHECKS.map(|check| check(&host));
    let count = |level| count(&findings, level);
    if context.json.is_some() {
        print_json(&Document {
            schema: "upcalld.doctor",
            version: 1,
            errors: count(Level::Error),
            warnings: count(Level::Warning),
            unknown: count(Level::Unknown),
            findings: &findings,
        })?;
    } else {
        print(&text(&findings, &context.look))?;
    }
    if count(Level::Error) > 0 || asked.strict && count(Level::Warning) > 0 {
        return Err(Failure::BadNews);
    }
    Ok(())
}

/// How many checks are ill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    /// Errors.
    pub(crate) errors: usize,
    /// Warnings.
    pub(crate) warnings: usize,
}

/// What `status` says about it.
pub(crate) fn summary(context: &Context) -> Summary {
    let host = Host::of(context);
    let findings = CHECKS.map(|check| check(&host));
    Summary {
        errors: count(&findings, Level::Error),
        warnings: count(&findings, Level::Warning),
    }
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings
        .iter()
        .filter(|finding| finding.level == level)
        .count()
}

/// The page: errors first, what is well in one line, and the sum.
fn text(findings: &[Finding], look: &Look) -> String {
    let mut lines = Vec::new();
    for level in [Level::Error, Level::Warning, Level::Unknown] {
        for finding in findings.iter().filter(|finding| finding.level == level) {
            let word = look.paint(paint(level), &format!("{:8}", level.as_str()));
            lines.push(format!("{word} {:16} {}", finding.check, finding.what));
            for (name, line) in [("why", &finding.why), ("cure", &finding.cure)] {
                lines.extend(line.iter().map(|line| format!("  {name:6} {line}")));
            }
        }
    }
    let well = findings.iter().filter(|f| f.level == Level::Ok);
    let well: Vec<&str> = well.map(|finding| finding.check).collect();
    if !well.is_empty() {
        let word = look.paint(Paint::Good, &format!("{:8}", Level::Ok.as_str()));
        lines.push(format!("{word} {}", well.join("  ")));
    }
    let count = |level| count(findings, level);
    lines.push(format!(
        "{}, {}, {} unknown, {} ok             \
         (error: upcalls are lost or a rule does not hold; warning: a weaker path is in use)",
        format::count(count(Level::Error), "error"),
        format::count(count(Level::Warning), "warning"),
        count(Level::Unknown),
        count(Level::Ok),
    ));
    lines.join("\n") + "\n"
}

fn paint(level: Level) -> Paint {
    match level {
        Level::Ok => Paint::Good,
        Level::Error => Paint::Bad,
        Level::Warning | Level::Unknown => Paint::Doubt,
    }
}
