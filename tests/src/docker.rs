//! Real containers by docker: a dockerd of its own in the sandbox, which starts its own containerd, and changes
//! nothing of the host's network.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{command, run};
use crate::container::{Container, Engine};
use crate::rootfs::Rootfs;
use crate::sandbox::Sandbox;
use crate::service::Service;

/// A running dockerd.
#[derive(Debug)]
pub struct Docker {
    _service: Service,
    client: Client,
    cgroup: String,
}

/// The command that talks to it.
#[derive(Debug, Clone)]
struct Client(PathBuf);

impl Docker {
    /// What `upcalld.toml` has to say, so that its containers are found.
    pub const SETTINGS: &str = "runtimes.docker = [\"@/docker/exec/runtime-runc\"]\n\
                                runtimes.docker_root = \"@/docker/data\"";

    /// Starts one.
    ///
    /// # Errors
    /// dockerd fails; the error has what it said.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        let place = sandbox.path("docker");
        std::fs::create_dir(&place)?;
        let client = Client(place.join("socket"));
        let mut service = Service::start(sandbox, "dockerd", |dockerd| {
            dockerd.arg("--data-root").arg(place.join("data"));
            dockerd.arg("--exec-root").arg(place.join("exec"));
            dockerd.arg("--pidfile").arg(place.join("pid"));
            dockerd.arg(format!("--host=unix://{}", client.0.display()));
            dockerd.args(["--storage-driver=vfs", "--bridge=none", "--iptables=false"]);
            dockerd.args(["--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]);
            // Without CAP_SYS_RESOURCE neither may be bettered.
            dockerd.args(["--oom-score-adjust=0", "--default-ulimit=nofile=4096:4096"]);
            dockerd.args([
                "--exec-opt=native.cgroupdriver=cgroupfs",
                "--shutdown-timeout=1",
            ]);
        })?;
        service.wait("dockerd", || run(client.command().arg("version")).ok())?;
        Ok(Self {
            _service: service,
            client,
            cgroup: format!("--cgroup-parent=/{}/docker", sandbox.tag()),
        })
    }

    /// Starts a container, with these flags of `docker run`.
    ///
    /// # Errors
    /// docker fails; the error has what it said.
    pub fn run(&self, sandbox: &Sandbox, name: &str, flags: &[&str]) -> Result<Container> {
        let place = sandbox.path("bundles").join(name);
        std::fs::create_dir(&place).with_context(|| format!("a second {name}"))?;
        let root = Rootfs::create(sandbox, place.join("root"))?;
        let tar = place.join("root.tar");
        run(command("tar")
            .arg("-C")
            .arg(root.path())
            .arg("-cf")
            .arg(&tar)
            .arg("."))?;
        let image = format!("{name}:e2e");
        run(self.client.command().arg("import").arg(&tar).arg(&image))?;
        std::fs::remove_file(&tar)?;
        let mut start = self.client.command();
        start.args(["run", "--detach", "--name", name]);
        if !flags.iter().any(|flag| flag.starts_with("--network")) {
            start.arg("--network=none");
        }
        start.arg(&self.cgroup).args(flags).args([&image, "/init"]);
        let id = run(&mut start)?.trim().to_owned();
        let container = Container::new(self.client.clone(), name.to_owned(), id.clone(), root);
        let pid = run(self
            .client
            .command()
            .args(["inspect", "--format={{.State.Pid}}", &id]))?;
        container.with_init(pid.trim().parse()?, true)
    }
}

impl Client {
    fn command(&self) -> Command {
        let mut docker = command("docker");
        docker.arg(format!("--host=unix://{}", self.0.display()));
        docker
    }
}

impl Engine for Client {
    fn word(&self) -> &'static str {
        "docker"
    }

    fn exec(&self, id: &str) -> Command {
        let mut exec = self.command();
        exec.args(["exec", id]);
        exec
    }

    fn remove(&self, id: &str) -> Result<()> {
        run(self.command().args(["rm", "--force", id])).map(drop)
    }
}
