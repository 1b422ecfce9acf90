//! Requests for modules, by the real kernel: refused and passed on, beside the plainest programs that do the same.
//!
//! Needs a kernel with kernel.modprobe, and so as a rule a virtual machine: tests/vm/README.md.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::command;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::module_hook::{HostModuleHook, SETTING};
use upcall_e2e::programs::Programs;
use upcall_e2e::sandbox::Sandbox;

use crate::stats::{Row, median, percentile};

/// Requests of one round: `AF_AX25`, `AF_ROSE`, which no module of a usual host has.
const TIMES: &str = "20";

/// What is refused, and what is passed on.
const RULES: &str = r#"
[[rule]]
upcall = "module"
match.module = "net-pf-3"
deny = { reason = "bench" }
"#;
const REFUSED: &str = "3";
const PASSED: &str = "11";

/// Threads of the flood, and requests of each.
const FLOOD: [&str; 4] = ["--threads", "50", "--times", "20"];

pub(crate) fn run(programs: &Programs, rounds: usize) -> Result<()> {
    if !Path::new(SETTING).exists() {
        println!(
            "modules: left out, this kernel has none; VM_KERNEL=trixie tests/vm/run …/bench …\n"
        );
        return Ok(());
    }
    let sandbox = Sandbox::at("/run/upcalld-bench".into(), programs.clone())?;
    sandbox.rules(RULES)?;
    std::fs::write(sandbox.hooks().join("module"), "")?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let hook = HostModuleHook::borrow(&sandbox)?;
    hook.file(&sandbox, "deadline_ms = 10000")?;
    let shim = std::fs::read_to_string(SETTING)?;
    let mut rows = [
        Row::new("refused: /bin/false"),
        Row::new("refused: upcalld, by a rule"),
        Row::new("passed: modprobe itself"),
        Row::new("passed: upcalld, to modprobe"),
    ];
    let places = [
        ("/bin/false", REFUSED),
        (shim.trim(), REFUSED),
        ("/sbin/modprobe", PASSED),
        (shim.trim(), PASSED),
    ];
    for _ in 0..rounds {
        for (row, (program, family)) in rows.iter_mut().zip(places) {
            std::fs::write(SETTING, program)?;
            row.rounds
                .push(asked(&sandbox, &["--times", TIMES], family)?);
        }
    }
    println!(
        "a request for a module, from socket(2) to its error, {TIMES} times in each of {rounds} rounds in turn"
    );
    for row in &rows {
        let all = row.all();
        println!(
            "  {:<38} {:>6.0} µs {:>6.0} µs",
            row.name,
            median(&all),
            percentile(&all, 90)
        );
    }
    let [no, refused, modprobe, passed] = &rows;
    println!(
        "  ratio: refused {:.2}, passed {:.2}",
        refused.ratio(no),
        passed.ratio(modprobe)
    );
    let records = daemon.records().all();
    let found = records.iter().filter(|record| record.module.is_some());
    let found = found.filter_map(|record| record.timings_us.identify);
    let found: Vec<f64> = found
        .filter_map(|micros| u32::try_from(micros).ok())
        .map(f64::from)
        .collect();
    println!(
        "  who asked was found in {:.0} µs, {:.0} µs (of these)",
        median(&found),
        percentile(&found, 90)
    );
    flood(&sandbox, shim.trim(), rounds)?;
    hook.put_back()?;
    daemon.stop(&sandbox)
}

/// The host's request, passed to modprobe where there is one to pass it to, in the midst of those that are refused. What
/// modprobe takes of a processor that it has to share is more than what `/bin/false` takes, whoever starts it.
fn flood(sandbox: &Sandbox, shim: &str, rounds: usize) -> Result<()> {
    let mut floods = [
        Row::new("under /bin/false"),
        Row::new("under modprobe itself"),
        Row::new("under upcalld"),
    ];
    for _ in 0..rounds {
        for (row, program) in floods
            .iter_mut()
            .zip(["/bin/false", "/sbin/modprobe", shim])
        {
            std::fs::write(SETTING, program)?;
            row.rounds.push(flooded(sandbox)?);
        }
    }
    println!("  the host's one request while fifty threads make a thousand:");
    for row in &floods {
        println!("  {:<38} {:>6.0} µs", row.name, median(&row.all()));
    }
    let [no, modprobe, ours] = &floods;
    println!(
        "  ratio: to /bin/false {:.2}, to modprobe {:.2}\n",
        ours.ratio(no),
        ours.ratio(modprobe)
    );
    Ok(())
}

/// How long each request took, in microseconds.
fn asked(sandbox: &Sandbox, words: &[&str], family: &str) -> Result<Vec<f64>> {
    let mut asker = command(sandbox.path("bin/module-me"));
    let output = asker
        .arg("--each")
        .args(words)
        .args(["socket", family])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    let (_, took) = said.trim().split_once(": ").context("times")?;
    Ok(took
        .split(' ')
        .filter_map(|took| took.parse().ok())
        .collect())
}

/// How long the host's took in the midst of a flood that is refused.
fn flooded(sandbox: &Sandbox) -> Result<Vec<f64>> {
    let mut flood = command(sandbox.path("bin/module-me"));
    flood.args(FLOOD).args(["socket", REFUSED]);
    let mut flood = flood.stdout(Stdio::null()).spawn()?;
    let took = asked(sandbox, &["--times", "1"], PASSED);
    flood.wait()?;
    took
}
