//! The daemon as a service: what it gives up, the hook it may look after itself, and the units.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result};
use upcall_config::capability;
use upcall_e2e::command::command;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::skip::Need;

/// A field of /proc/PID/status.
fn field(pid: u32, name: &str) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    Ok(line
        .context("a field")?
        .trim_start_matches(':')
        .trim()
        .to_owned())
}

fn capabilities(pid: u32, name: &str) -> Result<Vec<String>> {
    Ok(capability::names(u64::from_str_radix(
        &field(pid, name)?,
        16,
    )?))
}

#[test]
fn the_daemon_gives_up_what_it_does_not_need_and_its_launcher_nothing() -> Result<()> {
    needs!(Root);
    let sandbox = Sandbox::new()?;
    let daemon = Daemon::start(&sandbox)?;
    assert_eq!(field(daemon.pid(), "NoNewPrivs")?, "1");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let held = capabilities(daemon.pid(), set)?;
        for gone in [
            "SYS_ADMIN",
            "SETUID",
            "SETGID",
            "SYS_CHROOT",
            "MKNOD",
            "SYS_MODULE",
            "SETPCAP",
        ] {
            assert!(!held.iter().any(|name| name == gone), "{set}: {held:?}");
        }
    }
    assert_eq!(capabilities(daemon.pid(), "CapInh")?, Vec::<String>::new());
    // Every thread of it: capabilities and filters are a thread's own.
    for thread in std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        let line = format!("CapEff:\t{}", field(daemon.pid(), "CapEff")?);
        assert!(status.contains(&line), "{status}");
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
    let (launcher, ours) = (daemon.launcher(), std::process::id());
    for set in ["CapEff", "CapBnd", "NoNewPrivs", "Seccomp"] {
        assert_eq!(field(launcher, set)?, field(ours, set)?, "{set}");
    }
    let files = |pid: u32| -> Result<String> {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        Ok(line.context("open files")?.to_owned())
    };
    assert_eq!(
        files(launcher)?,
        files(ours)?,
        "helpers would inherit others"
    );
    let own = files(daemon.pid())?;
    let [soft, hard] = [3, 4].map(|word| own.split_whitespace().nth(word));
    assert_eq!(soft, hard, "{own}");
    daemon.stop(&sandbox)
}

#[test]
fn nothing_in_the_daemons_directory_is_for_everybody() -> Result<()> {
    needs!(Root);
    let sandbox = Sandbox::new()?;
    let daemon = Daemon::start(&sandbox)?;
    let mut seen = 0;
    let mut directories = vec![sandbox.sockets()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let (kind, mode) = (entry.file_type()?, entry.metadata()?.mode() & 0o7777);
            let name = entry.file_name().to_string_lossy().into_owned();
            assert_eq!(entry.metadata()?.uid(), 0, "{name}");
            // Whoever connects has to have the right to write. Only the control socket is the group's too.
            let most = if name == "control.sock" { 0o660 } else { 0o750 };
            assert_eq!(mode & !most, 0, "{name}: {mode:o}");
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_socket() {
                seen += 1;
            }
        }
    }
    let kernels = usize::from(Need::CoreSocket.missing().is_none());
    assert_eq!(seen, 2 + kernels, "the shim's, upcallctl's, the kernel's");
    daemon.stop(&sandbox)
}

/// What the unit of the daemon may say: nothing of it is inherited.
const UNIT_KEYS: [&str; 9] = [
    "Type",
    "ExecStart",
    "ExecReload",
    "KillMode",
    "TimeoutStopSec",
    "WatchdogSec",
    "WatchdogSignal",
    "Restart",
    "RestartSec",
];

#[test]
fn nothing_in_the_daemons_unit_would_be_its_helpers_too() -> Result<()> {
    let unit =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/defaults/systemd/upcalld.service");
    let text = std::fs::read_to_string(unit)?;
    let (_, service) = text.split_once("[Service]").context("a service")?;
    let (service, _) = service.split_once("[Install]").context("its end")?;
    let lines = service.lines().filter(|line| !line.starts_with('#'));
    let keys: Vec<&str> = lines
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    assert!(keys.contains(&"ExecStart"), "{keys:?}");
    let others: Vec<_> = keys.iter().filter(|key| !UNIT_KEYS.contains(key)).collect();
    assert!(others.is_empty(), "helpers would inherit {others:?}");
    Ok(())
}

#[test]
fn a_daemon_without_units_puts_the_hook_in_and_back() -> Result<()> {
    needs!(Root);
    let sandbox = Sandbox::new()?;
    std::fs::remove_file(sandbox.hooks().join("core"))?;
    let kernel = sandbox.path("kernel");
    std::fs::create_dir(&kernel)?;
    let read = |name: &str| std::fs::read_to_string(kernel.join(name));
    std::fs::write(kernel.join("core_pattern"), "|/bin/before %p\n")?;
    std::fs::write(kernel.join("core_pipe_limit"), "7\n")?;
    let start = || {
        Daemon::start_with(&sandbox, |daemon| {
            daemon.args(["--install", "core", "--sysctl"]).arg(&kernel);
        })
    };
    let again = "sysctl.d/99-upcalld.conf";
    for round in ["first", "killed before"] {
        let daemon = start()?;
        let ours = read("core_pattern")?;
        assert!(
            ours.starts_with(&format!("|{}", sandbox.libexec().join("core").display())),
            "{round}: {ours}"
        );
        assert_eq!(read("core_pipe_limit")?, "1024\n");
        assert!(read(again)?.contains(ours.trim_end()), "{round}");
        // Killed, it leaves the hook to the shim, which keeps what comes; the next one knows what stood there first.
        if round == "first" {
            daemon.kill()?;
            assert_eq!(read("core_pattern")?, ours);
        } else {
            daemon.stop(&sandbox)?;
        }
    }
    assert_eq!(
        (read("core_pattern")?, read("core_pipe_limit")?),
        ("|/bin/before %p\n".into(), "7\n".into())
    );
    assert!(!kernel.join(again).exists() && !sandbox.hooks().join("core").exists());
    Ok(())
}

#[test]
fn the_units_are_right() -> Result<()> {
    needs!(Root, Systemd);
    // Their programs are looked for, so they get some to be found.
    let sandbox = Sandbox::new()?;
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/defaults/systemd");
    let mut paths = Vec::new();
    for unit in std::fs::read_dir(units)? {
        let unit = unit?;
        let text = std::fs::read_to_string(unit.path())?;
        let text = text
            .replace("/usr/sbin/upcalld", "/bin/true")
            .replace("/usr/bin/upcallctl", "/bin/true");
        let path = sandbox.path(unit.file_name());
        std::fs::write(&path, text)?;
        paths.push(path);
    }
    assert_eq!(paths.len(), 3);
    let mut verify = command("systemd-analyze");
    verify
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&paths);
    let output = verify.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    Ok(())
}
