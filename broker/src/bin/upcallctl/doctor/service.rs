//! The daemon: whether it runs, what it may, what it has room for, and whether its rules are good.

use upcall_config::capability;
use upcall_config::diagnostic::Severity;
use upcalld::policy;
use upcalld::store::space;

use super::finding::Finding;
use super::host::{Host, Text};
use crate::format;

/// Descriptors that one upcall takes in the daemon at most: its socket, the kernel's pipe, pidfds, what is opened of
/// /proc, the record, pipes to a helper; with some to spare.
const PER_UPCALL: u64 = 24;

/// Capabilities without which the launcher cannot bring a helper into every container.
const NEEDED: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "KILL",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_RESOURCE",
];

/// Whether it runs.
pub(super) fn daemon(host: &Host<'_>) -> Finding {
    const NAME: &str = "daemon";
    let spool = space::kept(&host.context.spool()).unwrap_or_default();
    let waiting = match spool.cores {
        0 => "the spool is empty".to_owned(),
        cores => format!(
            "{} in the spool, {}",
            format::count(cores, "core"),
            format::size(spool.bytes)
        ),
    };
    if let Some(daemon) = &host.daemon {
        return Finding::ok(
            NAME,
            format!("upcalld {}, pid {}; {waiting}", daemon.version, daemon.pid),
        );
    }
    let start = if host.context.options.is_empty() {
        "systemctl start upcalld; why it stopped: journalctl -u upcalld -n 20".to_owned()
    } else {
        format!("upcalld {} --foreground", host.context.options)
    };
    let stopped = "upcalld does not run, or does not talk to you";
    if host.is_ours() {
        Finding::error(NAME, format!("{stopped}, and the hook is ours; {waiting}"))
            .why("the shim keeps cores in the spool up to its size, and nothing of a container is handled inside it")
            .cure(start)
    } else {
        Finding::warning(NAME, stopped)
            .why("nothing is handled")
            .cure(start)
    }
}

/// What the launcher may do.
pub(super) fn capabilities(host: &Host<'_>) -> Finding {
    const NAME: &str = "capabilities";
    let pid = host.daemon.as_ref().map(|daemon| daemon.launcher_pid);
    // Without a daemon: what PID 1 could give one.
    let pid = pid.unwrap_or(1);
    let status = match host.read(format!("proc/{pid}/status")) {
        Text::Is(text) => text,
        Text::None => return Finding::unknown(NAME, format!("/proc/{pid}/status is not there")),
        Text::Closed(why) => return Finding::unknown(NAME, why),
    };
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let Some(Ok(set)) = bounding.map(|set| u64::from_str_radix(set.trim(), 16)) else {
        return Finding::unknown(NAME, format!("/proc/{pid}/status has no CapBnd"));
    };
    let held = capability::names(set);
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|name| !held.iter().any(|held| held == name))
        .collect();
    match missing.as_slice() {
        [] => Finding::ok(NAME, "all that helpers' ways into containers need"),
        ["SYS_RESOURCE"] => Finding::warning(NAME, "upcalld's launcher lacks SYS_RESOURCE")
            .why("a helper cannot get limits of its container's init that are higher than upcalld's own; it keeps the lower ones")
            .cure("start upcalld with all capabilities: no CapabilityBoundingSet= in its unit, no container around it"),
        missing => Finding::error(NAME, format!("upcalld's launcher lacks {}", missing.join(" ")))
            .why("steps on the way into containers fail for want of them, and `run` inside fails with them")
            .cure("start upcalld with all capabilities: no CapabilityBoundingSet= in its unit, no container around it"),
    }
}

/// Whether there are descriptors for all that may run at once.
pub(super) fn descriptors(host: &Host<'_>) -> Finding {
    const NAME: &str = "descriptors";
    let Some(daemon) = &host.daemon else {
        return Finding::unknown(
            NAME,
            "upcalld does not run, so its limits could not be looked at",
        );
    };
    let limits = match host.read(format!("proc/{}/limits", daemon.pid)) {
        Text::Is(text) => text,
        Text::None => return Finding::unknown(NAME, "upcalld is gone"),
        Text::Closed(why) => return Finding::unknown(NAME, why),
    };
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = soft.and_then(|rest| rest.split_whitespace().next());
    let soft = match soft {
        Some("unlimited") => u64::MAX,
        Some(soft) => soft.parse().unwrap_or(0),
        None => return Finding::unknown(NAME, "its limits have no line for open files"),
    };
    let concurrent = u64::from(host.settings().limits.concurrent);
    let wanted = concurrent * PER_UPCALL;
    let what = format!("upcalld may open {soft} files, and limits.concurrent is {concurrent}");
    if soft >= wanted {
        return Finding::ok(NAME, what);
    }
    Finding::warning(NAME, what)
        .why(format!("with {wanted} every upcall has its descriptors; with fewer some go to the spool under load"))
        .cure("raise the hard limit (LimitNOFILE= of upcalld.service), or lower limits.concurrent")
}

/// Whether there is room for cores.
pub(super) fn space(host: &Host<'_>) -> Finding {
    const NAME: &str = "disk";
    let state = &host.context.state;
    let floor = host.settings().store.keep_free;
    let Some(free) = space::free(state) else {
        return Finding::unknown(NAME, format!("{} cannot be looked at", state.display()));
    };
    let what = format!(
        "{} free in {}, store.keep_free is {}",
        format::size(free),
        state.display(),
        format::size_set(floor)
    );
    let cure = "remove cores that nobody needs any more, or lower store.keep_free in upcalld.toml";
    if free < floor {
        Finding::error(NAME, what)
            .why("under the floor no core is kept, by upcalld or by the shim")
            .cure(cure)
    } else if free < floor.saturating_mul(2) {
        Finding::warning(NAME, what)
            .why("under the floor no core is kept")
            .cure(cure)
    } else {
        Finding::ok(NAME, what)
    }
}

/// Whether the rules on disk are good.
pub(super) fn rules(host: &Host<'_>) -> Finding {
    const NAME: &str = "rules";
    let loaded = policy::check(&host.context.config);
    let first = |severity| {
        let found = loaded
            .diagnostics
            .iter()
            .find(|d| d.code().severity() == severity);
        found.map(|d| {
            d.render(false)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        })
    };
    let check = host.context.typed("check");
    if let Some(first) = first(Severity::Error) {
        return Finding::error(
            NAME,
            format!("{}: {first}", format::count(loaded.errors(), "error")),
        )
        .why("upcalld keeps the rules that it has loaded, and does not start again with these")
        .cure(check);
    }
    if let Some(first) = first(Severity::Warning) {
        return Finding::warning(
            NAME,
            format!("{}: {first}", format::count(loaded.warnings(), "warning")),
        )
        .why("a rule may not do what it was written for")
        .cure(check);
    }
    Finding::ok(
        NAME,
        format!(
            "{} from {}",
            format::count(loaded.rules, "rule"),
            format::count(loaded.files.len(), "file")
        ),
    )
}
