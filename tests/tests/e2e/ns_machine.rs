//! From package to package: installed, started again, upgraded, removed, on a machine with systemd.
//!
//! The kernel's own hook is not touched: files stand in for it, and the shim is started as the kernel would start it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use upcall_e2e::command::{command, pause, run, until};
use upcall_e2e::machine::Machine;
use upcall_e2e::needs;
use upcall_e2e::programs::target;
use upcall_e2e::records::Records;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Record;

const PATIENCE: Duration = Duration::from_secs(30);

/// Where files stand in for the kernel's settings.
const KERNEL: &str = "/run/kernel";

/// Units of the package as they are, but for what cannot be so here: nobody is a child of the kernel's, and the hook is
/// a file.
const DROP_INS: [(&str, &str); 2] = [
    (
        "upcalld.service",
        "[Service]\nExecStart=\nExecStart=/usr/sbin/upcalld --any-peer --armour kill\n",
    ),
    (
        "upcalld-hooks.service",
        "[Unit]\nConditionPathIsReadWrite=\n[Service]\nExecStart=\nExecStop=\n\
         ExecStart=/usr/bin/upcallctl --sysctl /run/kernel install core --no-self-test\n\
         ExecStop=/usr/bin/upcallctl --sysctl /run/kernel uninstall\n",
    ),
];

/// A process that the shim tells a crash of: started by the kernel's words, without a pidfd.
const CRASH: &str = r#"
sleep 1000 & pid=$!
head -c 300000 /dev/zero | /usr/libexec/upcalld/core \
    $pid $pid $pid $pid 0 0 1 11 "$(date +%s)" 0 0 "" host sleep sleep '!usr!bin!sleep'
status=$?
kill $pid
exit $status
"#;

/// Makes a package of this version from what the tests use.
pub(crate) fn package(sandbox: &Sandbox, version: &str) -> Result<PathBuf> {
    let work = sandbox.path(version);
    let mut make = command("make");
    make.args(["--no-print-directory", "deb", "BUILD=debug"])
        .arg(format!("WORK={}", work.display()))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("CARGO_TARGET_DIR", target())
        .env("UPCALLD_DEB_VERSION", version)
        .env("UPCALLD_DEB_COMPRESSION", "none");
    let said = run(&mut make)?;
    let name = said.lines().last().context("the package's name")?;
    Ok(PathBuf::from(name))
}

/// Files of ours in the machine.
fn files(machine: &Machine) -> Result<Vec<String>> {
    let mut find = vec!["find"];
    find.extend([
        "/etc",
        "/usr",
        "/var/lib",
        "/var/cache",
        "/run",
        "-xdev",
        "-name",
        "*upcall*",
    ]);
    // The host's own other things of that name.
    find.extend([
        "-not",
        "-path",
        "/run/ue-*",
        "-not",
        "-name",
        "upcalld-host-hooks*",
    ]);
    Ok(machine.run(&find)?.lines().map(str::to_owned).collect())
}

pub(crate) struct Scene {
    pub(crate) machine: Machine,
}

impl Scene {
    /// A machine without upcalld, and what its units and rules will be.
    pub(crate) fn new(sandbox: &Sandbox) -> Result<Self> {
        let machine = Machine::boot(sandbox)?;
        let scene = Self { machine };
        // The host may have one of its own.
        scene.sh("if dpkg -s upcalld >/dev/null 2>&1; then dpkg --purge upcalld; fi; rm -rf /etc/upcalld")?;
        assert_eq!(files(&scene.machine)?, Vec::<String>::new(), "before");
        scene.sh(&format!(
            "mkdir {KERNEL}; echo '|/bin/before %p' > {KERNEL}/core_pattern; echo 7 > {KERNEL}/core_pipe_limit"
        ))?;
        for (unit, text) in DROP_INS {
            let directory = format!("/run/systemd/system/{unit}.d");
            scene.sh(&format!(
                "mkdir -p {directory}; printf '%s' '{text}' > {directory}/test.conf"
            ))?;
        }
        scene.sh(
            "mkdir -p /etc/upcalld/rules.d; echo 'store.keep_free = 0' > /etc/upcalld/upcalld.toml",
        )?;
        let rule = "[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\n";
        std::fs::write(scene.machine.path("/etc/upcalld/rules.d/50.toml"), rule)?;
        Ok(scene)
    }

    pub(crate) fn sh(&self, script: &str) -> Result<String> {
        self.machine.run(&["sh", "-c", script])
    }

    fn kernel(&self) -> Result<String> {
        self.sh(&format!(
            "cat {KERNEL}/core_pattern {KERNEL}/core_pipe_limit"
        ))
    }

    pub(crate) fn property(&self, unit: &str, name: &str) -> Result<String> {
        let said = self
            .machine
            .run(&["systemctl", "show", "--value", "--property", name, unit])?;
        Ok(said.trim().to_owned())
    }

    pub(crate) fn is(&self, unit: &str, state: &str) -> Result<()> {
        let found = self.property(unit, "ActiveState")?;
        let log = || {
            self.machine
                .run(&["journalctl", "--no-pager", "-n", "30"])
                .unwrap_or_default()
        };
        ensure!(found == state, "{unit} is {found}: {}", log());
        Ok(())
    }

    /// Whether a crash is in the journal by the names that the manual has.
    fn is_in_the_journal(&self) -> Result<()> {
        let fields = "journalctl -o json MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1 UPCALL_KIND=core UPCALL_OUTCOME=done";
        let logged = until(PATIENCE, "a line of the journal", || {
            let line = self.sh(fields).ok()?;
            serde_json::from_str::<Value>(line.lines().next()?).ok()
        })?;
        for (field, value) in [
            ("UPCALL_VERDICT", "store"),
            ("UPCALL_RULE", "/etc/upcalld/rules.d/50.toml:1"),
            ("PRIORITY", "5"),
        ] {
            assert_eq!(
                logged.get(field).and_then(Value::as_str),
                Some(value),
                "{logged}"
            );
        }
        assert!(
            logged.get("UPCALL_HELD_US").is_some() && logged.get("UPCALL_CONTAINER_ID").is_none(),
            "{logged}"
        );
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        self.machine
            .run(&["journalctl", "--no-pager", "-n", "30"])
            .unwrap_or_default()
    }

    /// Says to the shim, in the kernel's words, that a process of the machine crashed; its record. The kernel would give the
    /// shim a pidfd of it; here it comes from outside, in the place of standard input.
    pub(crate) fn crash_of(&self, pid: u32, user: u32) -> Result<Record> {
        let script = format!(
            "exec 3<&0; head -c 300000 /dev/zero | /usr/libexec/upcalld/core {pid} {pid} {pid} {pid} {user} {user} 1 11 \
             \"$(date +%s)\" 0 0 3 host sleep sleep '!usr!bin!sleep'"
        );
        let pidfd = upcall_helpers::sys::pidfd_open(self.machine.hosts_number(pid)?)?;
        let mut shim = self.machine.command(&["sh", "-c", &script]);
        ensure!(shim.stdin(pidfd).status()?.success(), "{}", self.log());
        let records = Records::at(&self.machine.path("/var/lib/upcalld"));
        records.of(pid).with_context(|| self.log())
    }

    pub(crate) fn install(&self, package: &Path) -> Result<String> {
        let name = package.file_name().context("a name")?;
        std::fs::copy(package, self.machine.path("/root").join(name))?;
        self.sh(&format!("dpkg -i /root/{}", name.display()))
    }

    fn records(&self) -> Result<Vec<Value>> {
        let said = self
            .machine
            .run(&["upcallctl", "list", "--json", "-n", "0"])?;
        let document: Value = serde_json::from_str(&said)?;
        Ok(document
            .get("records")
            .and_then(Value::as_array)
            .context("records")?
            .clone())
    }

    /// Lets so many crash and waits for as many more records.
    pub(crate) fn crash(&self, count: usize, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.records()?.len();
        let script = format!("for i in $(seq {count}); do ( {CRASH} ) || exit 1; sleep 0.02; done");
        let mut crashes = self.machine.command(&["sh", "-c", &script]);
        let mut crashes = crashes.spawn()?;
        meanwhile()?;
        ensure!(crashes.wait()?.success(), "a shim failed: {}", self.log());
        let all = || (self.records().ok()?.len() >= before + count).then_some(());
        let recorded = until(PATIENCE, "a record of each crash", all);
        recorded.with_context(|| {
            format!(
                "{} of {count}",
                self.records().map_or(0, |r| r.len()) - before
            )
        })?;
        assert_eq!(self.records()?.len(), before + count, "one record each");
        Ok(())
    }
}

#[test]
fn installed_started_again_upgraded_and_removed() -> Result<()> {
    needs!(Root, Machine);
    let sandbox = Sandbox::new()?;
    let [first, second] = ["0.1.0", "0.1.1~next"].map(|version| package(&sandbox, version));
    let scene = Scene::new(&sandbox)?;
    let before = scene.kernel()?;

    // Installed: the daemon runs, and no hook was touched.
    scene.install(&first?)?;
    scene.is("upcalld.socket", "active")?;
    scene.is("upcalld.service", "active")?;
    scene.is("upcalld-hooks.service", "inactive")?;
    assert_eq!(scene.kernel()?, before);
    assert!(scene.sh("getent group upcall")?.starts_with("upcall:"));
    scene.sh("upcallctl status && upcallctl --help && man -w upcallctl")?;
    scene.crash(1, || Ok(()))?;
    scene.is_in_the_journal()?;

    // The hook, and the daemon started again while crashes come: none is lost, socket and hook stay.
    scene
        .machine
        .run(&["systemctl", "start", "upcalld-hooks.service"])?;
    let ours = scene.kernel()?;
    assert!(
        ours.starts_with("|/usr/libexec/upcalld/core %P") && ours.ends_with("\n1024\n"),
        "{ours}"
    );
    let socket = || scene.sh("stat -c %i /run/upcalld/upcall.sock");
    let (inode, pid) = (socket()?, scene.property("upcalld.service", "MainPID")?);
    scene.crash(20, || {
        for _ in 0..3 {
            scene
                .machine
                .run(&["systemctl", "restart", "upcalld.service"])?;
        }
        Ok(())
    })?;
    assert_eq!((socket()?, scene.kernel()?), (inode.clone(), ours.clone()));
    assert_ne!(scene.property("upcalld.service", "MainPID")?, pid);

    // Killed, it is there again.
    let pid = scene.property("upcalld.service", "MainPID")?;
    scene.crash(5, || scene.machine.run(&["kill", "-KILL", &pid]).map(drop))?;

    // Hanging, it is ended and there again.
    scene.sh(
        "printf '[Service]\\nWatchdogSec=1\\n' > /run/systemd/system/upcalld.service.d/soon.conf",
    )?;
    scene.sh("systemctl daemon-reload; systemctl restart upcalld.service")?;
    let pid = scene.property("upcalld.service", "MainPID")?;
    pause(Duration::from_secs(3));
    let same = scene.property("upcalld.service", "MainPID")?;
    assert_eq!(same, pid, "one that moves is left alone");
    scene.crash(5, || {
        scene.machine.run(&["kill", "-STOP", &pid])?;
        let other = || {
            let now = scene.property("upcalld.service", "MainPID").ok()?;
            (now != pid && now != "0").then_some(())
        };
        until(PATIENCE, "another daemon", other)
    })?;

    // Upgraded under crashes: the hook stays where it is.
    let pid = scene.property("upcalld.service", "MainPID")?;
    let second = second?;
    scene.crash(20, || scene.install(&second).map(drop))?;
    assert_eq!((socket()?, scene.kernel()?), (inode, ours));
    assert_ne!(scene.property("upcalld.service", "MainPID")?, pid);
    scene.is("upcalld-hooks.service", "active")?;

    // Removed: what stood there stands there again; records stay until the purge.
    scene.sh("dpkg -r upcalld")?;
    assert_eq!(scene.kernel()?, before);
    assert!(scene.sh("ls /var/lib/upcalld/records")?.lines().count() >= 46);
    let processes = scene.sh("ps -eo args | grep '[u]pcall' || true")?;
    assert_eq!(processes, "");
    scene.sh("dpkg -P upcalld; rm -r /run/systemd/system/upcalld*.d /root/upcalld* /run/kernel/upcalld.lock")?;
    assert_eq!(files(&scene.machine)?, Vec::<String>::new(), "afterwards");
    assert!(scene.sh("getent group upcall").is_err());
    let failed = scene.machine.run(&[
        "systemctl",
        "list-units",
        "--failed",
        "--no-legend",
        "upcall*",
    ])?;
    assert_eq!(failed, "");
    Ok(())
}
