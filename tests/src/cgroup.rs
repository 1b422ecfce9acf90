//! Cgroups of every hierarchy that this host has, and children made in them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};

use crate::command::until;
use crate::container::pid_of;
use crate::leader::Leader;

/// Where cgroup2 is mounted.
pub fn cgroup2() -> Option<PathBuf> {
    mounted("")
}

/// Where every hierarchy is mounted.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let words = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let cgroups = words.filter(|words| matches!(words.get(2), Some(&("cgroup" | "cgroup2"))));
    let places = cgroups.filter_map(|words| words.get(1).map(PathBuf::from));
    places.collect()
}

/// Where the hierarchy with these controllers is mounted, named as /proc/PID/cgroup does; cgroup2's is "".
pub fn mounted(controllers: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let line = mounts.lines().find(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let (kind, options) = (
            words.get(2).copied(),
            words.get(3).copied().unwrap_or_default(),
        );
        if controllers.is_empty() {
            return kind == Some("cgroup2");
        }
        let has = |wanted| options.split(',').any(|option| option == wanted);
        kind == Some("cgroup") && controllers.split(',').all(has)
    })?;
    line.split(' ').nth(1).map(PathBuf::from)
}

/// The directory of a process in cgroup2.
///
/// # Errors
/// There is no cgroup2.
pub fn of(process: &Leader) -> Result<PathBuf> {
    let path = process.cgroup_path("").context("no line of cgroup2")?;
    Ok(cgroup2()
        .context("cgroup2 is not mounted")?
        .join(path.trim_start_matches('/')))
}

/// A cgroup made by a test; what is in it is ended, and it is removed, when dropped.
#[derive(Debug)]
pub struct Child(PathBuf);

impl Child {
    /// Below this directory.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn of(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        std::fs::create_dir(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self(path))
    }

    /// Below a container's cgroup in every hierarchy that takes a process at once, and puts that process there.
    ///
    /// # Errors
    /// As mkdir(2), write(2).
    pub fn everywhere(container: &Leader, name: &str, process: u32) -> Result<Vec<Self>> {
        let mut children = Vec::new();
        for line in &container.cgroup {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next().unwrap_or("?"), parts.next().unwrap_or("/"));
            // A cpuset takes nobody before it was given processors.
            let Some(mount) =
                mounted(controllers).filter(|_| controllers != "cpuset" && path != "/")
            else {
                continue;
            };
            let child = Self::of(&mount.join(path.trim_start_matches('/')), name)?;
            child.take(process)?;
            children.push(child);
        }
        Ok(children)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// As write(2).
    pub fn take(&self, pid: u32) -> Result<()> {
        Ok(std::fs::write(
            self.0.join("cgroup.procs"),
            pid.to_string(),
        )?)
    }

    /// Writes one of its files.
    ///
    /// # Errors
    /// As write(2).
    pub fn set(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        std::fs::write(&path, text).with_context(|| format!("{text} to {}", path.display()))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(until(Duration::from_secs(2), "a cgroup's end", || {
            let inside = std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
            for pid in inside.lines().filter_map(|pid| pid.parse().ok()) {
                let _ = kill(pid_of(pid), Signal::SIGKILL);
                let _ = waitpid(pid_of(pid), Some(WaitPidFlag::WNOHANG));
            }
            let removed = std::fs::remove_dir(&self.0).is_ok() || !self.0.exists();
            removed.then_some(())
        }));
    }
}

/// Removes the cgroups of this name, or that begin so, and all below them, from every hierarchy; ends who is in them.
pub fn sweep(tag: &str) {
    fn remove(directory: &Path) {
        drop(std::fs::write(directory.join("cgroup.kill"), "1"));
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let patience = Duration::from_millis(500);
        drop(until(
            patience,
            "a cgroup's end",
            || match std::fs::remove_dir(directory) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => None,
                _ => Some(()),
            },
        ));
    }
    let below = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let top = Path::new("/sys/fs/cgroup");
    let tops = below(top).map(|entry| entry.path()).chain([top.to_owned()]);
    for entry in tops.flat_map(|top| below(&top).collect::<Vec<_>>()) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let name = name
            .trim_start_matches("lxc.payload.")
            .trim_start_matches("lxc.monitor.");
        if name.starts_with(tag) && entry.path().join("cgroup.procs").exists() {
            remove(&entry.path());
        }
    }
}
