//! A pod as a kubelet makes it: through containerd's CRI, in the host's network.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{command, run};
use crate::container::{Container, Engine};
use crate::containerd::Containerd;
use crate::rootfs::Rootfs;
use crate::sandbox::Sandbox;

/// The kubelet's side of the CRI; Debian has no client of it, so this one is our own.
const CLIENT: &str = include_str!("cri.py");

/// The pod's uid.
pub const UID: &str = "0a1b2c3d-0000-4000-8000-00000000beef";

/// The pod, as far as its end needs it.
#[derive(Debug)]
struct Pod {
    client: PathBuf,
    socket: PathBuf,
    sandbox: String,
}

/// Starts the pod NAME of the namespace `shop`, with the one container `app`.
///
/// # Errors
/// containerd fails; the error has what it said.
pub fn pod(containerd: &Containerd, sandbox: &Sandbox, name: &str) -> Result<Container> {
    let place = sandbox.path("bundles").join(name);
    std::fs::create_dir(&place).with_context(|| format!("a second {name}"))?;
    let root = Rootfs::create(sandbox, place.join("root"))?;
    containerd.import("k8s.io", &root, "app", &["/init"])?;
    containerd.import("k8s.io", &root, "pause", &["/bin/sleep", "100000"])?;
    let client = place.join("cri.py");
    std::fs::write(&client, CLIENT)?;
    let cgroup = format!("/{}/kubepods/besteffort/pod{UID}", sandbox.tag());
    let mut pod = Pod {
        client,
        socket: containerd.socket().to_owned(),
        sandbox: String::new(),
    };
    let image = "localhost/app:e2e";
    let ids = run(pod.cri("start").args(["shop", name, UID, image, &cgroup]))?;
    let (sandbox_id, id) = ids.trim().split_once(' ').context("two ids")?;
    sandbox_id.clone_into(&mut pod.sandbox);
    let pid = containerd.pid("k8s.io", id);
    let container = Container::new(pod, "app".to_owned(), id.to_owned(), root);
    container.with_init(pid?, true)
}

impl Pod {
    fn cri(&self, what: &str) -> Command {
        let mut cri = command("/usr/bin/python3");
        cri.arg(&self.client).arg(what).arg(&self.socket);
        cri
    }
}

impl Engine for Pod {
    fn word(&self) -> &'static str {
        "containerd"
    }

    fn exec(&self, id: &str) -> Command {
        let mut ctr = command("ctr");
        ctr.arg("--address").arg(&self.socket);
        ctr.args(["--namespace=k8s.io", "tasks", "exec", "--exec-id=e2e", id]);
        ctr
    }

    fn remove(&self, _id: &str) -> Result<()> {
        run(self.cri("stop").arg(&self.sandbox)).map(drop)
    }
}
