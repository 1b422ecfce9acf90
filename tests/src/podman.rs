//! Real containers by podman, with runc below and without a network: podman's default one changes the host's
//! forwarding.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{command, run};
use crate::container::{Container, Engine};
use crate::rootfs::Rootfs;
use crate::sandbox::Sandbox;
use crate::skip;

/// A container of podman's that is not started yet.
#[derive(Debug)]
pub struct Podman {
    name: String,
    called: Option<String>,
    flags: Vec<String>,
    image: bool,
    pod: Option<(String, PathBuf)>,
}

/// podman, told what does not depend on how this host is set up.
pub fn podman<T: AsRef<OsStr>>(words: impl IntoIterator<Item = T>) -> Command {
    let mut podman = command("podman");
    if let Some(runc) = skip::find("runc") {
        podman.arg("--runtime").arg(runc);
    }
    podman.args(["--cgroup-manager=cgroupfs", "--events-backend=file"]);
    podman.args(words);
    podman
}

impl Podman {
    /// One by this name, sharing the host's user namespace.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            called: None,
            flags: vec![],
            image: false,
            pod: None,
        }
    }

    /// With this name, and not one that no other sandbox has.
    #[must_use]
    pub fn called(mut self, name: &str) -> Self {
        self.called = Some(name.to_owned());
        self
    }

    /// With another word for `podman run`.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// With a user namespace of its own, its root being this id of the host's; from an image, whose files podman
    /// gives to the mapped ids.
    #[must_use]
    pub fn user_namespace(mut self, host: u32) -> Self {
        self.image = true;
        self.flag(&format!("--uidmap=0:{host}:65536"))
            .flag(&format!("--gidmap=0:{host}:65536"))
    }

    /// In this pod.
    #[must_use]
    pub fn pod(mut self, pod: &Pod) -> Self {
        self.pod = Some((pod.name.clone(), pod.settings.clone()));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// podman fails; the error has what it said.
    pub fn start(self, sandbox: &Sandbox) -> Result<Container> {
        let name = self
            .called
            .unwrap_or_else(|| format!("{}-{}", sandbox.tag(), self.name));
        let place = sandbox.path("bundles").join(&self.name);
        std::fs::create_dir(&place).with_context(|| format!("a second {}", self.name))?;
        let root = Rootfs::create(sandbox, place.join("root"))?;
        // A cgroup namespace or not is otherwise the host's cgroup version's business.
        let mut start = podman(["run", "--detach", "--cgroupns=host"]);
        match &self.pod {
            Some((pod, settings)) => start.arg("--pod").arg(pod).env(SETTINGS, settings),
            None => start.arg("--network=none"),
        };
        start.args(["--name", &name]);
        // Without CAP_SYS_RESOURCE podman's own default limits cannot be set.
        start.args(["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"]);
        start.args(&self.flags);
        if self.image {
            let tar = place.join("root.tar");
            run(command("tar")
                .arg("-C")
                .arg(root.path())
                .arg("-cf")
                .arg(&tar)
                .arg("."))?;
            run(podman(["import", "--quiet"]).arg(&tar).arg(image(&name)))?;
            start.arg(image(&name));
        } else {
            start.arg("--rootfs").arg(root.path());
        }
        let started = run(start.arg("/init"));
        let container = Container::new(Engined(name.clone()), name.clone(), name.clone(), root);
        let id = started?.trim().to_owned();
        let format = "--format={{.State.Pid}} {{.State.ConmonPid}}";
        let pids = run(&mut podman(["inspect", format, &name]))?;
        let (pid, conmon) = pids.trim().split_once(' ').context("podman inspect")?;
        container.orphan(conmon.parse()?);
        container.with_id(id).with_init(pid.parse()?, true)
    }
}

/// Where podman is told what to read instead of containers.conf.
const SETTINGS: &str = "CONTAINERS_CONF";

/// A pod with an infra container; removed when dropped, after the containers in it.
#[derive(Debug)]
pub struct Pod {
    name: String,
    settings: PathBuf,
}

impl Pod {
    /// Makes one.
    ///
    /// # Errors
    /// podman fails; the error has what it said.
    pub fn create(sandbox: &Sandbox, name: &str) -> Result<Self> {
        let name = format!("{}-{name}", sandbox.tag());
        let settings = sandbox.path("containers.conf");
        // Without CAP_SYS_RESOURCE podman's own default limits cannot be set, and a pod has no flag for others.
        let text = "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n";
        std::fs::write(&settings, text)?;
        let root = Rootfs::create(sandbox, sandbox.path("bundles").join(&name))?;
        let tar = sandbox.path("infra.tar");
        run(command("tar")
            .arg("-C")
            .arg(root.path())
            .arg("-cf")
            .arg(&tar)
            .arg("."))?;
        let entry = "--change=ENTRYPOINT [\"/bin/sleep\",\"100000\"]";
        run(podman(["import", "--quiet", entry])
            .arg(&tar)
            .arg(image(&name)))?;
        let pod = Self { name, settings };
        let mut create = podman(["pod", "create", "--network=none", "--infra-image"]);
        create.arg(image(&pod.name)).args(["--name", &pod.name]);
        run(create.env(SETTINGS, &pod.settings))?;
        Ok(pod)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// podman's id of it.
    ///
    /// # Errors
    /// podman fails.
    pub fn id(&self) -> Result<String> {
        let format = "--format={{.ID}}";
        Ok(run(&mut podman(["pod", "inspect", format, &self.name]))?
            .trim()
            .to_owned())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let patience = std::time::Duration::from_secs(3);
        drop(crate::command::until(patience, "a pod's end", || {
            run(&mut podman([
                "pod", "rm", "--force", "--time=0", &self.name,
            ]))
            .ok()
        }));
        drop(run(&mut podman(["rmi", "--force", &image(&self.name)])));
    }
}

/// The image of a container with a user namespace of its own.
fn image(name: &str) -> String {
    format!("localhost/{name}:e2e")
}

/// podman, for the container with this name.
#[derive(Debug)]
struct Engined(String);

impl Engine for Engined {
    fn word(&self) -> &'static str {
        "podman"
    }

    fn exec(&self, id: &str) -> Command {
        podman(["exec", id])
    }

    fn remove(&self, _id: &str) -> Result<()> {
        remove(&self.0)
    }
}

/// Removes a container and its image.
///
/// # Errors
/// podman fails; it does while its own clean-up after a container's end is at work.
pub fn remove(name: &str) -> Result<()> {
    run(&mut podman(["rm", "--force", "--ignore", "--time=0", name]))?;
    // Those that were not made from an image have none.
    if run(&mut podman(["image", "exists", &image(name)])).is_ok() {
        run(&mut podman(["rmi", "--force", &image(name)]))?;
    }
    Ok(())
}
