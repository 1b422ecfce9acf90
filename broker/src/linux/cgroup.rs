//! Directories of cgroups, through mounts of our own.
//!
//! The mounts are attached nowhere: they exist on every host alike (cgroup2, v1, hybrid), see the whole hierarchy
//! wherever the host has mounted what, and no container ever sees them. A cgroup's path comes from a tenant in part,
//! so it is looked up beneath the mount and follows nothing.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollTimeout, poll};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use upcall_helpers::cgroupfs::open_beneath;

use super::parse::{self, CgroupLine};
use super::procdir::ProcDir;
use super::room::noted;
use super::sys;

/// How many cgroups are walked through for the processes of one, and how much of each one's list is read.
const WALK_MAX: usize = 256;
const PROCS_MAX: u64 = 1 << 20;

/// Our mounts, one per hierarchy.
#[derive(Debug)]
pub struct Cgroups {
    unified: OwnedFd,
    /// By the controllers as /proc/PID/cgroup names them.
    v1: BTreeMap<Vec<u8>, OwnedFd>,
    /// Where we are ourselves, by the same names.
    own: Vec<CgroupLine>,
}

/// Below the root of a hierarchy.
const LIMITED: &str = "upcalld";

/// Directories in which cgroups of helpers are made whose memory is limited.
#[derive(Debug)]
pub struct Limited {
    /// In cgroup2.
    pub unified: OwnedFd,
    /// In the v1 hierarchy that has the memory controller; else cgroup2 has it.
    pub memory_v1: Option<OwnedFd>,
}

/// What a process needs to join the v1 cgroups of another.
#[derive(Debug, Default)]
pub struct V1<'a> {
    /// Each hierarchy's root, and the cgroup's absolute path below it.
    pub cgroups: Vec<(BorrowedFd<'a>, Vec<u8>)>,
    /// `freezer.state` of the freezer.
    pub freezer: Option<OwnedFd>,
}

impl Cgroups {
    /// Mounts every hierarchy that there is.
    ///
    /// # Errors
    /// As fsopen(2) and the rest; a v1 hierarchy that cannot be mounted is an error too, since a helper could not be
    /// confined in it.
    pub fn mount() -> Result<Self, Errno> {
        let own = ProcDir::open(std::process::id())?.cgroups()?;
        let unified = sys::detached_mount(c"cgroup2", &[])?;
        let mut v1 = BTreeMap::new();
        for line in own.iter().filter(|line| !line.controllers.is_empty()) {
            v1.insert(line.controllers.clone(), mount_v1(&line.controllers)?);
        }
        Ok(Self { unified, v1, own })
    }

    /// The directory of a process's cgroup in cgroup2, to make children in.
    ///
    /// # Errors
    /// `ENOENT` where it is gone.
    pub fn unified(&self, place: &[CgroupLine]) -> Result<OwnedFd, Errno> {
        let path = place
            .iter()
            .find(|line| line.controllers.is_empty())
            .map(|line| &line.path);
        let path = path.map_or(b"/".as_slice(), Vec::as_slice);
        directory(self.unified.as_fd(), path)
    }

    /// A process's cgroups in those v1 hierarchies in which it is elsewhere than we are, and the freezer's
    /// `freezer.state`. Whether they are still there turns out when they are joined.
    ///
    /// # Errors
    /// `ENOENT` for a hierarchy that was not there when we mounted them, or where the freezer's cgroup is gone.
    pub fn v1(&self, place: &[CgroupLine]) -> Result<V1<'_>, Errno> {
        let mut v1 = V1::default();
        for line in place.iter().filter(|line| !line.controllers.is_empty()) {
            if self.own.contains(line) {
                continue;
            }
            let mount = self.v1.get(&line.controllers).ok_or(Errno::ENOENT)?.as_fd();
            v1.cgroups.push((mount, line.path.clone()));
            if line
                .controllers
                .split(|byte| *byte == b',')
                .any(|name| name == b"freezer")
            {
                match open_beneath(mount, &line.path, "freezer.state", OFlag::O_RDONLY) {
                    Ok(state) => v1.freezer = Some(state),
                    Err(Errno::ENOENT) => {} // the root is never frozen
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(v1)
    }

    /// Processes in a cgroup and below it, from the first hierarchy that has any in one by this path.
    ///
    /// # Errors
    /// `ENOENT` where there are none; `EFBIG` for very many.
    pub fn processes(&self, path: &[u8]) -> Result<Vec<u32>, Errno> {
        let mounts = [&self.unified].into_iter().chain(self.v1.values());
        for mount in mounts {
            let mut pids = Vec::new();
            let mut left = WALK_MAX;
            match walk(mount.as_fd(), path, &mut pids, &mut left) {
                Ok(()) if !pids.is_empty() => return Ok(pids),
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::ENOENT)
    }

    /// Paths of the cgroups called `name` in the root or below cgroups whose names all end with `parents`, from the first
    /// hierarchy that has any; of those it looks through a limited number.
    pub fn named(&self, name: &[u8], parents: &[u8]) -> Vec<Vec<u8>> {
        let mounts = [&self.unified].into_iter().chain(self.v1.values());
        let found = mounts.map(|mount| named(mount.as_fd(), name, parents));
        found
            .into_iter()
            .find(|paths| !paths.is_empty())
            .unwrap_or_default()
    }

    /// Ends everything in the child `name` of a process's cgroup2 cgroup, of our own, of one above them, or of `/upcalld`, and
    /// takes the child away: what is left of a helper whose keeper was killed. Waits a moment for those who end.
    pub fn end_child(&self, place: &[CgroupLine], name: &str) {
        for mount in std::iter::once(self.unified.as_fd()).chain(self.memory_v1()) {
            if let Ok(parent) = directory(mount, format!("/{LIMITED}").as_bytes()) {
                end(&parent, name);
            }
        }
        for lines in [place, &self.own] {
            if let Some(line) = lines.iter().find(|line| line.controllers.is_empty()) {
                self.end_at_or_above(&line.path, name);
            }
        }
    }

    fn end_at_or_above(&self, mut path: &[u8], name: &str) {
        loop {
            if let Ok(parent) = directory(self.unified.as_fd(), path) {
                end(&parent, name);
            }
            match path.iter().rposition(|byte| *byte == b'/') {
                Some(end) if path.len() > 1 => path = path.get(..end.max(1)).unwrap_or(b"/"),
                _ => return,
            }
        }
    }

    /// Where helpers are that a container does not pay for: our own cgroup.
    ///
    /// # Errors
    /// `ENOENT` where we were moved away and it is gone.
    pub fn for_broker(&self) -> Result<OwnedFd, Errno> {
        self.unified(&self.own)
    }

    /// Where helpers are whose memory is limited: `/upcalld`, made if need be. Not our own cgroup, since cgroup2 gives
    /// controllers only to children of a cgroup without processes (cgroups(7), "no internal processes").
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the memory controller is in neither kind of hierarchy; else as mkdir(2).
    pub fn for_limited(&self) -> Result<Limited, Errno> {
        let unified = made(self.unified.as_fd())?;
        let memory_v1 = self.memory_v1().map(made).transpose()?;
        if memory_v1.is_none() {
            let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            let control = openat(&unified, "cgroup.subtree_control", flags, Mode::empty())?;
            match nix::unistd::write(&control, b"+memory") {
                // Not given to the children of the root.
                Err(Errno::ENOENT | Errno::EINVAL) => return Err(Errno::EOPNOTSUPP),
                written => written?,
            };
        }
        Ok(Limited { unified, memory_v1 })
    }

    /// Takes `/upcalld` away again, if nobody is in it.
    pub fn remove_limited(&self) {
        for mount in std::iter::once(self.unified.as_fd()).chain(self.memory_v1()) {
            let _ = unlinkat(mount, LIMITED, UnlinkatFlags::RemoveDir);
        }
    }

    fn memory_v1(&self) -> Option<BorrowedFd<'_>> {
        let named = |controllers: &[u8]| {
            controllers
                .split(|byte| *byte == b',')
                .any(|name| name == b"memory")
        };
        let found = self.v1.iter().find(|(controllers, _)| named(controllers));
        found.map(|(_, mount)| mount.as_fd())
    }
}

/// Makes `/upcalld` in this hierarchy, if need be, and opens it.
fn made(mount: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    match mkdirat(mount, LIMITED, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => directory(mount, format!("/{LIMITED}").as_bytes()),
        Err(errno) => Err(errno),
    }
}

/// Reads cgroup.procs of a cgroup and of all below it, of at most `left` of them.
fn walk(
    mount: BorrowedFd<'_>,
    path: &[u8],
    pids: &mut Vec<u32>,
    left: &mut usize,
) -> Result<(), Errno> {
    *left = left.checked_sub(1).ok_or(Errno::EFBIG)?;
    let procs = open_beneath(mount, path, "cgroup.procs", OFlag::O_RDONLY).map_err(noted)?;
    let mut text = Vec::new();
    let read = std::fs::File::from(procs)
        .take(PROCS_MAX + 1)
        .read_to_end(&mut text);
    // A threaded cgroup has no list of processes; its threaded root has them.
    match read.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))) {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length > PROCS_MAX) => {
            return Err(Errno::EFBIG);
        }
        Ok(_) | Err(Errno::EOPNOTSUPP) => {}
        Err(errno) => return Err(errno),
    }
    pids.extend(text.split(|byte| *byte == b'\n').filter_map(parse::number));
    for name in children(mount, path)? {
        let below = [path, b"/", &name].concat();
        match walk(mount, &below, pids, left) {
            Err(Errno::ENOENT | Errno::ENODEV) => {} // it has just gone
            result => result?,
        }
    }
    Ok(())
}

/// See [`Cgroups::named`].
fn named(mount: BorrowedFd<'_>, name: &[u8], parents: &[u8]) -> Vec<Vec<u8>> {
    let (mut found, mut to_look_at) = (Vec::new(), vec![Vec::new()]);
    for _ in 0..WALK_MAX {
        let Some(path) = to_look_at.pop() else { break };
        for below in children(mount, &path).unwrap_or_default() {
            let path = [path.as_slice(), b"/", &below].concat();
            if below == name {
                found.push(path);
            } else if below.ends_with(parents) {
                to_look_at.push(path);
            }
        }
    }
    found
}

/// Names of the cgroups directly below one.
fn children(mount: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let directory = open_beneath(mount, path, "", flags).map_err(noted)?;
    let place = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let entries = std::fs::read_dir(place).map_err(noted);
    let entries = entries.into_iter().flatten().flatten();
    let cgroups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(cgroups.map(|entry| entry.file_name().into_vec()).collect())
}

/// Ends everything in a child of this cgroup, if there is one, and removes it.
fn end(parent: &OwnedFd, name: &str) {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let kill = format!("{name}/cgroup.kill"); // not in v1, where it has been emptied before
    let kill = openat(parent, kill.as_str(), flags, Mode::empty());
    for pause in [0_u8, 1, 5, 20, 100] {
        if let Ok(kill) = &kill {
            let _ = nix::unistd::write(kill, b"1");
        }
        let _ = poll(&mut [], PollTimeout::from(pause));
        if unlinkat(parent, name, UnlinkatFlags::RemoveDir) != Err(Errno::EBUSY) {
            return;
        }
    }
}

fn mount_v1(controllers: &[u8]) -> Result<OwnedFd, Errno> {
    let words: Result<Vec<CString>, _> = controllers
        .split(|byte| *byte == b',')
        .map(CString::new)
        .collect();
    let words = words.map_err(|_| Errno::EINVAL)?;
    // A named hierarchy is `name=systemd`; controllers are flags.
    let names: Vec<Option<CString>> = words
        .iter()
        .map(|word| {
            word.to_bytes()
                .strip_prefix(b"name=")
                .and_then(|name| CString::new(name).ok())
        })
        .collect();
    let options: Vec<_> = words
        .iter()
        .zip(&names)
        .map(|(word, name)| match name {
            Some(name) => (c"name", Some(name.as_c_str())),
            None => (word.as_c_str(), None),
        })
        .collect();
    // A hierarchy that is known by its name alone has no controllers, and says so.
    let named_only = names.iter().all(Option::is_some);
    let mut options = options;
    if named_only {
        options.push((c"none", None));
    }
    sys::detached_mount(c"cgroup", &options)
}

/// A directory beneath a mount.
fn directory(mount: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_beneath(mount, path, "", OFlag::O_PATH | OFlag::O_DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cgroup_is_found_in_every_hierarchy() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root to mount cgroup file systems");
            return;
        }
        let cgroups = Cgroups::mount().unwrap();
        assert_eq!(cgroups.v1.len(), cgroups.own.len() - 1);
        assert!(cgroups.unified(&cgroups.own).is_ok());
        assert!(
            cgroups.v1(&cgroups.own).unwrap().cgroups.is_empty(),
            "nothing to join where we are already"
        );
        let gone = [CgroupLine {
            controllers: vec![],
            path: b"/no/such".to_vec(),
        }];
        assert_eq!(cgroups.unified(&gone).err(), Some(Errno::ENOENT));
        let outside = [CgroupLine {
            controllers: vec![],
            path: b"/../../etc".to_vec(),
        }];
        assert_eq!(cgroups.unified(&outside).err(), Some(Errno::EXDEV));
    }
}
