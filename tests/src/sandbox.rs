//! A private place for one daemon and its containers: a small file system of its own below /run, with short paths.
//!
//! core_pattern holds 127 characters, /run is often mounted without the right to execute, and a daemon wants
//! directories that only root can write. What a killed run left behind is removed by the next one.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use upcalld::hooks::file::CoreHook;
use upcalld::hooks::pattern::Pattern;

use crate::command::{command, run};
use crate::container::pid_of;
use crate::programs::Programs;

/// Where they are.
const BELOW: &str = "/run";

/// What their names start with.
const PREFIX: &str = "ue-";

/// What tests say is mounted where they mount something (mount(2), `source`).
pub const MOUNTED_BY: &str = "upcall-e2e";

/// A private place; removed when dropped.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    /// The programs it was made from.
    pub programs: Programs,
    _lock: File,
}

impl Sandbox {
    /// Makes one, with every static program in its libexec directory.
    ///
    /// # Errors
    /// As mkdir(2), mount(2), and as [`Programs::get`].
    pub fn new() -> Result<Self> {
        let programs = Programs::get()?;
        sweep();
        let tag = format!(
            "{PREFIX}{}",
            upcalld::store::id::new()?.get(..5).unwrap_or("x")
        );
        Self::at(Path::new(BELOW).join(tag), programs)
    }

    /// Makes one at this path, in place of what a killed run left there.
    ///
    /// # Errors
    /// As [`Sandbox::new`]; it is in use.
    pub fn at(root: PathBuf, programs: Programs) -> Result<Self> {
        // What containers' runtimes leave behind is left to us and not to an init that may take its time.
        nix::sys::prctl::set_child_subreaper(true)?;
        // The lock is outside of the mount, so that whoever sweeps can try it.
        let lock = File::create(lock_of(&root))?;
        // Seen once to fail for a name that nobody had; a place that is in use stays so.
        let locked = crate::command::until(Duration::from_secs(1), "a lock", || {
            lock.try_lock().is_ok().then_some(())
        });
        ensure!(locked.is_ok(), "{} is in use", root.display());
        if root.exists() {
            let _ = umount2(&root, MntFlags::MNT_DETACH);
            std::fs::remove_dir(&root).with_context(|| format!("{}", root.display()))?;
        }
        DirBuilder::new()
            .mode(0o755)
            .create(&root)
            .with_context(|| format!("{}", root.display()))?;
        mount(
            Some(MOUNTED_BY),
            &root,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .with_context(|| format!("mount {}", root.display()))?;
        let sandbox = Self {
            root,
            programs,
            _lock: lock,
        };
        sandbox.furnish()?;
        Ok(sandbox)
    }

    fn furnish(&self) -> Result<()> {
        let directories = [
            "bin",
            "bundles",
            "config",
            "config/hooks",
            "config/rules.d",
            "libexec",
            "run",
            "state",
        ];
        for directory in directories {
            DirBuilder::new().mode(0o755).create(self.path(directory))?;
        }
        for program in [
            "upcall-shim",
            "upcall-enter",
            "upcall-store",
            "upcall-place",
        ] {
            self.program(program, &self.libexec().join(program))?;
        }
        for hook in [
            "core",
            "request-key",
            "modprobe",
            "release_agent",
            "bridge-stp",
        ] {
            symlink("upcall-shim", self.libexec().join(hook))?;
        }
        for program in ["upcall-probe", "crash-me", "key-me", "module-me"] {
            self.program(program, &self.path("bin").join(program))?;
        }
        self.settings("")?;
        self.hook(|_| {})
    }

    /// Puts a copy of a static program somewhere.
    ///
    /// # Errors
    /// As open(2), write(2).
    pub fn program(&self, name: &str, to: &Path) -> Result<()> {
        let from = self.programs.directory.join(name);
        std::fs::copy(&from, to).with_context(|| format!("{}", from.display()))?;
        std::fs::set_permissions(to, PermissionsExt::from_mode(0o755))?;
        Ok(())
    }

    /// Its name, which is short, and part of every container's.
    pub fn tag(&self) -> &str {
        self.root
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    /// Where it is.
    pub fn root(&self) -> &str {
        self.root.to_str().unwrap_or_default()
    }

    /// Something in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The programs beside the daemon.
    pub fn libexec(&self) -> PathBuf {
        self.path("libexec")
    }

    /// Rules, settings, hooks.
    pub fn config(&self) -> PathBuf {
        self.path("config")
    }

    /// The hooks' files.
    pub fn hooks(&self) -> PathBuf {
        self.path("config/hooks")
    }

    /// Records and cores.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Sockets.
    pub fn sockets(&self) -> PathBuf {
        self.path("run")
    }

    /// Cores that the shim kept.
    pub fn spool(&self) -> PathBuf {
        self.path("spool")
    }

    /// upcallctl, told where everything is.
    pub fn ctl(&self) -> Command {
        let mut ctl = command(self.programs.daemon.with_file_name("upcallctl"));
        ctl.arg("--config").arg(self.config());
        ctl.arg("--state").arg(self.state());
        ctl.arg("--run").arg(self.sockets());
        ctl.arg("--libexec").arg(self.libexec());
        ctl
    }

    /// Writes the rules, in one file; `@` stands for the sandbox's own directory.
    ///
    /// # Errors
    /// As open(2), write(2).
    pub fn rules(&self, text: &str) -> Result<()> {
        let text = text.replace('@', self.root());
        Ok(std::fs::write(
            self.path("config/rules.d/50-test.toml"),
            text,
        )?)
    }

    /// Writes the settings, `@` as in rules; the floor of free space is not the machine's business here.
    ///
    /// # Errors
    /// As open(2), write(2).
    pub fn settings(&self, text: &str) -> Result<()> {
        let text = text.replace('@', self.root());
        let text = format!("store.keep_free = 0\n{text}\n");
        Ok(std::fs::write(self.path("config/upcalld.toml"), text)?)
    }

    /// Writes the hook's file, changed as wanted.
    ///
    /// # Errors
    /// As open(2), write(2).
    pub fn hook(&self, change: impl FnOnce(&mut CoreHook)) -> Result<()> {
        let mut hook = CoreHook {
            socket: self.sockets().join("upcall.sock"),
            deadline_ms: 2000,
            spool: self.spool(),
            spool_max: 1 << 30,
            keep_free: 0,
            previous: Pattern::parse("core"),
            previous_pipe_limit: 0,
        };
        change(&mut hook);
        Ok(hook.write(&self.hooks())?)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        crate::cgroup::sweep(self.tag());
        remove(&self.root);
    }
}

fn lock_of(root: &Path) -> PathBuf {
    root.with_extension("lock")
}

fn remove(root: &Path) {
    let _ = umount2(root, MntFlags::MNT_DETACH);
    drop(std::fs::remove_dir(root));
    drop(std::fs::remove_file(lock_of(root)));
}

/// Removes what killed runs left: places whose lock nobody holds, and their containers.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(BELOW) else {
        return;
    };
    for root in entries.flatten().map(|entry| entry.path()) {
        let name = root
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if !name.starts_with(PREFIX) || !root.is_dir() {
            continue;
        }
        let Ok(lock) = File::options().write(true).open(lock_of(&root)) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            sweep_containers(name);
            sweep_daemons(&root);
            crate::cgroup::sweep(name);
            remove(&root);
        }
    }
}

/// Ends what runtimes' daemons left running: whoever has this place in its command line.
fn sweep_daemons(root: &Path) {
    let place = [root.as_os_str().as_encoded_bytes(), b"/"].concat();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid
            && words.windows(place.len()).any(|window| window == place)
        {
            let _ = kill(pid_of(pid), Signal::SIGKILL);
        }
    }
}

fn sweep_containers(tag: &str) {
    let Ok(entries) = std::fs::read_dir("/run/runc") else {
        return;
    };
    for id in entries.flatten().map(|entry| entry.file_name()) {
        if id.to_string_lossy().starts_with(tag) {
            drop(run(command("runc").args(["delete", "--force"]).arg(id)));
        }
    }
}
