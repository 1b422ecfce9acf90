//! `deliver` to the real systemd-coredump of a machine that is itself the container.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::{command, run, until};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::machine::Machine;
use upcall_e2e::needs;
use upcall_e2e::nspawn::Machined;
use upcall_e2e::programs::unpacked;
use upcall_e2e::records::action;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

const PATIENCE: Duration = Duration::from_secs(20);

/// The machine's init is the host's root in all but name.
pub(crate) const RULE: &str = "[[rule]]\nupcall = \"core\"\nmatch.container = { runtime = \"nspawn\" }\n\
    deliver = { protocol = \"systemd\", without_user_namespace = true, trusted_container = true }\n";

/// Who crashes in it.
const USER: u32 = 1234;

/// A registered machine with systemd-coredump, and no upcalld.
pub(crate) struct Scene {
    pub(crate) machine: Machine,
    _machined: Machined,
}

impl Scene {
    pub(crate) fn new(sandbox: &Sandbox) -> Result<Self> {
        sandbox.settings(Machined::SETTINGS)?;
        sandbox.rules(RULE)?;
        let machined = Machined::start(sandbox)?;
        let machine = Machine::boot_registered(sandbox, &machined)?;
        let from = unpacked("systemd-coredump");
        if from.is_dir() {
            copy_all(&from, &machine.path("/"))?;
        }
        sandbox.program("crash-me", &machine.path("/usr/local/bin/crash-me"))?;
        let scene = Self {
            machine,
            _machined: machined,
        };
        scene.sh(&format!(
            "echo victim:x:{USER}:{USER}::/:/bin/sh >> /etc/passwd && echo victim:x:{USER}: >> /etc/group &&
             systemctl daemon-reload && systemctl start systemd-coredump.socket"
        ))?;
        Ok(scene)
    }

    pub(crate) fn sh(&self, script: &str) -> Result<String> {
        self.machine.run(&["sh", "-c", script])
    }

    /// A service of a user's with this core limit, that waits to crash: its number inside.
    pub(crate) fn victim(&self, name: &str, limit: &str) -> Result<u32> {
        let unit = format!("--unit={name}");
        let (uid, limit) = (
            format!("--uid={USER}"),
            format!("--property=LimitCORE={limit}"),
        );
        self.machine.run(&[
            "systemd-run",
            "--quiet",
            &unit,
            &uid,
            &limit,
            "/usr/local/bin/crash-me",
            "--wait",
        ])?;
        let number = format!("systemctl show --value --property=MainPID {name}");
        let waits = format!("grep -q crash-me /proc/$({number})/comm && {number}");
        let said = until(PATIENCE, "a victim", || self.sh(&waits).ok());
        let said = said.with_context(|| self.log())?;
        Ok(said.trim().parse()?)
    }

    /// What coredumpctl lists of a process, when it does.
    pub(crate) fn listed(&self, pid: u32) -> Result<String> {
        let list = format!("coredumpctl --no-legend --no-pager list {pid}");
        let listed = until(PATIENCE, "coredumpctl's list", || self.sh(&list).ok());
        listed.with_context(|| self.log())
    }

    fn log(&self) -> String {
        self.sh("journalctl --no-pager -n 40").unwrap_or_default()
    }

    /// coredumpctl inside knows the crash of this process, by its own numbers and names, and its core opens.
    pub(crate) fn knows(&self, pid: u32) -> Result<()> {
        let listed = self.listed(pid)?;
        for word in ["SIGSEGV", "present", "/usr/local/bin/crash-me"] {
            ensure!(listed.contains(word), "{word}: {listed}");
        }
        let info = self.sh(&format!("coredumpctl --no-pager info {pid}"))?;
        for text in [
            &format!("PID: {pid} (crash-me)"),
            &format!("UID: {USER}"),
            &format!("GID: {USER}"),
            "Signal: 11 (SEGV)",
            "Executable: /usr/local/bin/crash-me",
            "(present)",
        ] {
            ensure!(info.contains(text), "{text}: {info}");
        }
        self.sh(&format!("coredumpctl dump {pid} -o /root/core 2>/dev/null"))?;
        Ok(())
    }
}

/// Copies files over a root whose /lib is a link.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    const COPY: &str =
        "tar -C \"$1\" --exclude=sysctl.d -c . | tar -C \"$2\" --keep-directory-symlink -x";
    run(command("sh").args(["-c", COPY, "sh"]).arg(from).arg(to)).map(drop)
}

/// The record of what was delivered.
pub(crate) fn delivered(record: &Record, hosts: u32, inside: u32) -> Result<()> {
    ensure!(record.outcome == Outcome::Done, "{record:?}");
    ensure!((record.process.pid, record.process.pid_inside) == (Some(hosts), Some(inside)));
    let deliver = action(record, "deliver")?;
    ensure!(deliver.fed_bytes > Some(4096), "{record:?}");
    Ok(())
}

#[test]
fn coredumpctl_inside_knows_what_was_delivered() -> Result<()> {
    needs!(Root, Machine, Nspawn, Gdb, Coredumpctl);
    let sandbox = Sandbox::new()?;
    let scene = Scene::new(&sandbox)?;
    let daemon = Daemon::start(&sandbox)?;
    let pid = scene.victim("one", "infinity")?;
    let hosts = scene.machine.hosts_number(pid)?;
    scene.sh(&format!("gcore -o /root/made {pid} >/dev/null 2>&1"))?;
    let core = std::fs::read(scene.machine.path(&format!("/root/made.{pid}")))?;
    let dump = CoreDump::of(hosts)?.word("%c", u64::MAX.to_string());
    dump.with_core(core).dump(&sandbox)?;
    let record = daemon.records().of(hosts)?;
    delivered(&record, hosts, pid)?;
    scene.knows(pid)?;
    scene.sh(&format!("cmp /root/core /root/made.{pid}"))?;

    // A process that wants no core is noted there without one, and nothing failed.
    let pid = scene.victim("two", "0")?;
    let hosts = scene.machine.hosts_number(pid)?;
    CoreDump::of(hosts)?.dump(&sandbox)?;
    let record = daemon.records().of(hosts)?;
    ensure!(record.outcome == Outcome::Done, "{record:?}");
    let deliver = action(&record, "deliver")?;
    let said = deliver.output.as_deref().unwrap_or_default();
    ensure!(said.contains("its core limit"), "{record:?}");
    let listed = scene.listed(pid)?;
    ensure!(
        listed.contains("SIGSEGV") && !listed.contains("present"),
        "{listed}"
    );

    // Its init would have to accept its own core.
    let init = scene.machine.hosts_number(1)?;
    CoreDump::of(init)?.dump(&sandbox)?;
    let record = daemon.records().of(init)?;
    ensure!(
        action(&record, "deliver")?.errno.as_deref() == Some("EDEADLK"),
        "{record:?}"
    );
    ensure!(
        action(&record, "store")?.outcome != Outcome::Failed,
        "{record:?}"
    );
    drop(scene);
    daemon.stop(&sandbox)
}
