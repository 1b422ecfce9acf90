//! `upcallctl show`: everything about one record.

use upcall_config::text::printable;
use upcalld::store::id;
use upcalld::store::record::{Container, Outcome, Record, Timings};

use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::look::{Look, Paint};
use crate::output::{print, print_json};
use crate::row;
use crate::table::length;

mod outcome;
mod verdict;

/// Where the text behind a heading begins.
const INDENT: usize = 12;

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
pub(crate) struct Page<'a> {
    pub(crate) text: String,
    look: &'a Look,
}

impl<'a> Page<'a> {
    /// An empty one.
    pub(crate) fn new(look: &'a Look) -> Self {
        Self {
            text: String::new(),
            look,
        }
    }

    /// A heading and its lines; nothing where there are none.
    pub(crate) fn section(&mut self, heading: &str, lines: impl IntoIterator<Item = String>) {
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
pub(crate) fn text(record: &Record, look: &Look) -> String {
    let mut page = Page::new(look);
    page.text = title(record, look) + "\n";
    page.section("process", [process(record)]);
    page.section("crash", crash(record));
    page.section("key", key(record));
    let module = record.module.as_ref();
    page.section("module", module.map(row::module_line));
    page.section("helper", record.umh.as_ref().map(row::umh_line));
    page.section("container", [container(record, look)]);
    page.section("evidence", evidence(record));
    page.section("verdict", verdict::lines(record, look));
    page.section("outcome", outcome::lines(record, look));
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

/// What was wanted, and what came of it.
fn key(record: &Record) -> Vec<String> {
    let Some(key) = &record.key else {
        return Vec::new();
    };
    let callout = key.callout.as_deref();
    let wanted = row::key_line(&key.kind, &key.description, callout, &key.caller);
    let good = key.ttl_us.map(|ttl| format!("{} s", ttl / 1_000_000));
    let answer = match (key.answer.as_deref(), &key.errno) {
        (Some("instantiated"), _) => {
            let bytes = usize::try_from(key.payload_bytes.unwrap_or(0)).unwrap_or(usize::MAX);
            let payload = key
                .payload_bytes
                .map(|_| format!(", {}", format::count(bytes, "byte")));
            let good = good.map(|good| format!(", good for {good}"));
            let [payload, good] = [payload, good].map(Option::unwrap_or_default);
            format!("answered by upcalld{payload}{good}")
        }
        (Some("helper"), _) => "answered by who was started for it".to_owned(),
        (Some("rejected"), Some(errno)) => {
            let good = good.map(|good| format!(" for {good}"));
            format!("refused with {errno}{}", good.unwrap_or_default())
        }
        (Some(other), _) => other.to_owned(),
        (None, _) => "not known to be answered".to_owned(),
    };
    vec![format!("{wanted}; serial {:#x}", key.serial), answer]
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
        Some("auth_key") => {
            "process: the authorisation key names it, and it waited while it was looked at"
                .to_owned()
        }
        Some("kprobe") => "process: the kernel's own trace of who asked, by kprobe; it waited while it was looked at".to_owned(),
        Some("scan") if evidence.candidates == 1 => {
            "process: the only thread of the host that waited for a helper".to_owned()
        }
        Some("scan") => format!(
            "process: one of {} threads of the host that waited for a helper; nobody knows which asked",
            evidence.candidates
        ),
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
    fn keys() {
        let keys = [given::name(), given::forged()];
        let all = keys.map(|record| text(&record, &Look::given()));
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn a_core_that_is_kept_no_more_says_so() {
        for (word, listed) in [
            ("evicted", "run, store (evicted)"),
            ("removed", "run, store (removed)"),
        ] {
            let mut record = given::shop();
            record.actions[1].state = Some(word.to_owned());
            record.actions[1].message = Some("by root".to_owned());
            let text = text(&record, &Look::given());
            let said = format!("was kept, 412 MiB as 61 MiB, {word}: by root\n");
            assert!(text.contains(&said), "{text}");
            assert_eq!(row::verdict(&record), listed);
        }
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
