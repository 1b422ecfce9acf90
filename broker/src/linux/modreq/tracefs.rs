//! tracefs, and what can go wrong with it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::linux::sys;

/// The longest file of tracefs that is read.
const FILE_MAX: usize = 16 * 1024;

/// tracefs, mounted where nobody sees it.
#[derive(Debug)]
pub struct Tracefs {
    pub(super) path: PathBuf,
    /// What the path leads through.
    _mount: OwnedFd,
}

/// Why it cannot be known this way.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {}", .errno.desc())]
pub struct TraceError {
    /// At which step.
    pub step: String,
    /// With which error: `EPERM` under the kernel's lockdown, `ENOENT` without kprobes.
    pub errno: Errno,
}

impl Tracefs {
    /// Mounts it; needs `CAP_SYS_ADMIN`, and using it does not.
    ///
    /// # Errors
    /// As fsopen(2): `ENODEV` on a kernel without it.
    pub fn mount() -> Result<Self, TraceError> {
        use std::os::fd::AsRawFd;
        let mount = sys::detached_mount(c"tracefs", &[]).map_err(|errno| TraceError {
            step: "tracefs".to_owned(),
            errno,
        })?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Ok(Self {
            path,
            _mount: mount,
        })
    }

    pub(super) fn read(&self, name: &str) -> Result<String, TraceError> {
        let mut bytes = vec![0; FILE_MAX];
        // In one go: some files have nothing more for a second read (`show_header`, kernel/trace/trace_events.c).
        let file = File::open(self.path.join(name));
        let length = file
            .and_then(|mut file| file.read(&mut bytes))
            .map_err(at(name))?;
        bytes.truncate(length);
        String::from_utf8(bytes).map_err(|_| invalid(name))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), TraceError> {
        // Without O_TRUNC, which would remove everybody's kprobes.
        let file = File::options().append(true).open(self.path.join(name));
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(at(name))
    }

    /// Removes what is there under a name; what is not, is not missed.
    pub(super) fn clear(&self, name: &str) {
        let instance = format!("instances/{name}");
        drop(self.write(&format!("{instance}/events/{name}/enable"), "0\n"));
        drop(std::fs::remove_dir(self.path.join(instance)));
        for event in ["asked", "begun"] {
            drop(self.write("kprobe_events", &format!("-:{name}/{event}\n")));
        }
    }
}

pub(super) fn at(step: &str) -> impl Fn(std::io::Error) -> TraceError {
    move |error| TraceError {
        step: step.to_owned(),
        errno: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
    }
}

pub(super) fn invalid(file: &str) -> TraceError {
    TraceError {
        step: file.to_owned(),
        errno: Errno::EINVAL,
    }
}
