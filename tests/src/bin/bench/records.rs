//! What a hundred thousand records cost whoever looks for one.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::HostHook;
use upcall_e2e::programs::Programs;
use upcall_e2e::sandbox::Sandbox;

use crate::crash::{RULE, container, crashes};
use crate::stats::median;

const RECORDS: u64 = 100_000;

/// How often each question is asked.
const TIMES: usize = 9;

pub(crate) fn run(programs: &Programs) -> Result<()> {
    let sandbox = Sandbox::at("/run/upcalld-bench".into(), programs.clone())?;
    sandbox.rules(RULE)?;
    let container = container(&sandbox, "bench")?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let hook = HostHook::borrow()?;
    hook.install(&sandbox)?;
    crashes(&container, &["1"])?;
    hook.put_back()?;
    let record = daemon.records().wait("the helper", |_| true)?;
    daemon.stop(&sandbox)?;
    let text = serde_json::to_string(&record)?;
    let directory = sandbox.state().join("records");
    for number in 1..RECORDS {
        let id = format!("z{number:07}");
        let micros = 1_700_000_000_000_000 + number * 1_000_003;
        let copy = text.replace(&record.id, &id);
        std::fs::write(directory.join(format!("{micros}-{id}.json")), copy)?;
    }
    println!("{RECORDS} records, medians of {TIMES}");
    for words in [
        &["list"][..],
        &["show", "z0004711"],
        &["explain", "--record", "z0004711"],
        &["list", "--container", "no-such"],
    ] {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let start = Instant::now();
            let output = sandbox.ctl().args(words).output()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.code().is_some_and(|code| code < 2),
                "{words:?}: {said}"
            );
        }
        println!(
            "  upcallctl {:<28} {:>5.0} ms",
            words.join(" "),
            median(&times)
        );
    }
    println!();
    drop(container);
    std::fs::remove_dir_all(&directory).context("records")
}
