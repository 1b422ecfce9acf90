//! One record in a line: the cells of `list` and `watch`.

use jiff::Timestamp;
use upcall_config::text::printable;
use upcalld::store::record::{Action, Container, Module, Outcome, Pod, Record, Umh};

use crate::format;
use crate::look::{Look, Paint};
use crate::table::Cell;

/// Refusals that are put together in one record come within so many seconds.
const TOGETHER: u64 = 10;

/// The cells.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: Cell,
    pub(crate) kind: Cell,
    pub(crate) container: Cell,
    pub(crate) process: Cell,
    pub(crate) what: Cell,
    pub(crate) rule: Cell,
    pub(crate) verdict: Cell,
    pub(crate) held: Cell,
}

impl Row {
    /// Those of a record.
    pub(crate) fn new(record: &Record, look: &Look) -> Self {
        let held = record.timings_us.held.map(format::duration);
        Self {
            id: Cell::new(&*record.id),
            kind: Cell::new(&*record.kind),
            container: Cell::new(container(record, look)),
            process: Cell::new(process(record, look)),
            what: Cell::new(what(record, look)),
            rule: Cell::new(rule(record)),
            verdict: Cell::new(ours(&verdict(record), look)).painted(paint(record.outcome)),
            held: Cell::new(held.map_or_else(|| "-".to_owned(), |held| ours(&held, look))),
        }
    }
}

/// When a record's upcall was.
pub(crate) fn time(record: &Record) -> Option<Timestamp> {
    record.time.parse().ok()
}

/// How a container is called in a line: its pod, or else its runtime and name.
pub(crate) fn container_name(container: &Container, look: &Look) -> String {
    if let Some(Pod {
        namespace: Some(namespace),
        name: Some(name),
        ..
    }) = &container.pod
    {
        return format!("{namespace}/{name}");
    }
    let name = match &container.name {
        Some(name) if *name != container.id => name.clone(),
        _ => short_id(&container.id, look),
    };
    format!("{}/{name}", container.runtime)
}

/// An id as far as people need it. Only long ones are cut: an admin's own names are not hexadecimal digits.
pub(crate) fn short_id(id: &str, look: &Look) -> String {
    let hexadecimal = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if look.cut && hexadecimal {
        id.chars().take(12).collect()
    } else {
        id.to_owned()
    }
}

/// The container's cell.
pub(crate) fn container(record: &Record, look: &Look) -> String {
    match &record.container {
        Some(container) => theirs(&container_name(container, look), look),
        None if !look.terminal => "-".to_owned(),
        None => match record.process.user_namespace.as_deref() {
            Some("initial") => "- (host)".to_owned(),
            Some(_) => "- (unregistered)".to_owned(),
            None => "-".to_owned(),
        },
    }
}

fn process(record: &Record, look: &Look) -> String {
    let pid = record.process.pid;
    let pid = pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
    match &record.process.comm {
        Some(comm) if look.terminal => format!("{pid} {comm}"),
        Some(comm) => format!("{pid},{}", theirs(comm, look)),
        None => pid,
    }
}

/// The signal and how much there was of the core; of a key its type and description; of a module, its
/// alias; of another helper its name and words.
fn what(record: &Record, look: &Look) -> String {
    let between = if look.terminal { " " } else { "," };
    let core = record.core.as_ref();
    let signal = core.and_then(|core| core.signal.clone());
    let key = record.key.as_ref().map(|key| {
        let words = [&key.kind, &key.description].map(|word| theirs(word, look));
        words.join(between)
    });
    let alias = record.module.as_ref();
    let alias = alias.map(|module| theirs(&module.alias, look));
    let helper = record.umh.as_ref().map(|umh| {
        let words = umh.words.iter().map(|word| theirs(word, look));
        let words: Vec<_> = std::iter::once(theirs(&umh.name, look))
            .chain(words)
            .collect();
        words.join(between)
    });
    let signal = signal
        .or(key)
        .or(alias)
        .or(helper)
        .unwrap_or_else(|| "?".to_owned());
    let much = match (record.count, size(record)) {
        (2.., _) if look.terminal => Some(format!("x{} in {TOGETHER} s", record.count)),
        (2.., _) => Some(format!("x{}", record.count)),
        (_, Some(bytes)) => Some(ours(&format::size(bytes), look)),
        (_, None) => None,
    };
    match much {
        Some(much) => [signal, much].join(between),
        None => signal,
    }
}

/// A key in a line: type, description, callout, caller.
pub(crate) fn key_line(
    kind: &str,
    description: &str,
    callout: Option<&str>,
    caller: &str,
) -> String {
    let callout = match callout {
        Some(callout) => format!("callout \"{callout}\""),
        None => "callout unknown".to_owned(),
    };
    let caller = match caller {
        "kernel" => "for the kernel itself",
        "user" => "for a program",
        _ => "for a program that claims to be the kernel",
    };
    format!("{kind} \"{description}\", {callout}, {caller}")
}

/// A module in a line: alias, and who can make the kernel ask for it.
pub(crate) fn module_line(module: &Module) -> String {
    let who = match module.who_can_ask.as_deref() {
        Some("any_user") => "any user can make the kernel ask for it",
        Some("any_user_namespace") => "root of any user namespace can make the kernel ask for it",
        Some("host_root") => "it takes root of the host, or a device node, to have it asked for",
        _ => "who can make the kernel ask for it is not known",
    };
    format!("{}; {who}", module.alias)
}

/// Another helper in a line: what it goes by, its words, and what is executed where that is something else.
pub(crate) fn umh_line(umh: &Umh) -> String {
    let words = umh.words.iter().map(|word| format!(" \"{word}\""));
    let program = match &umh.program {
        Some(program) if *program == umh.name => String::new(),
        Some(program) => format!(", which is {program}"),
        None => ", which is nothing on this host".to_owned(),
    };
    let known = if umh.known {
        ""
    } else {
        "; not known to be what the kernel starts so"
    };
    format!("{}{}{program}{known}", umh.name, words.collect::<String>())
}

/// Bytes of the core, as far as somebody read it.
pub(crate) fn size(record: &Record) -> Option<u64> {
    let stored = record.actions.iter().filter_map(|action| action.size_bytes);
    let fed = record.actions.iter().filter_map(|action| action.fed_bytes);
    stored.chain(fed).max().filter(|bytes| *bytes > 0)
}

/// The rule as it is cited, without the ending that all rule files have.
fn rule(record: &Record) -> String {
    let Some(rule) = &record.verdict.rule else {
        return "-".to_owned();
    };
    let name = file_name(&rule.file);
    let name = printable(name.strip_suffix(".toml").unwrap_or(name));
    format!("{}:{}", name.replace(' ', "\\x20"), rule.line)
}

/// The last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The actions, or how it ended if not well.
pub(crate) fn verdict(record: &Record) -> String {
    let outcome = record.outcome.as_str();
    if record.outcome == Outcome::Done {
        return match record.verdict.actions.as_slice() {
            [] => "-".to_owned(),
            actions => {
                let cells = actions.iter().map(|action| cell(record, action));
                cells.collect::<Vec<_>>().join(", ")
            }
        };
    }
    let reason = record.reason.as_deref();
    match reason.or_else(|| first_reason(&record.actions)) {
        Some(reason) => format!("{outcome}: {reason}"),
        None => outcome.to_owned(),
    }
}

/// An action that was done; what was kept and is there no more says so.
fn cell(record: &Record, name: &str) -> String {
    let mut done = record.actions.iter().filter(|done| done.action == name);
    match done.find_map(Action::gone) {
        Some(gone) => format!("{name} ({gone})"),
        None => name.to_owned(),
    }
}

fn first_reason(actions: &[Action]) -> Option<&str> {
    actions.iter().find_map(|action| action.reason.as_deref())
}

/// The colour of an outcome.
pub(crate) fn paint(outcome: Outcome) -> Paint {
    match outcome {
        Outcome::Done => Paint::Plain,
        Outcome::Open | Outcome::Refused => Paint::Doubt,
        Outcome::Partial | Outcome::Failed | Outcome::Lost | Outcome::Missed => Paint::Bad,
    }
}

/// Words of ours in one cell: a program reads them without spaces.
pub(crate) fn ours(text: &str, look: &Look) -> String {
    if look.terminal {
        text.to_owned()
    } else {
        text.replace(' ', "")
    }
}

/// A tenant's words in one cell; they are escaped already, but for spaces.
pub(crate) fn theirs(text: &str, look: &Look) -> String {
    if look.terminal {
        text.to_owned()
    } else {
        text.replace(' ', "\\x20")
    }
}
