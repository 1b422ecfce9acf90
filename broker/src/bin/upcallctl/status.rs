//! `upcallctl status`: whether everything is as it should be, on one screen.

use std::collections::BTreeMap;

use serde::Serialize;
use upcall_config::diagnostic::Code;
use upcalld::control::Status;
use upcalld::explain;
use upcalld::hooks::file::CoreHook;
use upcalld::hooks::key::line::Lines;
use upcalld::hooks::key::{KeyHook, Standing, Wrong};
use upcalld::policy;
use upcalld::store::space::{Kept, free, kept};

use crate::context::Context;
use crate::doctor::{self, Summary};
use crate::failure::Failure;
use crate::output::{print, print_json};

mod page;

/// The last hour, in microseconds.
const HOUR: u64 = 3_600_000_000;

/// Everything that is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct State {
    schema: &'static str,
    version: u32,
    /// Whether something needs the admin.
    degraded: bool,
    daemon: Status,
    /// Bytes of memory of daemon and launcher together.
    memory_bytes: Option<u64>,
    /// How keys come to us.
    key: Key,
    /// Mistakes in the rules on disk; unknown where they cannot be read.
    errors_on_disk: Option<usize>,
    /// Records of the last hour by kind and outcome; unknown where they cannot be read.
    last_hour: Option<BTreeMap<String, BTreeMap<&'static str, u64>>>,
    cores: Option<Kept>,
    /// Bytes free where cores are kept.
    free_bytes: Option<u64>,
    spool: Option<Kept>,
    /// What `doctor` finds.
    doctor: Summary,
}

/// The key hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Key {
    /// `program`, `line`, `lost` (it was ours, or is not whole), `another` (another upcalld's), `not_installed`.
    state: &'static str,
    /// What is wrong, where it is lost.
    problem: Option<String>,
    /// What that means, and what of `upcallctl` mends it.
    #[serde(skip)]
    advice: [&'static str; 2],
    /// The types that come, of `line`; else all do.
    types: Vec<String>,
}

impl Key {
    fn new(hook: &KeyHook) -> Self {
        if let Some(wrong) = hook.wrong() {
            return Self::lost(&wrong);
        }
        let (state, types) = match (hook.standing(), hook.lines().standing()) {
            (Standing::Ours, _) => ("program", Vec::new()),
            (_, Lines::Ours(lines)) => ("line", lines.into_iter().map(|line| line.kind).collect()),
            // The file that says more is root's.
            (Standing::Lost, _) => return Self::lost(&Wrong::Taken(hook.place())),
            (Standing::Another, _) | (_, Lines::Another) => ("another", Vec::new()),
            (Standing::Foreign | Standing::Nothing, Lines::Foreign | Lines::Nothing) => {
                ("not_installed", Vec::new())
            }
        };
        Self {
            state,
            types,
            problem: None,
            advice: [""; 2],
        }
    }

    fn lost(wrong: &Wrong) -> Self {
        Self {
            state: "lost",
            types: Vec::new(),
            problem: Some(wrong.to_string()),
            advice: [wrong.meaning(), wrong.cure()],
        }
    }
}

/// Runs the command.
pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    let mut client = context.connect()?;
    let daemon = client.status();
    let daemon = daemon.map_err(|error| Failure::call(context, error))?;
    let state = State::new(context, daemon);
    if context.json.is_some() {
        print_json(&state)?;
    } else {
        print(&page::text(&state, context))?;
    }
    if state.degraded {
        return Err(Failure::BadNews);
    }
    Ok(())
}

/// What the core hook is, in a clause.
pub(crate) fn hook_word(context: &Context) -> String {
    let install = context.typed("install core");
    let Ok(standing) = context.sysctl.read() else {
        return "core_pattern cannot be read".to_owned();
    };
    let ours = standing.pattern.is_of(&context.hooks);
    match (ours, CoreHook::read(&context.hooks).is_ok()) {
        (true, _) => "core is ours".to_owned(),
        (false, true) => format!("core is foreign ({})", context.typed("status")),
        (false, false) => format!("core is not installed ({install})"),
    }
}

impl State {
    fn new(context: &Context, daemon: Status) -> Self {
        let cores = explain::cores(&context.state);
        let memory = [daemon.pid, daemon.launcher_pid].map(memory);
        let [daemon_memory, launcher_memory] = memory;
        let mut state = Self {
            schema: "upcalld.status",
            version: 1,
            degraded: false,
            memory_bytes: daemon_memory.zip(launcher_memory).map(|(a, b)| a + b),
            key: Key::new(&context.key),
            errors_on_disk: errors_on_disk(context, &daemon),
            last_hour: last_hour(context),
            cores: kept(&cores),
            free_bytes: free(&cores).or_else(|| free(&context.state)),
            spool: kept(&context.spool()),
            doctor: doctor::summary(context),
            daemon,
        };
        state.degraded = state.needs() > 0;
        state
    }

    fn has_bad_hook(&self) -> bool {
        let core = self.daemon.core == "foreign" || self.daemon.hook_file_problem.is_some();
        core || self.key.state == "lost"
    }

    fn has_bad_module_hook(&self) -> bool {
        self.daemon.module.state == "foreign"
    }

    fn has_mistakes(&self) -> bool {
        self.errors_on_disk.is_some_and(|errors| errors > 0)
    }

    fn has_spooled(&self) -> bool {
        self.spool.is_some_and(|spool| spool.cores > 0)
    }

    /// How many things need the admin.
    fn needs(&self) -> usize {
        let needs = [
            self.has_bad_hook(),
            self.has_bad_module_hook(),
            self.has_mistakes(),
            self.has_spooled(),
        ];
        needs.into_iter().filter(|needs| *needs).count()
    }
}

/// Mistakes in the rules on disk. What upcalld has loaded unchanged has none.
fn errors_on_disk(context: &Context, daemon: &Status) -> Option<usize> {
    if daemon.unchanged {
        return Some(0);
    }
    let loaded = policy::check(&context.config);
    let unreadable = |code| code == Code::UnreadableFile;
    if loaded.diagnostics.iter().any(|d| unreadable(d.code())) {
        return None;
    }
    Some(loaded.errors())
}

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn last_hour(context: &Context) -> Option<BTreeMap<String, BTreeMap<&'static str, u64>>> {
    let records = context.records();
    let entries = records.entries().ok()?;
    let now = u64::try_from(context.look.now.as_microsecond()).unwrap_or(0);
    let since = now.saturating_sub(HOUR);
    let mut counts: BTreeMap<String, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for entry in entries
        .iter()
        .rev()
        .take_while(|entry| entry.micros >= since)
    {
        let Some(record) = records.read(entry) else {
            continue;
        };
        // Nothing crashed on its own.
        if record
            .verdict
            .actions
            .iter()
            .any(|action| action == "self_test")
        {
            continue;
        }
        let kind = counts.entry(record.kind).or_default();
        *kind.entry(record.outcome.as_str()).or_default() += record.count;
    }
    Some(counts)
}
