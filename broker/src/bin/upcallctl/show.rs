//! `upcallctl show`: everything about one record.

use upcall_config::field::Field;
use upcall_config::text::printable;
use upcalld::linux::capability;
use upcalld::store::id;
use upcalld::store::record::{Action, Container, Outcome, Record, Timings, TraceStep};

use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::look::{Look, Paint};
use crate::output::{print, print_json};
use crate::row;
use crate::table::length;

/// Where the text behind a heading begins.
const INDENT: usize = 12;

/// Namespaces in the order in which people expect them.
const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// Runs the command.
pub(crate) fn run(context: &Context, prefix: &str) -> Result<(), Failure> {
    let missing = || Failure::NotFound {
        what: format!("there is no record {}", printable(prefix)),
        help: context.typed("list"),
    };
    if !id::is_prefix(prefix) {
        return Err(missing());
    }
    let found = context.records().find(prefix);
    let record = found
        .map_err(|error| Failure::records(context, error))?
        .ok_or_else(missing)?;
    if context.json.is_some() {
        return print_json(&record);
    }
    print(&text(&record, &context.look))
}

/// Lines under headings.
struct Page<'a> {
    text: String,
    look: &'a Look,
}

impl Page<'_> {
    /// A heading and its lines; nothing where there are none.
    fn section(&mut self, heading: &str, lines: impl IntoIterator<Item = String>) {
        let mut heading = heading;
        for line in lines {
            let padding = " ".repeat(INDENT - length(heading));
            self.text += &self.look.paint(Paint::Head, heading);
            self.text += &padding;
            self.text += &line;
            self.text.push('\n');
            heading = "";
        }
    }
}

/// Everything in words.
fn text(record: &Record, look: &Look) -> String {
    let mut page = Page {
        text: title(record, look) + "\n",
        look,
    };
    page.section("process", [process(record)]);
    page.section("crash", crash(record));
    page.section("container", [container(record, look)]);
    page.section("evidence", evidence(record));
    page.section("verdict", verdict(record, look));
    page.section("outcome", outcome(record, look));
    page.section("time", time(&record.timings_us));
    page.text
}

fn title(record: &Record, look: &Look) -> String {
    let actions = record.verdict.actions.join(", ");
    let ended = row::verdict(record);
    let how = match record.outcome {
        Outcome::Refused => ended,
        Outcome::Done if actions.is_empty() => "done".to_owned(),
        Outcome::Done => format!("{actions}; done"),
        Outcome::Open | Outcome::Partial | Outcome::Failed | Outcome::Lost | Outcome::Missed => {
            let parts = [actions, ended];
            let parts: Vec<&str> = parts
                .iter()
                .map(String::as_str)
                .filter(|p| !p.is_empty())
                .collect();
            parts.join("; ")
        }
    };
    let when = match row::time(record) {
        Some(time) => format!(
            "{} ({})",
            format::date_exact(time, &look.zone),
            format::ago(time, look.now)
        ),
        None => record.time.clone(),
    };
    let how = look.paint(row::paint(record.outcome), &how);
    let count = match record.count {
        0 | 1 => String::new(),
        count => format!(" {count} of them within 10 s, this is the first."),
    };
    format!("{} {}: {how}. {when}{count}", record.kind, record.id)
}

fn number(number: Option<u32>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

/// `1245217 (33)`: outside and inside.
fn both(outside: Option<u32>, inside: Option<u32>) -> String {
    match inside {
        Some(inside) => format!("{} ({inside})", number(outside)),
        None => number(outside),
    }
}

fn process(record: &Record) -> String {
    let process = &record.process;
    let comm = process.comm.as_deref().unwrap_or("?");
    let mut parts = vec![match process.pid_inside {
        Some(inside) => format!("{} {comm} ({inside} inside)", number(process.pid)),
        None => format!("{} {comm}", number(process.pid)),
    }];
    if process.tid.is_some() && process.tid != process.pid {
        let tid = both(process.tid, process.tid_inside);
        parts.push(format!("thread {tid}"));
    }
    parts.push(format!("uid {}", both(process.uid, process.uid_inside)));
    parts.push(format!("gid {}", both(process.gid, process.gid_inside)));
    if let Some(dumpable) = process.dumpable {
        parts.push(format!("dumpable {dumpable}"));
    }
    if process.no_new_privs == Some(true) {
        parts.push("no_new_privs".to_owned());
    }
    match process.seccomp.as_deref() {
        None | Some("none") => {}
        Some(seccomp) => parts.push(format!("seccomp {seccomp}")),
    }
    if let Some(label) = &process.label {
        parts.push(format!("label {label}"));
    }
    let command = process.cmdline.as_ref().map(|words| words.join(" "));
    let command = command.filter(|command| !command.is_empty());
    let command = command.or_else(|| process.exe.clone());
    let parts = parts.join(", ");
    command.map_or_else(|| parts.clone(), |command| format!("{parts}; {command}"))
}

fn crash(record: &Record) -> Option<String> {
    let core = record.core.as_ref()?;
    let mut parts = vec![core.signal.clone().unwrap_or_else(|| "signal ?".to_owned())];
    if let Some(threads) = core.threads {
        parts.push(format::count(
            usize::try_from(threads).unwrap_or(0),
            "thread",
        ));
    }
    if let Some(size) = row::size(record) {
        parts.push(format!("core {}", format::size(size)));
    }
    parts.push(match core.limit_bytes {
        None => "no core limit".to_owned(),
        Some(limit) => {
            let kept = record
                .actions
                .iter()
                .filter(|action| action.action == "store");
            let over = kept
                .filter_map(|action| action.stored_bytes)
                .any(|kept| kept > limit);
            let limit = if limit == 0 {
                "0".to_owned()
            } else {
                format::size(limit)
            };
            let ignored = if over { ", ignored by the rule" } else { "" };
            format!("core limit {limit}{ignored}")
        }
    });
    Some(parts.join("; "))
}

/// A container in a line: name, id, runtime, image, pod.
pub(crate) fn container_line(container: &Container, look: &Look) -> String {
    let id = row::short_id(&container.id, look);
    let mut parts = vec![match &container.name {
        Some(name) if *name != container.id => format!("{name} {id}"),
        _ => id,
    }];
    parts.push(container.runtime.clone());
    if let Some(image) = &container.image {
        parts.push(format!("image {image}"));
    }
    if let Some(pod) = &container.pod {
        let name = match (&pod.namespace, &pod.name, &pod.uid) {
            (Some(namespace), Some(name), _) => format!("{namespace}/{name}"),
            (_, Some(name), _) => name.clone(),
            (_, None, Some(uid)) => format!("uid {uid}"),
            _ => "unknown".to_owned(),
        };
        parts.push(format!("pod {name}"));
    }
    if container.owner_uid != 0 {
        parts.push(format!("by uid {}'s files alone", container.owner_uid));
    }
    parts.join(", ")
}

fn container(record: &Record, look: &Look) -> String {
    match &record.container {
        Some(container) => format!(
            "{}, leader {}",
            container_line(container, look),
            container.leader_pid
        ),
        None => match record.process.user_namespace.as_deref() {
            Some("initial") => "none: a process of the host's".to_owned(),
            Some(_) => "none that is registered; its user namespace is not the host's".to_owned(),
            None => "not known".to_owned(),
        },
    }
}

fn evidence(record: &Record) -> Vec<String> {
    let evidence = &record.evidence;
    let mut lines = vec![match evidence.process.as_deref() {
        Some("kernel_pidfd") => "process: kernel pidfd, alive after the last read".to_owned(),
        Some("number_checked") => {
            "process: its number, all that the kernel said of it agrees; alive after the last read"
                .to_owned()
        }
        Some(other) => format!("process: {other}"),
        None => "process: none; what is known are the kernel's words".to_owned(),
    }];
    if let Some(container) = &record.container {
        let leader = container.leader_pid;
        lines.push(if record.verdict.host_only.as_deref() == Some("from_outside") {
            format!("container: root's state names leader {leader}; the process came in from outside")
        } else {
            format!(
                "container: accepted: root's state names leader {leader} (start time agrees), \
                 whose namespaces and cgroup hold it"
            )
        });
    }
    for refused in &evidence.refused_nominees {
        lines.push(format!("container: refused: {refused}"));
    }
    if !record.unknown.is_empty() {
        lines.push(format!("unknown: {}", record.unknown.join(", ")));
    }
    lines
}

fn verdict(record: &Record, look: &Look) -> Vec<String> {
    let verdict = &record.verdict;
    if verdict.actions.iter().any(|action| action == "self_test") {
        return vec!["none: no rule is asked about a self-test".to_owned()];
    }
    let misses: Vec<&TraceStep> = verdict
        .trace
        .iter()
        .filter(|step| step.key.is_some())
        .collect();
    let cited = |file: &str, line: u32| format!("{}:{line}", printable(row::file_name(file)));
    let widest = |width: &dyn Fn(&TraceStep) -> usize| {
        misses.iter().map(|step| width(step)).max().unwrap_or(0)
    };
    let rule_name = verdict
        .rule
        .as_ref()
        .map(|rule| cited(&rule.file, rule.line));
    let rule_width = widest(&|step| length(&cited(&step.file, step.line)))
        .max(rule_name.as_deref().map_or(0, length));
    let key_width = widest(&|step| length(step.key.as_deref().unwrap_or_default()));
    let is_width = widest(&|step| length(&is(step)));
    let mut lines: Vec<String> = misses
        .iter()
        .map(|step| {
            format!(
                "{} {:rule_width$}  {:key_width$} is {:is_width$}  wants {}",
                look.mark(&step.result),
                cited(&step.file, step.line),
                step.key.as_deref().unwrap_or_default(),
                is(step),
                wants(step),
            )
        })
        .collect();
    match (&verdict.rule, rule_name) {
        (Some(rule), Some(cited)) => {
            let name = rule.name.as_ref().map(|name| format!("\"{name}\""));
            let denied = verdict.actions.iter().any(|action| action == "deny");
            let denied = record
                .message
                .as_ref()
                .filter(|_| denied)
                .map(|reason| format!("deny, \"{reason}\""));
            let text: Vec<String> = name.into_iter().chain(denied).collect();
            let line = format!(
                "{} {cited:rule_width$}  {}",
                look.mark("yes"),
                text.join(": ")
            );
            lines.push(line.trim_end().to_owned());
        }
        _ => lines.push("no rule matches: pass".to_owned()),
    }
    if let Some(host_only) = &verdict.host_only {
        lines.push(format!(
            "nothing may run in a container for it: {host_only}"
        ));
    }
    lines
}

/// What was found. A record has values without quotes; what is text is known by its key.
fn is(step: &TraceStep) -> String {
    match (&step.is, step.result.as_str()) {
        (Some(value), _) => quoted(step, value),
        (None, "unknown") => "unknown".to_owned(),
        (None, _) => "none".to_owned(),
    }
}

fn wants(step: &TraceStep) -> String {
    match step.wants.as_slice() {
        [] => "any".to_owned(),
        [one] => quoted(step, one),
        more => {
            let more: Vec<String> = more.iter().map(|value| quoted(step, value)).collect();
            format!("one of {}", more.join(", "))
        }
    }
}

fn quoted(step: &TraceStep, value: &str) -> String {
    let words = [
        Field::ProcessUid,
        Field::ProcessKernelThread,
        Field::Container,
        Field::ContainerOwner,
        Field::Pod,
        Field::CoreSignal,
        Field::CoreDumpable,
    ];
    let key = step.key.as_deref().unwrap_or_default();
    if words.iter().any(|field| field.key() == key) {
        value.to_owned()
    } else {
        format!("\"{value}\"")
    }
}

fn outcome(record: &Record, look: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    let width = record.actions.iter().map(|action| action.action.len());
    let width = width.max().unwrap_or(0).max(5);
    for action in &record.actions {
        let mark = look.mark(match action.outcome {
            Outcome::Done => "yes",
            Outcome::Open => "unknown",
            Outcome::Partial
            | Outcome::Failed
            | Outcome::Refused
            | Outcome::Lost
            | Outcome::Missed => "no",
        });
        lines.push(format!(
            "{:width$}  {mark} {}",
            action.action,
            ended(action)
        ));
        let indent = " ".repeat(width + 2 + look.mark_width() + 1);
        lines.extend(whereabouts(action).map(|line| format!("{indent}{line}")));
    }
    let told = record
        .actions
        .iter()
        .any(|action| action.message == record.message);
    let denied = record.reason.as_deref() == Some("rule");
    if let Some(message) = record.message.as_ref().filter(|_| !told && !denied) {
        let reason = record.reason.as_ref();
        lines.push(reason.map_or_else(|| message.clone(), |reason| format!("{reason}: {message}")));
    }
    if lines.is_empty() {
        lines.push(if record.outcome == Outcome::Refused {
            "nothing was read; the dump has ended".to_owned()
        } else {
            record.outcome.as_str().to_owned()
        });
    }
    lines
}

/// What an action came to, in a sentence.
fn ended(action: &Action) -> String {
    let mut parts = Vec::new();
    if let Some(argv) = &action.argv {
        parts.push(argv.join(" "));
    }
    let bad = matches!(
        action.outcome,
        Outcome::Failed | Outcome::Refused | Outcome::Partial
    );
    if let Some(reason) = action.reason.as_ref().filter(|_| bad) {
        let message = action.message.as_deref().unwrap_or_default();
        parts.push(format!("{reason}: {message}"));
    }
    let after = action.duration_us.map(format::duration);
    let after = after.map_or_else(String::new, |after| format!(" after {after}"));
    if let Some(signal) = &action.signal {
        parts.push(format!("killed by {signal}{after}"));
    } else if let Some(code) = action.exit_code {
        let said = action
            .output
            .as_ref()
            .map(|said| format!(", said \"{said}\""));
        parts.push(format!("exit {code}{after}{}", said.unwrap_or_default()));
    }
    if let Some(stored) = action.stored_bytes.filter(|stored| *stored > 0) {
        let size = action.size_bytes.unwrap_or(stored);
        let size = if size == stored {
            format::size(size)
        } else {
            format!("{} as {}", format::size(size), format::size(stored))
        };
        let truncated = match action.truncated {
            Some(true) => "kept, truncated",
            _ => "kept",
        };
        let path = action
            .path
            .as_ref()
            .map(|path| format!(": {}", printable(path)));
        parts.push(format!(
            "{truncated}, {size}, root only{}",
            path.unwrap_or_default()
        ));
    }
    if parts.is_empty() {
        parts.push(action.outcome.as_str().to_owned());
    }
    parts.join(": ")
}

/// Where a program ran, and as whom.
fn whereabouts(action: &Action) -> impl Iterator<Item = String> {
    let namespaces = action.namespaces.as_ref().map(|found| {
        let shown = NAMESPACES
            .iter()
            .filter_map(|name| Some(format!("{name} {}", found.get(*name)?)));
        let shown: Vec<String> = shown.collect();
        format!("in {}", shown.join(" "))
    });
    let user = action.uid.map(|uid| {
        let outside = format!("{uid}:{}", number(action.gid));
        let ids = match action.uid_inside {
            Some(inside) => format!("{inside}:{} ({outside} outside)", number(action.gid_inside)),
            None => outside,
        };
        let capabilities = action
            .capabilities
            .as_ref()
            .map(|held| format!(", {} of {} capabilities", held.len(), capability::COUNT));
        let cgroup = action
            .cgroup
            .as_ref()
            .map(|path| format!(", cgroup {}", printable(path)));
        format!(
            "as {ids}{}{}",
            capabilities.unwrap_or_default(),
            cgroup.unwrap_or_default()
        )
    });
    namespaces.into_iter().chain(user)
}

fn time(timings: &Timings) -> Option<String> {
    let steps = [
        ("accept", timings.accept),
        ("identify", timings.identify),
        ("resolve", timings.resolve),
        ("decide", timings.decide),
        ("admit", timings.admit),
        ("launch", timings.launch),
        ("actions", timings.actions),
        ("record", timings.record),
    ];
    let steps = steps
        .iter()
        .filter_map(|(name, time)| Some(format!("{name} {}", format::milliseconds((*time)?))));
    let steps: Vec<String> = steps.collect();
    let held = timings
        .held
        .map(|held| format!("held {}", format::duration(held)));
    match (steps.is_empty(), held) {
        (true, held) => held,
        (false, None) => Some(format!("{} ms", steps.join("  "))),
        (false, Some(held)) => Some(format!("{} ms; {held}", steps.join("  "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given;

    #[test]
    fn a_crash_whose_helper_ran() {
        insta::assert_snapshot!(text(&given::shop(), &Look::given()));
    }

    #[test]
    fn a_crash_whose_helper_is_missing() {
        insta::assert_snapshot!(text(&given::missing(), &Look::given()));
    }

    #[test]
    fn the_others() {
        let others = [
            given::host(),
            given::storm(),
            given::hostile(),
            given::gone(),
            given::tested(),
        ];
        let all = others.map(|record| text(&record, &Look::given()));
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn without_utf8_marks_are_words() {
        let look = Look {
            utf8: false,
            ..Look::given()
        };
        let text = text(&given::missing(), &look);
        assert!(text.is_ascii(), "{text}");
        insta::assert_snapshot!(text);
    }
}
