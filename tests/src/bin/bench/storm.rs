//! A storm of crashes in one container, and what a crash in another takes meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use upcall_e2e::command::{command, pause, until};
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::HostHook;
use upcall_e2e::programs::Programs;
use upcall_e2e::sandbox::Sandbox;

use crate::crash::{RULE, container, crashes, ours};
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
    let noop = (
        "a handler that ends at once",
        format!("|{}", noop.display()),
    );
    let handlers: Vec<_> = std::iter::once(noop).chain(ours(&sandbox)?).collect();
    let row = |name: &&'static str| (Row::new(name), Row::new(name));
    let mut rows: Vec<(Row, Row)> = handlers.iter().map(|(name, _)| row(name)).collect();
    let descriptors = || {
        Ok::<_, std::io::Error>(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count())
    };
    let before = descriptors()?;
    let mut storms = 0;
    for _ in 0..rounds {
        for (index, ((_, pattern), row)) in handlers.iter().zip(&mut rows).enumerate() {
            std::fs::write("/proc/sys/kernel/core_pattern", pattern)?;
            let mut times = Vec::new();
            for _ in 0..TRIES {
                storms += u64::from(index > 0);
                let took;
                (times, took) = bystander(&stormy, &quiet)?;
                row.1.rounds.push(vec![took]);
                if !times.is_empty() {
                    break;
                }
            }
            ensure!(!times.is_empty(), "no crash ended before the storm did");
            row.0.rounds.push(times);
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
    table(&rows)?;
    println!("  lost of the storms' {wanted} crashes        0");
    println!(
        "  the daemon's most resident memory      {:.1} MiB",
        f64::from(u32::try_from(most)?) / 1024.0
    );
    println!("  its descriptors before and after       {before}, {after}\n");
    Ok(())
}

/// Crashes beside the storms, and how fast those went.
fn table(rows: &[(Row, Row)]) -> Result<()> {
    println!(
        "  {:<38} {:>8} {:>8} {:>8} {:>8}",
        "", "median", "p90", "of first", "storm"
    );
    for (crashes, storms) in rows {
        let all = crashes.all();
        println!(
            "  {:<38} {:>5.2} ms {:>5.2} ms {:>8.2} {:>6.0}/s",
            crashes.name,
            percentile(&all, 50),
            percentile(&all, 90),
            rows.first().map_or(0.0, |(first, _)| crashes.ratio(first)),
            1000.0 * f64::from(u32::try_from(STORM)?) / percentile(&storms.all(), 50)
        );
    }
    Ok(())
}

/// Milliseconds of the quiet container's crashes while the other's come, and of the storm.
fn bystander(stormy: &Container, quiet: &Container) -> Result<(Vec<f64>, f64)> {
    let start = Instant::now();
    let mut storm = command("runc")
        .args(["exec", stormy.id(), "/bin/sh", "-c", SCRIPT])
        .spawn()?;
    let storm = std::thread::spawn(move || (storm.wait(), start.elapsed()));
    pause(Duration::from_millis(50));
    let mut times = Vec::new();
    loop {
        let crash = crashes(quiet, &["1"]);
        // What ended after the storm may have had it easier.
        if storm.is_finished() {
            let Ok((status, took)) = storm.join() else {
                bail!("the storm's thread");
            };
            ensure!(status?.success(), "the storm");
            return Ok((times, took.as_secs_f64() * 1000.0));
        }
        times.extend(crash?);
    }
}
