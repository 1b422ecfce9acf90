//! A machine with systemd: the host's own files under an overlay, booted by systemd-nspawn, so that packages and units are
//! tried as they are. What happens in it is gone with it.
//!
//! It has the host's kernel and sees the kernel's settings read-only: nothing in it can change core_pattern.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};

use crate::cgroup::{self, cgroup2};
use crate::command::{command, run, until};
use crate::container::{children, pid_of};
use crate::nspawn::Machined;
use crate::sandbox::Sandbox;

/// How long it may take to boot, to answer, to shut down, also where others are at work.
const PATIENCE: Duration = Duration::from_secs(90);

/// Enters cgroups and boots. Where nobody is to find it, it sees cgroup2 alone; one that is registered has a supervisor
/// in the host's own mount namespace, and the host's cgroups.
const BOOT: &str = r#"
for place in $1; do echo $$ > "$place/cgroup.procs" || exit 1; done
if [ "$4" = no ]; then
    mount --make-rprivate /
    umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 1
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
fi
exec systemd-nspawn --quiet --boot --directory="$2" --machine="$3" --register="$4" --keep-unit --private-network \
    --private-users=no --capability=all --console=pipe --system-call-filter=@keyring --system-call-filter=bpf \
    systemd.unit=multi-user.target
"#;

/// A booted machine; ended when dropped.
#[derive(Debug)]
pub struct Machine {
    nspawn: Child,
    leader: u32,
    root: PathBuf,
    cgroup: PathBuf,
}

impl Machine {
    /// Boots one in the sandbox's directory.
    ///
    /// # Errors
    /// It does not boot; the error has what it said.
    pub fn boot(sandbox: &Sandbox) -> Result<Self> {
        Self::boot_in(sandbox, &sandbox.tag().into(), None)
    }

    /// Boots one that is registered, in the unit that systemd would have made for it.
    ///
    /// # Errors
    /// As [`Machine::boot`]; it is not registered.
    pub fn boot_registered(sandbox: &Sandbox, machined: &Machined) -> Result<Self> {
        let tag = sandbox.tag();
        let unit = Path::new(&format!("{tag}.slice")).join(format!("machine-{tag}.scope"));
        let machine = Self::boot_in(sandbox, &unit, Some(machined))?;
        machined.registered(tag)?;
        Ok(machine)
    }

    fn boot_in(sandbox: &Sandbox, unit: &PathBuf, machined: Option<&Machined>) -> Result<Self> {
        let root = overlay(sandbox)?;
        furnish(&root)?;
        let cgroup = cgroup2().context("cgroup2 is not mounted")?.join(unit);
        let systemds = cgroup::mounted("name=systemd").filter(|_| machined.is_some());
        let systemds = systemds.map(|mount| mount.join(unit));
        let mut cgroups = String::new();
        for cgroup in systemds.iter().chain([&cgroup]) {
            std::fs::create_dir_all(cgroup).context("a cgroup for the machine")?;
            cgroups = format!("{cgroups} {}", cgroup.display());
        }
        let log = sandbox.path("machine.log");
        let output = std::fs::File::create(&log)?;
        let mut nspawn = command("unshare");
        if machined.is_none() {
            nspawn.args(["--mount", "--propagation=private"]);
        }
        nspawn
            .args(["--", "setpriv", "--pdeathsig=KILL", "--"])
            .args(["sh", "-c", BOOT, "sh"])
            .arg(cgroups)
            .arg(&root)
            .arg(sandbox.tag())
            .arg(if machined.is_some() { "yes" } else { "no" })
            .envs(machined.map(Machined::bus))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut machine = Self {
            nspawn: nspawn.spawn()?,
            leader: 0,
            root,
            cgroup,
        };
        let booted = until(PATIENCE, "the machine", || machine.is_up().then_some(()));
        booted.with_context(|| std::fs::read_to_string(log).unwrap_or_default())?;
        Ok(machine)
    }

    fn is_up(&mut self) -> bool {
        let named = |pid: &u32| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|comm| comm.trim() == "systemd")
        };
        self.leader = children(self.nspawn.id())
            .into_iter()
            .find(named)
            .unwrap_or(0);
        self.leader != 0
            && self
                .run(&["systemctl", "is-active", "multi-user.target"])
                .is_ok()
    }

    /// A file of it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The host's number of a process of it.
    ///
    /// # Errors
    /// There is none.
    pub fn hosts_number(&self, inside: u32) -> Result<u32> {
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
        let ours = namespace(self.leader)?;
        let number = |entry: std::fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("NSpid:"))?;
            let last = line.split_whitespace().last()?.parse().ok();
            let found = last == Some(inside) && namespace(pid).ok()? == ours;
            found.then_some(pid)
        };
        let mut processes = std::fs::read_dir("/proc")?.flatten();
        let found = processes.find_map(number);
        found.with_context(|| format!("the machine has no process {inside}"))
    }

    /// A command that runs in it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut inside = command("nsenter");
        inside
            .args(["--all", "--target", &self.leader.to_string(), "--"])
            .args(words)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8");
        inside
    }

    /// Runs a command in it to its end.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        run(&mut self.command(words))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Killed: nothing in it is worth an orderly end, and its namespaces and mounts end with its last process.
        if self.leader != 0 {
            let _ = kill(pid_of(self.leader), Signal::SIGKILL);
        }
        drop(self.nspawn.kill());
        drop(self.nspawn.wait());
        drop(std::fs::write(self.cgroup.join("cgroup.kill"), "1"));
        let empty = || remove(&self.cgroup).ok();
        drop(until(Duration::from_secs(5), "an empty cgroup", empty));
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
    }
}

/// Removes a cgroup and those below it.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    std::fs::remove_dir(cgroup)
}

/// The host's root, written to in the sandbox.
fn overlay(sandbox: &Sandbox) -> Result<PathBuf> {
    let root = sandbox.path("machine");
    for directory in ["machine", "upper", "work"] {
        DirBuilder::new()
            .mode(0o755)
            .create(sandbox.path(directory))?;
    }
    let options = format!(
        "lowerdir=/,upperdir={},workdir={}",
        sandbox.path("upper").display(),
        sandbox.path("work").display()
    );
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .context("an overlay of /")?;
    Ok(root)
}

/// Takes away what the host's own services are started by, and what forbids packages to start theirs.
fn furnish(root: &Path) -> Result<()> {
    let units = root.join("etc/systemd/system");
    for directory in [
        "etc/systemd/system",
        "etc/init.d",
        "etc/rc2.d",
        "etc/rc3.d",
        "var/log/journal",
    ] {
        drop(std::fs::remove_dir_all(root.join(directory)));
    }
    std::fs::create_dir_all(units)?;
    drop(std::fs::remove_file(root.join("usr/sbin/policy-rc.d")));
    drop(std::fs::remove_file(root.join("var/lib/dbus/machine-id")));
    Ok(std::fs::write(
        root.join("etc/machine-id"),
        "0123456789abcdef0123456789abcdef\n",
    )?)
}
