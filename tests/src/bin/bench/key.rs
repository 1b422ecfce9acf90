//! A key that a process asks for, from request_key(2) to its return with the key.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::command;
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::dynamic;
use upcall_e2e::key_hook::HostKeyHook;
use upcall_e2e::programs::Programs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::skip;

use crate::stats::{Row, percentile};

/// Keys in a round.
const KEYS: &str = "20";

/// The same helper everywhere, so that what differs is the way to it.
const RULES: &str = r#"
[[rule]]
upcall = "key"
match.key = { type = "user", description = "inside:*" }
run = { in = "container", command = ["/bin/keyctl", "instantiate", "{key}", "x", "0"] }

[[rule]]
upcall = "key"
match.key = { type = "user", description = "answered:*" }
answer = { payload = "x", ttl = "1m" }
"#;

/// The line of request-key.conf(5) for it.
const LINE: &str = "/etc/request-key.d/upcalld-bench.conf";

/// A file that goes when this does.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// A line of the hook's file: the shim finds nobody to ask, and does what it then does, start what stood there before. So
/// much costs any program between the kernel and that one, whatever it asks.
const NOBODY: &str = "socket = /run/upcalld-bench/nobody.sock";

/// What of ours is in the kernel's place.
#[derive(Clone, Copy, PartialEq)]
enum Ours {
    Nothing,
    Shim,
    All,
}

impl Ours {
    /// What this contestant wants.
    fn of(place: usize) -> Self {
        match place {
            0 => Self::Nothing,
            1 => Self::Shim,
            _ => Self::All,
        }
    }
}

pub(crate) fn run(programs: &Programs, rounds: usize) -> Result<()> {
    let sandbox = Sandbox::at("/run/upcalld-bench".into(), programs.clone())?;
    sandbox.rules(RULES)?;
    let keyctl = skip::find("keyctl").context("keyctl")?;
    let helper = keyctl.clone();
    let container = Runc::new("bench")
        .user_namespace()
        .root(move |root| dynamic::copy(root, &helper, "/bin/keyctl", &[]))
        .start(&sandbox)?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let line = Removed(LINE.into());
    let text = format!(
        "create user bench:* * {} instantiate %k x 0\n",
        keyctl.display()
    );
    std::fs::write(&line.0, text).context(LINE)?;
    let contestants = [
        ("the distribution's, its helper on the host", "bench:stock:"),
        ("the shim alone, to the same", "bench:alone:"),
        ("upcalld, pass to the same", "bench:pass:"),
        ("upcalld, helper in the container", "inside:"),
        ("upcalld, answer", "answered:"),
    ];
    let mut rows: Vec<Row> = contestants.iter().map(|(name, _)| Row::new(name)).collect();
    for round in 0..=rounds {
        // Whoever is in the kernel's place is so for a round of each.
        for ours in [Ours::Nothing, Ours::Shim, Ours::All] {
            let hook = match ours {
                Ours::Nothing => None,
                Ours::Shim | Ours::All => Some(HostKeyHook::borrow(&sandbox)?),
            };
            if let (Ours::Shim, Some(hook)) = (ours, &hook) {
                hook.file(&sandbox, NOBODY)?;
            }
            for (place, ((_, prefix), row)) in contestants.iter().zip(&mut rows).enumerate() {
                if Ours::of(place) != ours {
                    continue;
                }
                let times = keys(&container, &format!("{prefix}{round}:"))?;
                // The first round warms up.
                if round > 0 {
                    row.rounds.push(times);
                }
            }
            if let Some(hook) = hook {
                hook.put_back()?;
            }
        }
    }
    drop(line);
    let failed = daemon.records().all();
    let failed = failed.iter().filter(|r| r.outcome.as_str() != "done");
    let failed = failed.count();
    ensure!(failed == 0, "{failed} of upcalld's keys were not answered");
    drop(container);
    daemon.stop(&sandbox)?;
    println!("a key, in a runc container with a user namespace, {rounds} rounds of {KEYS}");
    println!(
        "  {:<44} {:>8} {:>8} {:>8}",
        "", "median", "p90", "of stock"
    );
    let stock = rows.first().context("a row")?;
    for row in &rows {
        let all = row.all();
        println!(
            "  {:<44} {:>5.2} ms {:>5.2} ms {:>8.2}",
            row.name,
            percentile(&all, 50),
            percentile(&all, 90),
            row.ratio(stock)
        );
    }
    println!();
    Ok(())
}

/// Milliseconds of each key that a process of the container asked for.
fn keys(container: &Container, prefix: &str) -> Result<Vec<f64>> {
    let output = command("runc")
        .args([
            "exec",
            container.id(),
            "/key-me",
            "--time",
            KEYS,
            "user",
            prefix,
            "",
        ])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{text}");
    text.lines()
        .map(|line| Ok(line.parse::<f64>().context(line.to_owned())? / 1e6))
        .collect()
}
