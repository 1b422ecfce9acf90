//! What a refusal costs, beside a core that is kept.

use anyhow::{Context, Result};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::HostHook;
use upcall_e2e::programs::Programs;
use upcall_e2e::sandbox::Sandbox;

use crate::crash::{container, crashes, ours};
use crate::stats::{Row, percentile};

/// Crashes in a round, and the memory of each in MiB.
const CRASHES: &str = "5";
const MEMORY: &str = "64";

const RULES: &str = r#"
[[rule]]
upcall = "core"
match.container = { runtime = "runc", name = "*kept" }
store = { ignore_limit = true }

[[rule]]
upcall = "core"
match.container = { runtime = "runc" }
deny = { reason = "measured" }
"#;

pub(crate) fn run(programs: &Programs, rounds: usize) -> Result<()> {
    let sandbox = Sandbox::at("/run/upcalld-bench".into(), programs.clone())?;
    sandbox.rules(RULES)?;
    let noop = sandbox.path("bin/noop");
    sandbox.program("bench-peer", &noop)?;
    let (kept, refused) = (
        container(&sandbox, "kept")?,
        container(&sandbox, "refused")?,
    );
    let daemon = Daemon::start_strict(&sandbox)?;
    let hook = HostHook::borrow()?;
    hook.install(&sandbox)?;
    let noop = format!("|{}", noop.display());
    let ours = ours(&sandbox)?;
    let mut handlers = vec![("a handler that ends at once", &noop, &kept)];
    for (name, pattern) in &ours {
        let by_socket = name.ends_with("socket");
        let [keeps, refuses] = if by_socket {
            ["kept, by the socket", "refused, by the socket"]
        } else {
            ["kept, by the pipe", "refused, by the pipe"]
        };
        handlers.push((keeps, pattern, &kept));
        handlers.push((refuses, pattern, &refused));
    }
    let mut rows: Vec<Row> = handlers.iter().map(|(name, ..)| Row::new(name)).collect();
    for round in 0..=rounds {
        for ((_, pattern, container), row) in handlers.iter().zip(&mut rows) {
            std::fs::write("/proc/sys/kernel/core_pattern", pattern)?;
            let times = crashes(container, &[CRASHES, MEMORY])?;
            // The first round warms up.
            if round > 0 {
                row.rounds.push(times);
            }
        }
    }
    hook.put_back()?;
    drop((kept, refused));
    daemon.stop(&sandbox)?;
    println!(
        "whole crash with a {MEMORY} MiB core, kept (zstd) or refused, {rounds} rounds of {CRASHES}"
    );
    println!("  {:<38} {:>9} {:>9} {:>8}", "", "median", "p90", "of kept");
    let mut against = rows.first().context("no rows")?;
    for row in &rows {
        if row.name.starts_with("kept") {
            against = row;
        }
        let all = row.all();
        println!(
            "  {:<38} {:>6.2} ms {:>6.2} ms {:>8.3}",
            row.name,
            percentile(&all, 50),
            percentile(&all, 90),
            row.ratio(against)
        );
    }
    println!();
    Ok(())
}
