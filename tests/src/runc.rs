//! Real containers by runc, and by crun.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::bundle::Bundle;
use crate::command::{command, run, run_logged};
use crate::container::{Container, Engine};
use crate::rootfs::Rootfs;
use crate::sandbox::Sandbox;

/// A container of runc's that is not started yet.
pub struct Runc {
    name: String,
    id: Option<String>,
    bundle: Bundle,
    change: Vec<Change>,
    program: Program,
}

/// Which program it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    Runc,
    Crun,
    /// runc of a user's, with his state in this directory.
    Rootless(u32, PathBuf),
}

/// crun takes cgroup v1 or v2, and refuses a host that has both; there it is shown the old ones alone.
const WITHOUT_CGROUP2: &str =
    "mount --make-rprivate /sys/fs/cgroup && umount /sys/fs/cgroup/unified && exec \"$@\"";

impl Program {
    fn command(&self) -> Command {
        let name = self.word();
        if let Self::Rootless(uid, root) = self {
            let mut user = command("setpriv");
            user.arg(format!("--reuid={uid}"));
            user.arg(format!("--regid={uid}"));
            user.args(["--clear-groups", "--", name, "--root"])
                .arg(root);
            return user;
        }
        if *self == Self::Runc || !Path::new("/sys/fs/cgroup/unified").exists() {
            return command(name);
        }
        let mut wrapped = command("unshare");
        wrapped.args([
            "--mount",
            "--propagation=slave",
            "sh",
            "-c",
            WITHOUT_CGROUP2,
        ]);
        wrapped.args(["sh", name]);
        wrapped
    }
}

impl Engine for Program {
    fn word(&self) -> &'static str {
        match self {
            Self::Runc | Self::Rootless(..) => "runc",
            Self::Crun => "crun",
        }
    }

    fn exec(&self, id: &str) -> Command {
        let mut exec = self.command();
        exec.args(["exec", id]);
        exec
    }

    fn remove(&self, id: &str) -> Result<()> {
        run(self.command().args(["delete", "--force", id])).map(drop)
    }

    fn knows_ids_only(&self) -> bool {
        true
    }
}

/// Something done to the root before the start.
type Change = Box<dyn FnOnce(&Rootfs) -> Result<()>>;

impl std::fmt::Debug for Runc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runc")
            .field("bundle", &self.bundle)
            .finish_non_exhaustive()
    }
}

impl Runc {
    /// One by this name, sharing the host's user namespace and no other.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: None,
            bundle: Bundle::default(),
            change: vec![],
            program: Program::Runc,
        }
    }

    /// By crun instead.
    #[must_use]
    pub fn crun(mut self) -> Self {
        self.program = Program::Crun;
        self
    }

    /// With this id, and not one that no other sandbox has.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// With a user namespace of its own; the host's 300000 is its root.
    #[must_use]
    pub fn user_namespace(self) -> Self {
        self.with(|bundle| bundle.user_namespace = Some(300_000))
    }

    /// Otherwise as wanted.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Bundle)) -> Self {
        change(&mut self.bundle);
        self
    }

    /// By runc of a user who is not root: one id is mapped, and the cgroup is the one he has.
    #[must_use]
    pub fn rootless(mut self, sandbox: &Sandbox, uid: u32) -> Self {
        let own = sandbox.path(format!("users/{uid}"));
        self.program = Program::Rootless(uid, own.join("runc"));
        self.with(|bundle| {
            bundle.user_namespace = Some(uid);
            bundle.mapped = 1;
        })
    }

    /// With this annotation.
    #[must_use]
    pub fn annotation(self, key: &str, value: &str) -> Self {
        let annotation = (key.to_owned(), value.to_owned());
        self.with(|bundle| bundle.annotations.push(annotation))
    }

    /// With its root changed before it starts.
    #[must_use]
    pub fn root(mut self, change: impl FnOnce(&Rootfs) -> Result<()> + 'static) -> Self {
        self.change.push(Box::new(change));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// runc fails; the error has what it said.
    pub fn start(self, sandbox: &Sandbox) -> Result<Container> {
        let id = self
            .id
            .unwrap_or_else(|| format!("{}-{}", sandbox.tag(), self.name));
        let bundle = sandbox.path("bundles").join(&self.name);
        std::fs::create_dir(&bundle).with_context(|| format!("a second {}", self.name))?;
        let root = Rootfs::create(sandbox, bundle.join("root"))?;
        for change in self.change {
            change(&root)?;
        }
        let ours = self.bundle.args.first().is_some_and(|word| word == "/init");
        let config = self.bundle.config(&id, root.path());
        std::fs::write(
            bundle.join("config.json"),
            serde_json::to_vec_pretty(&config)?,
        )?;
        let pid_file = match &self.program {
            Program::Rootless(uid, root) => {
                let own = root.parent().context("a user's directory")?;
                std::fs::create_dir_all(own)?;
                std::os::unix::fs::chown(own, Some(*uid), Some(*uid))?;
                own.join("pid")
            }
            Program::Runc | Program::Crun => bundle.join("pid"),
        };
        let mut runc = self.program.command();
        runc.args(["run", "--detach", "--pid-file"]).arg(&pid_file);
        runc.arg("--bundle").arg(&bundle).arg(&id);
        let started = run_logged(&mut runc, &bundle.join("log"));
        let container = Container::new(self.program, self.name, id, root);
        started?;
        container.with_init(pid(&pid_file)?, ours)
    }
}

/// The number in a pid file.
pub(crate) fn pid(path: &PathBuf) -> Result<u32> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    Ok(text.trim().parse()?)
}
