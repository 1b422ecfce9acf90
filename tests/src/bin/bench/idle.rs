//! What an idle daemon costs: memory, and how often it wakes up.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::{command, pause};
use upcall_e2e::container::children;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::HostHook;
use upcall_e2e::programs::Programs;
use upcall_e2e::sandbox::Sandbox;

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(10);

/// Programs that come and go meanwhile.
const PROGRAMS: u32 = 1000;

pub(crate) fn run(programs: &Programs) -> Result<()> {
    let sandbox = Sandbox::at("/run/upcalld-bench".into(), programs.clone())?;
    let hook = HostHook::borrow()?;
    hook.install(&sandbox)?;
    let daemon = Daemon::start_strict(&sandbox)?;
    pause(Duration::from_secs(1));
    let mut processes = vec![daemon.pid(), daemon.launcher()];
    processes.extend(children(daemon.launcher()));
    let switches = |pid: &u32| -> Result<u64> {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            sum += number(&task?.path().join("status"), "voluntary_ctxt_switches")?;
        }
        Ok(sum)
    };
    let woken = |meanwhile: &dyn Fn() -> Result<()>| -> Result<u64> {
        let before: Result<Vec<u64>> = processes.iter().map(switches).collect();
        meanwhile()?;
        let after: Result<Vec<u64>> = processes.iter().map(switches).collect();
        // A thread that has ended takes its count with it.
        let (before, after): (u64, u64) = (before?.iter().sum(), after?.iter().sum());
        Ok(after.saturating_sub(before))
    };
    let idle = woken(&|| {
        pause(WATCHED);
        Ok(())
    })?;
    let busy = woken(&|| (0..PROGRAMS).try_for_each(|_| run_true()))?;
    hook.put_back()?;
    let mut memory = 0;
    for pid in &processes {
        memory += number(
            std::path::Path::new(&format!("/proc/{pid}/status")),
            "VmRSS",
        )?;
    }
    println!("idle: daemon, launcher and the next keeper together");
    println!(
        "  resident memory                        {:.1} MiB",
        f64::from(u32::try_from(memory)?) / 1024.0
    );
    println!(
        "  woken in {} s                          {idle} times",
        WATCHED.as_secs()
    );
    println!("  woken while {PROGRAMS} programs ran         {busy} times");
    println!("  (the hook is looked at every 30 s)\n");
    daemon.stop(&sandbox)
}

fn run_true() -> Result<()> {
    let status = command("/bin/true").status()?;
    ensure!(status.success(), "/bin/true");
    Ok(())
}

/// The number behind a name in a file of /proc.
pub(crate) fn number(path: &std::path::Path, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .context("no such line")?;
    let word = line
        .trim_start_matches(':')
        .split_whitespace()
        .next()
        .context("no number")?;
    Ok(word.parse()?)
}
