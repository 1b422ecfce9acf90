//! A container that no runtime made: namespaces of an unprivileged user, registered in root's own state by hand. For
//! what runc refuses to make, as a user namespace without a uid 0.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::cgroup::cgroup2;
use crate::command::{command, until};
use crate::container::{children, waits};
use crate::rootfs::Rootfs;
use crate::sandbox::Sandbox;

/// The host's id that owns it.
pub const OWNER: u32 = 301_000;

/// Its one id, inside.
pub const INSIDE: u32 = 1000;

/// A registered container; ended when dropped.
#[derive(Debug)]
pub struct Registered {
    unshare: Child,
    init: u32,
    cgroup: PathBuf,
    root: Arc<Rootfs>,
    id: String,
}

impl Registered {
    /// What `upcalld.toml` has to say, so that containers registered here are looked for.
    pub const SETTINGS: &str = "runtimes.runc = [\"@/runc\"]";

    /// Starts and registers one.
    ///
    /// # Errors
    /// unshare fails; there is no cgroup2.
    pub fn start(sandbox: &Sandbox, name: &str) -> Result<Self> {
        let registered = Self::unregistered(sandbox, name)?;
        registered.register(sandbox)?;
        Ok(registered)
    }

    /// Starts one that looks like a container, in a cgroup of its own, and that nobody vouches for.
    ///
    /// # Errors
    /// unshare fails; there is no cgroup2.
    pub fn unregistered(sandbox: &Sandbox, name: &str) -> Result<Self> {
        let root = Rootfs::create(sandbox, sandbox.path("bundles").join(name))?;
        Self::in_root(sandbox, name, Arc::new(root))
    }

    /// Starts and registers another one in the same root: a thousand roots would fill the memory they are in.
    ///
    /// # Errors
    /// As [`Registered::start`].
    pub fn beside(&self, sandbox: &Sandbox, name: &str) -> Result<Self> {
        let registered = Self::in_root(sandbox, name, Arc::clone(&self.root))?;
        registered.register(sandbox)?;
        Ok(registered)
    }

    fn in_root(sandbox: &Sandbox, name: &str, root: Arc<Rootfs>) -> Result<Self> {
        let id = format!("{}-{name}", sandbox.tag());
        let mut unshare = command("unshare");
        unshare.args([
            "--user", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork",
        ]);
        unshare.args(["--kill-child", "--wd=/"]);
        unshare
            .arg(format!("--map-user={INSIDE}"))
            .arg(format!("--map-group={INSIDE}"));
        unshare.arg("--root").arg(root.path()).arg("/init");
        unshare.uid(OWNER).gid(OWNER).current_dir("/").env_clear();
        unshare.stdin(Stdio::null()).stdout(Stdio::null());
        let unshare = unshare.spawn()?;
        let init = until(Duration::from_secs(5), "unshare's child", || {
            children(unshare.id())
                .first()
                .copied()
                .filter(|pid| waits(*pid))
        });
        let cgroup = cgroup2().context("cgroup2 is not mounted")?.join(&id);
        let registered = Self {
            unshare,
            init: init?,
            cgroup,
            root,
            id,
        };
        std::fs::create_dir(&registered.cgroup)?;
        registered.move_here(&registered.cgroup)?;
        Ok(registered)
    }

    /// Puts its init into this cgroup.
    ///
    /// # Errors
    /// As write(2).
    pub fn move_here(&self, cgroup: &Path) -> Result<()> {
        Ok(std::fs::write(
            cgroup.join("cgroup.procs"),
            self.init.to_string(),
        )?)
    }

    /// Its state's directory, below which root vouches for it.
    pub fn state(&self, sandbox: &Sandbox) -> PathBuf {
        sandbox.path("runc").join(&self.id)
    }

    fn register(&self, sandbox: &Sandbox) -> Result<()> {
        let id = &self.id;
        let directory = self.state(sandbox);
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&directory)?;
        let state = json!({
            "id": id,
            "init_process_pid": self.init,
            "init_process_start": started(self.init)?,
            "cgroup_paths": { "": self.cgroup },
            "config": { "labels": [] },
        });
        Ok(std::fs::write(
            directory.join("state.json"),
            state.to_string(),
        )?)
    }

    /// What it is called.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The host's pid of its init.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Its root, as the host sees it.
    pub fn root(&self) -> &Rootfs {
        &self.root
    }
}

/// When a process started, in clock ticks since boot (proc_pid_stat(5), field 22).
///
/// # Errors
/// It is gone.
pub fn started(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").context("/proc/PID/stat")?.1;
    Ok(fields.split(' ').nth(19).context("a start time")?.parse()?)
}

impl Drop for Registered {
    fn drop(&mut self) {
        drop(self.unshare.kill());
        drop(self.unshare.wait());
        let cgroup = &self.cgroup;
        drop(std::fs::write(cgroup.join("cgroup.kill"), "1"));
        drop(until(Duration::from_secs(2), "its cgroup's end", || {
            std::fs::remove_dir(cgroup).ok()
        }));
    }
}
