//! Real containers by systemd-nspawn, registered with a systemd-machined of the sandbox's own, on a bus of its own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cgroup;
use crate::command::{command, until};
use crate::container::{Container, Engine, children, waits};
use crate::rootfs::Rootfs;
use crate::sandbox::Sandbox;
use crate::service::Service;

/// Starts machined where /run/systemd is the sandbox's.
const MACHINED: &str = "mkdir -p /run/systemd && mount --bind \"$1\" /run/systemd && \
                        exec /lib/systemd/systemd-machined";

/// Starts nspawn in the unit's cgroups, which a systemd would have made.
const NSPAWN: &str = "unit=$1; shift; for place in $unit; do echo 0 > \"$place/cgroup.procs\" || exit 1; done; \
                      exec systemd-nspawn \"$@\"";

/// machined, and its bus.
#[derive(Debug)]
pub struct Machined {
    _registers: Service,
    _bus: Service,
    address: String,
    machines: PathBuf,
}

/// A machine's nspawn.
#[derive(Debug)]
struct Nspawn {
    init: u32,
    _service: Service,
}

impl Machined {
    /// What `upcalld.toml` has to say, so that its containers are found.
    pub const SETTINGS: &str = "runtimes.machines = \"@/systemd/machines\"";

    /// Starts them.
    ///
    /// # Errors
    /// They do not start; the error has what they said.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        let socket = sandbox.path("bus");
        let address = format!("unix:path={}", socket.display());
        let mut bus = Service::start(sandbox, "dbus-daemon", |bus| {
            bus.args(["--system", "--nofork", "--nopidfile", "--nosyslog"]);
            bus.arg(format!("--address={address}"));
        })?;
        bus.wait("the bus", || socket.exists().then_some(()))?;
        let state = sandbox.path("systemd");
        std::fs::create_dir(&state)?;
        let mut machined = Service::start(sandbox, "unshare", |machined| {
            machined.args(["--mount", "--propagation=slave", "sh", "-c", MACHINED, "sh"]);
            machined
                .arg(&state)
                .env("DBUS_SYSTEM_BUS_ADDRESS", &address);
        })?;
        let machines = state.join("machines");
        machined.wait("machined", || machines.exists().then_some(()))?;
        Ok(Self {
            _registers: machined,
            _bus: bus,
            address,
            machines,
        })
    }

    /// What nspawn finds its bus by.
    pub(crate) fn bus(&self) -> (&'static str, &str) {
        ("DBUS_SYSTEM_BUS_ADDRESS", &self.address)
    }

    /// Waits until a machine of this name is registered.
    ///
    /// # Errors
    /// It is not.
    pub fn registered(&self, machine: &str) -> Result<()> {
        let file = self.machines.join(machine);
        until(Duration::from_secs(5), "machined", || {
            file.exists().then_some(())
        })
    }

    /// Starts a machine with these further flags of nspawn's.
    ///
    /// # Errors
    /// nspawn fails; the error has what it said.
    pub fn run(&self, sandbox: &Sandbox, name: &str, flags: &[&str]) -> Result<Container> {
        let machine = format!("{}-{name}", sandbox.tag());
        let place = sandbox.path("bundles").join(name);
        std::fs::create_dir(&place).with_context(|| format!("a second {name}"))?;
        let root = Rootfs::create(sandbox, place.join("root"))?;
        std::fs::create_dir(root.inside("/usr"))?;
        std::fs::write(root.inside("/etc/os-release"), "")?;
        let unit = format!("{}.slice/machine-{machine}.scope", sandbox.tag());
        let hierarchies = [cgroup::mounted(""), cgroup::mounted("name=systemd")];
        let cgroups: Vec<PathBuf> = hierarchies
            .into_iter()
            .flatten()
            .map(|mount| mount.join(&unit))
            .collect();
        for cgroup in &cgroups {
            std::fs::create_dir_all(cgroup)?;
        }
        let cgroups: Vec<_> = cgroups
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let mut service = Service::start(sandbox, "sh", |nspawn| {
            nspawn.args(["-c", NSPAWN, "sh", &cgroups.join(" ")]);
            nspawn.args([
                "--quiet",
                "--keep-unit",
                "--private-network",
                "--console=pipe",
            ]);
            nspawn.arg(format!("--machine={machine}")).args(flags);
            nspawn.arg("--directory").arg(root.path()).arg("/init");
            nspawn.envs([self.bus()]);
        })?;
        let supervisor = service.pid();
        let init = service.wait("nspawn's init", || {
            let mut below = children(supervisor).into_iter();
            below.find(|pid| waits(*pid))
        })?;
        let nspawn = Nspawn {
            init,
            _service: service,
        };
        Container::new(nspawn, machine.clone(), machine, root).with_init(init, true)
    }
}

impl Engine for Nspawn {
    fn word(&self) -> &'static str {
        "nspawn"
    }

    fn exec(&self, _id: &str) -> Command {
        let mut enter = command("nsenter");
        enter.args(["--all", "--target", &self.init.to_string(), "--"]);
        enter
    }

    fn remove(&self, _id: &str) -> Result<()> {
        // It ends with its init, and its unit's cgroups are the sandbox's.
        Ok(())
    }
}
