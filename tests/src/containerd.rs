//! Real containers by containerd, one of its own in the sandbox, and `ctr`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{command, run};
use crate::container::{Container, Engine};
use crate::image;
use crate::rootfs::Rootfs;
use crate::sandbox::Sandbox;
use crate::service::Service;

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    _service: Service,
    client: Client,
    runc: PathBuf,
}

/// The command that talks to it.
#[derive(Debug, Clone)]
struct Client(PathBuf);

impl Containerd {
    /// What `upcalld.toml` has to say, so that its containers are found: with mapped users ctr forgets where runc
    /// was to keep them.
    pub const SETTINGS: &str =
        "runtimes.containerd = [\"@/containerd/runc\", \"/run/containerd/runc\"]";

    /// Starts one.
    ///
    /// # Errors
    /// containerd fails; the error has what it said.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        let place = sandbox.path("containerd");
        std::fs::create_dir(&place)?;
        let client = Client(place.join("socket"));
        let config = place.join("config.toml");
        // Without CAP_SYS_RESOURCE nobody's oom score may be bettered.
        let text = format!(
            "version = 2\noom_score = 0\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             [grpc]\naddress = \"{0}/socket\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"localhost/pause:e2e\"\n\
             restrict_oom_score_adj = true\ndisable_apparmor = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
             runtime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n\
             Root = \"{0}/runc\"\n",
            place.display()
        );
        std::fs::write(&config, text)?;
        let mut service = Service::start(sandbox, "containerd", |containerd| {
            containerd.arg("--config").arg(&config);
        })?;
        service.wait("containerd", || {
            // ctr waits ten seconds for a socket that is not there.
            client.0.exists().then_some(())?;
            run(client.command("default").arg("version")).ok()
        })?;
        let runc = place.join("runc");
        Ok(Self {
            _service: service,
            client,
            runc,
        })
    }

    /// Its socket.
    pub fn socket(&self) -> &std::path::Path {
        &self.client.0
    }

    /// `ctr` for one of its namespaces.
    pub fn ctr(&self, namespace: &str) -> Command {
        self.client.command(namespace)
    }

    /// Starts a container, with these flags of `ctr run`.
    ///
    /// # Errors
    /// ctr fails; the error has what it said.
    pub fn run(&self, sandbox: &Sandbox, name: &str, flags: &[&str]) -> Result<Container> {
        let id = format!("{}-{name}", sandbox.tag());
        let place = sandbox.path("bundles").join(name);
        std::fs::create_dir(&place).with_context(|| format!("a second {name}"))?;
        let root = Rootfs::create(sandbox, place.join("root"))?;
        self.import("default", &root, name, &["/init"])?;
        let mut start = self.client.command("default");
        start
            .args(["run", "--detach", "--snapshotter=native", "--runc-root"])
            .arg(&self.runc);
        start.arg(format!("--cgroup=/{}/default/{id}", sandbox.tag()));
        start.args(flags).arg(format!("localhost/{name}:e2e"));
        run(start.arg(&id))?;
        let container = Container::new(self.client.clone(), name.to_owned(), id.clone(), root);
        container.with_init(self.pid("default", &id)?, true)
    }

    /// Makes an image of a root file system, `localhost/NAME:e2e`, in one of its namespaces.
    ///
    /// # Errors
    /// ctr fails; the error has what it said.
    pub fn import(
        &self,
        namespace: &str,
        root: &Rootfs,
        name: &str,
        entrypoint: &[&str],
    ) -> Result<()> {
        let place = root.path().parent().context("a bundle")?;
        let tar = image::pack(root.path(), place, name, entrypoint)?;
        let mut import = self.client.command(namespace);
        import
            .args(["images", "import", "--snapshotter=native"])
            .arg(&tar);
        run(&mut import)?;
        Ok(std::fs::remove_file(tar)?)
    }

    /// The pid of a container's init.
    ///
    /// # Errors
    /// It is not there.
    pub fn pid(&self, namespace: &str, id: &str) -> Result<u32> {
        let tasks = run(self.client.command(namespace).args(["tasks", "ls"]))?;
        let task = tasks
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id));
        let pid = task.and_then(|line| line.split_whitespace().nth(1));
        Ok(pid.context("no such task")?.parse()?)
    }
}

impl Client {
    fn command(&self, namespace: &str) -> Command {
        let mut ctr = command("ctr");
        ctr.arg("--address").arg(&self.0);
        ctr.args(["--namespace", namespace]);
        ctr
    }
}

impl Engine for Client {
    fn word(&self) -> &'static str {
        "containerd"
    }

    fn exec(&self, id: &str) -> Command {
        let mut exec = self.command("default");
        exec.args(["tasks", "exec", "--exec-id", "e2e", id]);
        exec
    }

    fn remove(&self, id: &str) -> Result<()> {
        drop(run(self
            .command("default")
            .args(["tasks", "rm", "--force", id])));
        run(self.command("default").args(["containers", "rm", id])).map(drop)
    }

    fn knows_ids_only(&self) -> bool {
        true
    }
}
