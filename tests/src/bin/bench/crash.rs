//! A whole crash in a container, fork to waitpid of a 0.4 MB core, the kernel waiting for the helper.

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::command;
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::HostHook;
use upcall_e2e::programs::Programs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::skip::Need;
use upcalld::hooks::pattern::Pattern;

use crate::stats::{Row, percentile};

/// Crashes in a round.
const CRASHES: &str = "20";

pub(crate) const RULE: &str = r#"
[[rule]]
upcall = "core"
match.container = { runtime = "runc" }
run = { in = "container", command = ["/drain"] }
"#;

/// What many would write.
const SCRIPT: &str = "#!/bin/sh\nexec nsenter --target \"$1\" --user --mount --pid --net --ipc --uts --root /drain\n";

pub(crate) fn run(programs: &Programs, rounds: usize) -> Result<()> {
    let sandbox = Sandbox::at("/run/upcalld-bench".into(), programs.clone())?;
    sandbox.rules(RULE)?;
    for name in ["noop", "drain", "bare"] {
        sandbox.program("bench-peer", &sandbox.path("bin").join(name))?;
    }
    let script = sandbox.path("bin/nsenter.sh");
    std::fs::write(&script, SCRIPT)?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let container = container(&sandbox, "bench")?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let hook = HostHook::borrow()?;
    hook.install(&sandbox)?;
    let bin = sandbox.path("bin");
    let bin = bin.display();
    let mut handlers = vec![
        ("a handler that ends at once", format!("|{bin}/noop")),
        (
            "a handler that reads it, on the host",
            format!("|{bin}/drain"),
        ),
        (
            "bare setns + chroot + fork + exec",
            format!("|{bin}/bare %P /drain %F"),
        ),
        ("sh + nsenter", format!("|{bin}/nsenter.sh %P")),
    ];
    handlers.extend(ours(&sandbox)?);
    let mut rows: Vec<Row> = handlers.iter().map(|(name, _)| Row::new(name)).collect();
    for round in 0..=rounds {
        for ((_, pattern), row) in handlers.iter().zip(&mut rows) {
            std::fs::write("/proc/sys/kernel/core_pattern", pattern)?;
            let times = crashes(&container, &[CRASHES])?;
            // The first round warms up.
            if round > 0 {
                row.rounds.push(times);
            }
        }
    }
    hook.put_back()?;
    let failed = daemon
        .records()
        .all()
        .iter()
        .filter(|r| r.outcome.as_str() != "done")
        .count();
    ensure!(
        failed == 0,
        "{failed} of upcalld's crashes were not handled as they should"
    );
    drop(container);
    daemon.stop(&sandbox)?;
    let [_, _, bare, nsenter, ours @ ..] = rows.as_slice() else {
        anyhow::bail!("too few rows");
    };
    println!(
        "whole crash in a runc container with a user namespace, 0.4 MB core, {rounds} rounds of {CRASHES}"
    );
    println!("  {:<38} {:>8} {:>8} {:>8}", "", "median", "p90", "of bare");
    for row in &rows {
        let all = row.all();
        println!(
            "  {:<38} {:>5.2} ms {:>5.2} ms {:>8.2}",
            row.name,
            percentile(&all, 50),
            percentile(&all, 90),
            row.ratio(bare)
        );
    }
    for row in ours {
        println!("  {} to sh + nsenter: {:.2}", row.name, row.ratio(nsenter));
    }
    println!();
    Ok(())
}

/// The ways in which the kernel may call the sandbox's daemon, by what stands in core_pattern.
pub(crate) fn ours(sandbox: &Sandbox) -> Result<Vec<(&'static str, String)>> {
    let hooks = sandbox.hooks();
    let pipe = Pattern::ours(&sandbox.libexec().join("core"), &hooks)?;
    let mut ours = vec![("upcalld, by the pipe", pipe.text().to_owned())];
    if let Some(missing) = Need::CoreSocket.missing() {
        println!("left out, by the socket: needs {missing}\n");
    } else {
        let socket = Pattern::ours_by_socket(&sandbox.sockets(), &hooks, true)?;
        ours.push(("upcalld, by the socket", socket.text().to_owned()));
    }
    Ok(ours)
}

/// A container in which there is something that crashes, and the helper of [`RULE`].
pub(crate) fn container(sandbox: &Sandbox, name: &str) -> Result<Container> {
    let peer = sandbox.programs.directory.join("bench-peer");
    let runc = Runc::new(name).user_namespace().root(move |root| {
        for name in ["/crash", "/drain"] {
            root.file(name, std::fs::read(&peer)?, 0o755)?;
        }
        Ok(())
    });
    runc.start(sandbox)
}

/// Milliseconds of each crash; `words` say how many, and how large.
pub(crate) fn crashes(container: &Container, words: &[&str]) -> Result<Vec<f64>> {
    let output = command("runc")
        .args(["exec", container.id(), "/crash"])
        .args(words)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .map(|line| Ok(line.parse::<f64>().context("a number of nanoseconds")? / 1e6))
        .collect()
}
