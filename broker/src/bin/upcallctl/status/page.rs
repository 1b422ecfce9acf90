//! The page that people see.

use super::State;
use crate::context::Context;
use crate::format;
use crate::look::{Look, Paint};
use upcalld::store::space::Kept;

/// The whole of it.
pub(super) fn text(state: &State, context: &Context) -> String {
    let look = &context.look;
    let mut lines = vec![title(state, look)];
    lines.extend(hook(state, context));
    lines.extend(key(state, context));
    lines.extend(module(state, context));
    lines.extend(rules(state, context));
    lines.push(row("last hour", "", false, &hour(state), look));
    lines.extend(space(state, context));
    lines.join("\n") + "\n"
}

/// A line of the page: a heading, a mark where something is wrong, and text.
fn row(heading: &str, word: &str, wrong: bool, text: &str, look: &Look) -> String {
    let mark = if wrong {
        look.paint(Paint::Bad, if look.utf8 { "✗" } else { "!" })
    } else {
        " ".to_owned()
    };
    let heading = look.paint(Paint::Head, &format!("{heading:9}"));
    let word = if word.is_empty() {
        String::new()
    } else {
        format!("{word:8}")
    };
    format!("  {heading} {mark} {word}{text}")
}

/// A line under one of them.
fn more(text: &str) -> String {
    format!("{:22}{text}", "")
}

fn title(state: &State, look: &Look) -> String {
    let daemon = &state.daemon;
    let sign = match (state.degraded, look.utf8) {
        (false, true) => look.paint(Paint::Good, "●"),
        (false, false) => look.paint(Paint::Good, "*"),
        (true, true) => look.paint(Paint::Bad, "▲"),
        (true, false) => look.paint(Paint::Bad, "!"),
    };
    let started = format::timestamp(daemon.started);
    let memory = state
        .memory_bytes
        .map(|bytes| format!(", {} together", format::size(bytes)));
    let degraded = match state.needs() {
        0 => String::new(),
        1 => ": degraded, 1 thing needs you".to_owned(),
        needs => format!(": degraded, {needs} things need you"),
    };
    format!(
        "{sign} upcalld {}, running since {} ({}), pid {}, launcher {}{}{degraded}",
        daemon.version,
        format::date(started, &look.zone),
        format::ago_long(started, look.now),
        daemon.pid,
        daemon.launcher_pid,
        memory.unwrap_or_default(),
    )
}

fn hook(state: &State, context: &Context) -> Vec<String> {
    let (daemon, look) = (&state.daemon, &context.look);
    let previous = daemon
        .previous
        .as_deref()
        .map(upcall_config::text::printable);
    let previous = previous.as_deref().unwrap_or("?");
    let checked = format::ago(format::timestamp(daemon.checked), look.now);
    let mode = match daemon.mode.as_deref() {
        Some("socket") => "socket (@@)",
        Some(mode) => mode,
        None => "pipe",
    };
    match daemon.core.as_str() {
        "ours" if daemon.hook_file_problem.is_some() => {
            let problem = daemon.hook_file_problem.as_deref().unwrap_or_default();
            let problem = upcall_config::text::printable(problem);
            let text = format!("ours: {mode}, and nobody knows what stood there before: {problem}");
            let help = "help: put back by hand what stood there, as in: echo core > \
                        /proc/sys/kernel/core_pattern; then install again";
            vec![row("hooks", "core", true, &text, look), more(help)]
        }
        "ours" => {
            let text = format!("ours: {mode}   before us: {previous}   checked {checked}");
            vec![row("hooks", "core", false, &text, look)]
        }
        "foreign" => {
            let since = daemon.foreign_since.unwrap_or(daemon.checked);
            let since = format::clock(format::timestamp(since), look.now, &look.zone);
            let pattern = daemon.foreign.as_deref().unwrap_or_default();
            let pattern = upcall_config::text::printable(pattern);
            let text = format!("foreign since {since}: {pattern}      before us: {previous}");
            let install = context.typed("install core");
            vec![
                row("hooks", "core", true, &text, look),
                more("crashes since then go there, and no rule applies to them"),
                more(&format!(
                    "help: {install}; to have it taken back by itself: hooks.retake = true in upcalld.toml"
                )),
            ]
        }
        _ => {
            let text = format!("not installed ({})", context.typed("install core"));
            vec![row("hooks", "core", false, &text, look)]
        }
    }
}

fn key(state: &State, context: &Context) -> Vec<String> {
    let (hook, look) = (&context.key, &context.look);
    let (place, was) = (hook.place(), hook.was());
    let (place, was) = (place.display(), was.display());
    let (wrong, text) = match state.key.state {
        "program" => (false, format!("ours: {place}   before us: {was}")),
        "line" => {
            let file = hook.lines().path();
            let types = state.key.types.join(" ");
            (false, format!("ours by {}: {types}", file.display()))
        }
        "lost" => (true, state.key.problem.clone().unwrap_or_default()),
        "another" => (false, "another upcalld's".to_owned()),
        _ => {
            let install = context.typed("install key");
            (false, format!("not installed ({install})"))
        }
    };
    let mut lines = vec![row("", "key", wrong, &text, look)];
    if wrong {
        let [meaning, cure] = state.key.advice;
        lines.push(more(meaning));
        lines.push(more(&format!("help: {}", context.typed(cure))));
    }
    lines
}

/// The module hook, where it is or was ours.
fn module(state: &State, context: &Context) -> Vec<String> {
    let (module, look) = (&state.daemon.module, &context.look);
    let previous = module.previous.as_deref().unwrap_or("?");
    let previous = upcall_config::text::printable(previous);
    match (module.state.as_str(), &module.foreign) {
        ("ours", _) => {
            let by = match module.evidence.as_deref() {
                Some("kprobe") => "who asks: by kprobe",
                Some(_) => "who asks: by a scan (upcallctl doctor)",
                None => "nobody asked yet",
            };
            let text = format!("ours: kernel.modprobe   before us: {previous}   {by}");
            vec![row("", "module", false, &text, look)]
        }
        ("foreign", Some(value)) => {
            let since = module.foreign_since.unwrap_or(state.daemon.checked);
            let since = format::clock(format::timestamp(since), look.now, &look.zone);
            let value = upcall_config::text::printable(value);
            let text = format!("foreign since {since}: {value}      before us: {previous}");
            vec![
                row("", "module", true, &text, look),
                more("modules since then are loaded by that, and no rule applies to them"),
                more(&format!("help: {}", context.typed("install module"))),
            ]
        }
        _ => Vec::new(),
    }
}

fn rules(state: &State, context: &Context) -> Vec<String> {
    let (daemon, look) = (&state.daemon, &context.look);
    let loaded = format!(
        "{} from {}, loaded {}",
        format::count(daemon.rules, "rule"),
        format::count(daemon.files, "file"),
        format::clock(format::timestamp(daemon.loaded), look.now, &look.zone),
    );
    let disk = match (daemon.unchanged, state.errors_on_disk) {
        (true, _) => "unchanged on disk".to_owned(),
        (false, Some(0)) => format!("changed on disk since ({})", context.typed("reload")),
        (false, None) => "changed on disk since".to_owned(),
        (false, Some(errors)) => {
            format!(
                "changed on disk since, with {}: these stay",
                format::count(errors, "error")
            )
        }
    };
    let wrong = state.has_mistakes();
    let text = format!("{loaded}, {disk}; no rule matches: pass");
    let mut lines = vec![row("policy", "", wrong, &text, look)];
    if wrong {
        lines.push(more(&format!("help: {}", context.typed("check"))));
    }
    lines
}

fn hour(state: &State) -> String {
    const BAD: [&str; 3] = ["failed", "lost", "missed"];
    let Some(kinds) = &state.last_hour else {
        return "the records cannot be read".to_owned();
    };
    let mut parts = Vec::new();
    for (kind, outcomes) in kinds {
        let all: u64 = outcomes.values().sum();
        let shown = outcomes
            .iter()
            .filter(|(outcome, _)| !BAD.contains(outcome));
        let shown: Vec<String> = shown
            .map(|(outcome, count)| format!("{count} {outcome}"))
            .collect();
        if shown.is_empty() {
            parts.push(format!("{kind} {all}"));
        } else {
            parts.push(format!("{kind} {all}: {}", shown.join(", ")));
        }
    }
    if parts.is_empty() {
        parts.push("no upcalls".to_owned());
    }
    let count = |outcome: &str| -> u64 {
        kinds
            .values()
            .filter_map(|outcomes| outcomes.get(outcome))
            .sum()
    };
    let bad = BAD.map(|outcome| format!("{outcome} {}", count(outcome)));
    parts.push(bad.join(", "));
    parts.join("   ")
}

fn space(state: &State, context: &Context) -> Vec<String> {
    let look = &context.look;
    let kept = match state.cores {
        None => "only root sees them".to_owned(),
        Some(Kept { cores: 0, .. }) => "none kept".to_owned(),
        Some(kept) => format!("{} kept, {}", kept.cores, format::size(kept.bytes)),
    };
    let free = state
        .free_bytes
        .map(|free| format!("; {} free", format::size(free)));
    let floor = format::size_set(state.daemon.keep_free);
    let cores = format!("{kept}{}, floor {floor}", free.unwrap_or_default());
    let doctor = format!(
        "{}, {}",
        format::count(state.doctor.errors, "error"),
        format::count(state.doctor.warnings, "warning")
    );
    let Some(spool) = state.spool.filter(|spool| spool.cores > 0) else {
        let spool = if state.spool.is_some() {
            "         spool  empty"
        } else {
            ""
        };
        let cores = format!("{cores}{spool}         doctor  {doctor}");
        return vec![row("cores", "", false, &cores, look)];
    };
    let cores = format!("{cores}         doctor  {doctor}");
    let oldest = spool.oldest.map(|oldest| {
        format!(
            ", oldest {}",
            format::ago(format::timestamp(oldest), look.now)
        )
    });
    let waiting = format!(
        "{} waiting, {}{}: {}",
        format::count(spool.cores, "core"),
        format::size(spool.bytes),
        oldest.unwrap_or_default(),
        context.spool().display(),
    );
    vec![
        row("cores", "", false, &cores, look),
        row("spool", "", true, &waiting, look),
        more("upcalld did not take them when they came; no rule was asked about them"),
        more("help: look at them and remove them; why they came: journalctl -u upcalld"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::doctor::Summary;
    use crate::status::Key;
    use clap::Parser;
    use std::collections::BTreeMap;
    use upcalld::control::{ModuleStatus, Status};
    use upcalld::hooks::key::Wrong;

    fn context(utf8: bool) -> Context {
        let cli = Cli::parse_from(["upcallctl", "status"]);
        Context {
            look: Look {
                utf8,
                ..Look::given()
            },
            ..Context::new(&cli)
        }
    }

    fn micros(time: &str) -> u64 {
        let time: jiff::Timestamp = time.parse().unwrap();
        time.as_microsecond().try_into().unwrap()
    }

    fn healthy() -> State {
        let counts = [("done", 5), ("refused", 1274), ("partial", 1)];
        State {
            schema: "upcalld.status",
            version: 1,
            degraded: false,
            daemon: Status {
                version: "0.1.0".into(),
                pid: 912,
                launcher_pid: 913,
                started: micros("2026-11-22T07:11:04Z"),
                rules: 17,
                files: 6,
                loaded: micros("2026-11-22T12:40:02Z"),
                unchanged: true,
                core: "ours".into(),
                foreign: None,
                foreign_since: None,
                checked: micros("2026-11-22T13:05:18Z"),
                previous: Some("|/usr/lib/systemd/systemd-coredump %P %u".into()),
                hook_file_problem: None,
                module: ModuleStatus::default(),
                keep_free: 2 << 30,
                kernel_socket: None,
                mode: Some("pipe".into()),
            },
            key: Key {
                state: "program",
                types: Vec::new(),
                problem: None,
                advice: [""; 2],
            },
            memory_bytes: Some(10_276_044),
            errors_on_disk: Some(0),
            last_hour: Some(BTreeMap::from([("core".into(), counts.into())])),
            cores: Some(Kept {
                cores: 27,
                bytes: 3_328_599_655,
                oldest: None,
            }),
            free_bytes: Some(61 << 30),
            spool: Some(Kept::default()),
            doctor: Summary {
                errors: 0,
                warnings: 2,
            },
        }
    }

    #[test]
    fn everything_as_it_should_be() {
        insta::assert_snapshot!(text(&healthy(), &context(true)));
    }

    #[test]
    fn three_things_need_the_admin() {
        let mut state = healthy();
        state.daemon.core = "foreign".into();
        state.key = Key::lost(&Wrong::Taken("/sbin/request-key".into()));
        state.daemon.foreign = Some("@@/run/systemd/coredump-kernel".into());
        state.daemon.foreign_since = Some(micros("2026-11-22T12:58:10Z"));
        state.daemon.unchanged = false;
        state.errors_on_disk = Some(2);
        state.spool = Some(Kept {
            cores: 2,
            bytes: 318 << 20,
            oldest: Some(micros("2026-11-22T13:01:00Z")),
        });
        state.degraded = state.needs() > 0;
        assert!(state.degraded);
        insta::assert_snapshot!(text(&state, &context(true)));
        insta::assert_snapshot!("in_ascii", text(&state, &context(false)));
    }

    #[test]
    fn the_module_hook_too() {
        let mut state = healthy();
        state.daemon.module = ModuleStatus {
            state: "ours".into(),
            previous: Some("/sbin/modprobe".into()),
            evidence: Some("kprobe".into()),
            ..ModuleStatus::default()
        };
        let ours = text(&state, &context(true));
        state.daemon.module.evidence = Some("scan".into());
        let scanned = text(&state, &context(true));
        state.daemon.module.state = "foreign".into();
        state.daemon.module.foreign = Some("/bin/false".into());
        state.daemon.module.foreign_since = Some(micros("2026-11-22T12:58:10Z"));
        assert_eq!(state.needs(), 1);
        let foreign = text(&state, &context(true));
        let line = |text: &str| -> String {
            let lines = text.lines().skip_while(|line| !line.contains("module"));
            lines
                .take_while(|line| !line.contains("policy"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        insta::assert_snapshot!([ours, scanned, foreign].map(|page| line(&page)).join("\n"));
    }

    #[test]
    fn what_others_than_root_cannot_see_is_said() {
        let mut state = healthy();
        state.daemon.core = "not_installed".into();
        state.key.state = "not_installed";
        state.daemon.previous = None;
        state.daemon.unchanged = false;
        state.errors_on_disk = None;
        state.last_hour = None;
        (state.cores, state.spool, state.memory_bytes) = (None, None, None);
        assert_eq!(state.needs(), 0);
        insta::assert_snapshot!(text(&state, &context(true)));
    }

    #[test]
    fn a_hook_that_cannot_be_taken_out_needs_the_admin() {
        let mut state = healthy();
        let problem = "/etc/upcalld/hooks/core: there is no usable line `previous = …`";
        state.daemon.hook_file_problem = Some(problem.into());
        (state.key.state, state.key.types) = ("line", vec!["dns_resolver".into(), "user".into()]);
        state.daemon.previous = None;
        state.degraded = state.needs() > 0;
        assert!(state.degraded);
        insta::assert_snapshot!(text(&state, &context(true)));
    }

    #[test]
    fn a_quiet_hour() {
        let mut state = healthy();
        state.last_hour = Some(BTreeMap::new());
        assert_eq!(hour(&state), "no upcalls   failed 0, lost 0, missed 0");
        let counts = BTreeMap::from([("lost", 2), ("failed", 1)]);
        state.last_hour = Some(BTreeMap::from([("core".into(), counts)]));
        assert_eq!(hour(&state), "core 3   failed 1, lost 2, missed 0");
    }
}
