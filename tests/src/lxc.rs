//! Real containers by LXC, with a directory of containers of their own in the sandbox, and without a network.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{command, run, run_logged};
use crate::container::{Container, Engine};
use crate::rootfs::Rootfs;
use crate::sandbox::Sandbox;
use crate::skip;

/// What `upcalld.toml` has to say, so that they are found.
pub const SETTINGS: &str = "runtimes.lxc = [\"@/lxc\"]";

/// The host's id of the root of a container with a user namespace of its own.
pub const ROOT: u32 = 300_000;

/// A container of LXC's that is not started yet.
#[derive(Debug)]
pub struct Lxc {
    name: String,
    mapped: bool,
    more: String,
}

/// LXC's programs, for one directory of containers.
#[derive(Debug)]
struct Programs(PathBuf);

impl Lxc {
    /// One by this name, sharing the host's user namespace.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            mapped: false,
            more: String::new(),
        }
    }

    /// With a user namespace of its own.
    #[must_use]
    pub fn user_namespace(mut self) -> Self {
        self.mapped = true;
        self
    }

    /// With another line of configuration.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.more.push_str(line);
        self.more.push('\n');
        self
    }

    /// What it will be called.
    pub fn called(&self, sandbox: &Sandbox) -> String {
        format!("{}-{}", sandbox.tag(), self.name)
    }

    /// Starts it.
    ///
    /// # Errors
    /// lxc-start fails; the error has what it said.
    pub fn start(self, sandbox: &Sandbox) -> Result<Container> {
        let name = self.called(sandbox);
        let place = sandbox.path("bundles").join(&self.name);
        std::fs::create_dir(&place).with_context(|| format!("a second {name}"))?;
        let root = Rootfs::create(sandbox, place.join("root"))?;
        let directory = sandbox.path("lxc").join(&name);
        std::fs::create_dir_all(&directory)?;
        let mut config = format!(
            "lxc.include = /usr/share/lxc/config/common.conf\n\
             lxc.rootfs.path = dir:{}\nlxc.uts.name = {}\nlxc.net.0.type = empty\n\
             lxc.init.cmd = /init\nlxc.apparmor.profile = unconfined\n\
             lxc.mount.auto = proc:mixed sys:ro cgroup:mixed\n{}",
            root.path().display(),
            self.name,
            self.more
        );
        if self.mapped {
            root.give_to(ROOT, ROOT)?;
            let map = format!(
                "lxc.include = /usr/share/lxc/config/userns.conf\n\
                 lxc.idmap = u 0 {ROOT} 65536\nlxc.idmap = g 0 {ROOT} 65536"
            );
            writeln!(config, "{map}")?;
        }
        std::fs::write(directory.join("config"), config)?;
        let programs = Programs(sandbox.path("lxc"));
        // By its path, and with no other program to be found: newuidmap would ask /etc/subuid what root may.
        let program = skip::find("lxc-start").context("lxc")?;
        let mut start = programs.command(program, &name);
        start.env("PATH", "/nonexistent");
        start.arg("--logfile").arg(place.join("lxc.log"));
        let started = run_logged(&mut start, &place.join("log"));
        started
            .with_context(|| std::fs::read_to_string(place.join("lxc.log")).unwrap_or_default())?;
        let pid = run(programs
            .command("lxc-info", &name)
            .args(["--pid", "--no-humanize"]));
        let container = Container::new(programs, name.clone(), name, root);
        container.with_init(pid?.trim().parse()?, true)
    }
}

impl Programs {
    fn command(&self, program: impl AsRef<OsStr>, name: &str) -> Command {
        let mut command = command(program);
        command.arg("--lxcpath").arg(&self.0).args(["--name", name]);
        command
    }
}

impl Engine for Programs {
    fn word(&self) -> &'static str {
        "lxc"
    }

    fn exec(&self, id: &str) -> Command {
        let mut attach = self.command("lxc-attach", id);
        attach.args(["--clear-env", "--"]);
        attach
    }

    fn remove(&self, id: &str) -> Result<()> {
        // Its init has ended, so its monitor goes by itself.
        run(self
            .command("lxc-wait", id)
            .args(["--state=STOPPED", "--timeout=5"]))
        .map(drop)
    }
}
