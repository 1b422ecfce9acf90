//! A storm of crashes in one container, and what a crash in another takes meanwhile.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use upcall_e2e::command::{command, pause, until};
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::HostHook;
use upcall_e2e::programs::Programs;
use upcall_e2e::sandbox::Sandbox;
use upcalld::hooks::pattern::Pattern;

use crate::crash::{RULE, container, crashes};
use crate::idle::number;
use crate::stats::{Row, percentile};

/// Crashes of one storm, from eight processes at once.
const STORM: u64 = 1000;
const SCRIPT: &str = "for i in 1 2 3 4 5 6 7 8; do /crash 125 > /dev/null & done; wait";

/// Storms that a machine which is busy with something else may need for one round.
const TRIES: usize = 5;

pub(crate) fn run(programs: &Programs, rounds: usize) -> Result<()> {
    let sandbox = Sandbox::at("/run/upcalld-bench".into(), programs.clone())?;
    sandbox.rules(RULE)?;
    let noop = sandbox.path("bin/noop");
    sandbox.program("bench-peer", &noop)?;
    let (stormy, quiet) = (container(&sandbox, "storm")?, container(&sandbox, "quiet")?);
    let daemon = Daemon::start_strict(&sandbox)?;
    let hook = HostHook::borrow()?;
    hook.install(&sandbox)?;
    let ours = Pattern::ours(&sandbox.libexec().join("core"), &sandbox.hooks())?;
    let handlers = [
        (
            "a handler that ends at once",
            format!("|{}", noop.display()),
        ),
        ("upcalld: a helper in the container", ours.text().to_owned()),
    ];
    let mut rows = handlers.each_ref().map(|(name, _)| Row::new(name));
    let descriptors = || {
        Ok::<_, std::io::Error>(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count())
    };
    let before = descriptors()?;
    let mut storms = 0;
    for _ in 0..rounds {
        for ((_, pattern), row) in handlers.iter().zip(&mut rows) {
            std::fs::write("/proc/sys/kernel/core_pattern", pattern)?;
            let mut times = Vec::new();
            for _ in 0..TRIES {
                storms += u64::from(pattern == ours.text());
                times = bystander(&stormy, &quiet)?;
                if !times.is_empty() {
                    break;
                }
            }
            ensure!(!times.is_empty(), "no crash ended before the storm did");
            row.rounds.push(times);
        }
    }
    hook.put_back()?;
    let wanted = STORM * storms;
    let told = || -> u64 {
        let records = daemon.records().all();
        let storm = records.iter().filter(|record| {
            let found = record.container.as_ref();
            found.is_some_and(|found| found.leader_pid == stormy.init())
        });
        storm.map(|record| record.count).sum()
    };
    // Refusals are written ten seconds after their first.
    drop(until(Duration::from_secs(15), "the last records", || {
        (told() == wanted).then_some(())
    }));
    ensure!(
        told() == wanted,
        "{} of {wanted} crashes are told in records",
        told()
    );
    let status = format!("/proc/{}/status", daemon.pid());
    let most = number(Path::new(&status), "VmHWM")?;
    let after = descriptors()?;
    drop((stormy, quiet));
    daemon.stop(&sandbox)?;
    println!("a crash while {STORM} others come from another container, {rounds} rounds");
    println!("  {:<38} {:>8} {:>8}", "", "median", "p90");
    for row in &rows {
        let all = row.all();
        println!(
            "  {:<38} {:>5.2} ms {:>5.2} ms",
            row.name,
            percentile(&all, 50),
            percentile(&all, 90)
        );
    }
    let [noop, upcalld] = &rows;
    println!("  upcalld to the other: {:.2}", upcalld.ratio(noop));
    println!("  all {wanted} of the storms are told in records");
    println!(
        "  the daemon's most resident memory      {:.1} MiB",
        f64::from(u32::try_from(most)?) / 1024.0
    );
    println!("  its descriptors before and after       {before}, {after}\n");
    Ok(())
}

/// Milliseconds of the quiet container's crashes while the other's come.
fn bystander(stormy: &Container, quiet: &Container) -> Result<Vec<f64>> {
    let mut storm = command("runc")
        .args(["exec", stormy.id(), "/bin/sh", "-c", SCRIPT])
        .spawn()?;
    pause(Duration::from_millis(50));
    let mut times = Vec::new();
    loop {
        let crash = crashes(quiet, "1");
        // What ended after the storm may have had it easier.
        if let Some(status) = storm.try_wait()? {
            ensure!(status.success(), "the storm");
            return Ok(times);
        }
        times.extend(crash?);
    }
}
