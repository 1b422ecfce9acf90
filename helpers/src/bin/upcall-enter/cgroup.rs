//! The helper's own cgroup: made in the container's leaf, so that ending it ends everything the helper started.
//!
//! Directories come from the daemon as descriptors of mounts of its own, which are attached nowhere; no namespace or
//! mount of the container's is seen (cgroups(7)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollTimeout, poll};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use upcall_helpers::cgroupfs::open_beneath;
use upcall_helpers::wire::{Stage, cgroup_name};

use crate::failure::{At, Failure, require};
use crate::sys;

/// A helper's cgroup; [`HelperCgroup::remove`] takes it away.
#[derive(Debug)]
pub(crate) struct HelperCgroup {
    name: String,
    unified: Child,
    memory_v1: Option<Child>,
}

/// A cgroup and where it is.
#[derive(Debug)]
struct Child {
    parent: OwnedFd,
    directory: OwnedFd,
}

impl Child {
    fn create(parent: OwnedFd, name: &str) -> Result<Self, Failure> {
        mkdirat(&parent, name, Mode::from_bits_truncate(0o755)).at(Stage::Cgroup)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        match openat(&parent, name, flags, Mode::empty()).at(Stage::Cgroup) {
            Ok(directory) => Ok(Self { parent, directory }),
            Err(failure) => {
                let _ = unlinkat(&parent, name, UnlinkatFlags::RemoveDir);
                Err(failure)
            }
        }
    }
}

impl HelperCgroup {
    /// Makes the cgroup of a launch below `parent`, a directory of cgroup2.
    pub(crate) fn create(parent: OwnedFd, id: &[u8], slot: u8) -> Result<Self, Failure> {
        require(!is_frozen(parent.as_fd()), Stage::Freezer, Errno::EBUSY)?;
        let name = cgroup_name(id, slot);
        Ok(Self {
            unified: Child::create(parent, &name)?,
            name,
            memory_v1: None,
        })
    }

    /// Limits its memory, to `bytes`: where a v1 hierarchy has the memory controller, in a second cgroup below `v1`.
    pub(crate) fn limit_memory(&mut self, v1: Option<OwnedFd>, bytes: u64) -> Result<(), Failure> {
        let bytes = bytes.to_string();
        if let Some(parent) = v1 {
            let child = self.memory_v1.insert(Child::create(parent, &self.name)?);
            write(child.directory.as_fd(), "memory.limit_in_bytes", &bytes)
        } else {
            write(self.fd(), "memory.max", &bytes)
        }
        .at(Stage::Cgroup)
    }

    /// Bounds the devices that may be used in it.
    pub(crate) fn bound_devices(&self, program: &OwnedFd) -> Result<(), Failure> {
        sys::bound_devices(self.fd(), program.as_fd()).at(Stage::Cgroup)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.unified.directory.as_fd()
    }

    /// Puts a process where its memory is limited, if that is not here.
    pub(crate) fn join_memory_v1(&self, pid: u32) -> Result<(), Failure> {
        self.memory_v1.as_ref().map_or(Ok(()), |child| {
            write(child.directory.as_fd(), "cgroup.procs", &pid.to_string()).at(Stage::Cgroup)
        })
    }

    /// Ends every process in it.
    pub(crate) fn kill(&self) {
        kill(self.fd());
    }

    /// Ends every process in it and takes it away. Processes that were killed need a moment to leave; one that never
    /// does, because it sleeps uninterruptibly, leaves its cgroup behind.
    pub(crate) fn remove(self) {
        let mut children: Vec<&Child> = std::iter::once(&self.unified)
            .chain(&self.memory_v1)
            .collect();
        for pause in [0_u8, 1, 4, 20, 75, 200] {
            let _ = poll(&mut [], PollTimeout::from(pause));
            children.retain(|child| {
                let name = self.name.as_str();
                unlinkat(&child.parent, name, UnlinkatFlags::RemoveDir) == Err(Errno::EBUSY)
            });
            if children.is_empty() {
                return;
            }
            self.kill();
        }
    }
}

/// Ends what runs in a helper's cgroup, on behalf of a keeper that cannot.
pub(crate) fn kill(directory: BorrowedFd<'_>) {
    let _ = write(directory, "cgroup.kill", "1");
}

/// Refuses a v1 cgroup that is frozen, given its `freezer.state`: what runs in it cannot even be killed.
#[expect(clippy::needless_pass_by_value, reason = "it is closed here")]
pub(crate) fn refuse_frozen_v1(state: OwnedFd) -> Result<(), Failure> {
    let mut text = [0; 16];
    let length = nix::unistd::read(&state, &mut text).at(Stage::Freezer)?;
    let thawed = text
        .get(..length)
        .is_some_and(|text| text.starts_with(b"THAWED"));
    require(thawed, Stage::Freezer, Errno::EBUSY)
}

/// Puts a process into a cgroup of one v1 hierarchy, given the hierarchy's root.
pub(crate) fn join_v1(mount: &OwnedFd, path: &[u8], pid: u32) -> Result<(), Failure> {
    let procs = open_beneath(mount.as_fd(), path, "cgroup.procs", OFlag::O_WRONLY);
    let procs = procs.at(Stage::Cgroup)?;
    nix::unistd::write(procs, pid.to_string().as_bytes())
        .map(drop)
        .at(Stage::Cgroup)
}

/// Whether the cgroup is frozen (cgroup2, `cgroup.events`); the root has no such file and never is.
fn is_frozen(directory: BorrowedFd<'_>) -> bool {
    read(directory, "cgroup.events").is_ok_and(|text| {
        text.split(|byte| *byte == b'\n')
            .any(|line| line == b"frozen 1")
    })
}

fn read(directory: BorrowedFd<'_>, file: &str) -> Result<Vec<u8>, Errno> {
    let fd = openat(
        directory,
        file,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let mut bytes = vec![0; 256];
    let length = nix::unistd::read(&fd, &mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

fn write(directory: BorrowedFd<'_>, file: &str, text: &str) -> Result<(), Errno> {
    let fd = openat(
        directory,
        file,
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    nix::unistd::write(&fd, text.as_bytes()).map(drop)
}
