//! A small root file system for containers: busybox, our own programs, and room to write.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{command, run};
use crate::sandbox::Sandbox;
use crate::skip;

/// A root file system, as a directory.
#[derive(Debug, Clone)]
pub struct Rootfs(PathBuf);

impl Rootfs {
    /// Makes one: applets in /bin, `init` and `crash-me` and `probe` in /, and /tmp, /cores for everybody.
    ///
    /// # Errors
    /// As mkdir(2) and the rest; busybox is not there.
    pub fn create(sandbox: &Sandbox, path: PathBuf) -> Result<Self> {
        for directory in [
            "", "bin", "dev", "etc", "proc", "root", "sys", "tmp", "cores",
        ] {
            DirBuilder::new().mode(0o755).create(path.join(directory))?;
        }
        for open in ["tmp", "cores"] {
            std::fs::set_permissions(path.join(open), Permissions::from_mode(0o1777))?;
        }
        let busybox = skip::find("busybox").context("busybox is not installed (busybox-static)")?;
        std::fs::copy(busybox, path.join("bin/busybox"))?;
        for applet in run(command("busybox").arg("--list"))?.lines() {
            if applet != "busybox" {
                symlink("busybox", path.join("bin").join(applet))?;
            }
        }
        sandbox.program("crash-me", &path.join("crash-me"))?;
        std::fs::hard_link(path.join("crash-me"), path.join("init"))?;
        for name in ["hostile", "receiver"] {
            std::fs::hard_link(path.join("crash-me"), path.join(name))?;
        }
        sandbox.program("key-me", &path.join("key-me"))?;
        sandbox.program("module-me", &path.join("module-me"))?;
        sandbox.program("upcall-probe", &path.join("probe"))?;
        std::fs::write(path.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        std::fs::write(path.join("etc/group"), "root:x:0:\n")?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Something in it, by its path inside.
    pub fn inside(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// Writes a file into it.
    ///
    /// # Errors
    /// As open(2), write(2), chmod(2).
    pub fn file(&self, path: &str, text: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = self.inside(path);
        std::fs::write(&path, text)?;
        Ok(std::fs::set_permissions(
            path,
            Permissions::from_mode(mode),
        )?)
    }

    /// Gives everything in it to these ids.
    ///
    /// # Errors
    /// As chown(2).
    pub fn give_to(&self, uid: u32, gid: u32) -> Result<()> {
        fn walk(path: &Path, ids: (Option<u32>, Option<u32>)) -> std::io::Result<()> {
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    walk(&entry.path(), ids)?;
                }
                std::os::unix::fs::lchown(entry.path(), ids.0, ids.1)?;
            }
            chown(path, ids.0, ids.1)
        }
        Ok(walk(&self.0, (Some(uid), Some(gid)))?)
    }
}
