//! A program of the host in some of a container's namespaces: it sees the host's files but for a few of the container's,
//! and it is nobody: an id of its own, no capabilities.
//!
//! The container's files are read by a child of the keeper's that has the container's ids and may be left behind: a
//! file system of the tenant's need not answer.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::stat::{Mode, fstatat};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use upcall_helpers::sys::{self, CLONE_CLEAR_SIGHAND, Fork};
use upcall_helpers::wire::{Enter, FdRole, NAMESPACES, NamespaceId, Stage, WaitStatus};

use crate::descriptors::Fds;
use crate::failure::{At, Failure, require};
use crate::join::{clone_flags, take_ids};
use crate::launcher::wait_status;
use crate::sys as calls;

/// The longest file that is shown, in bytes.
const FILE_MAX: u64 = 64 * 1024;

/// Where the host's processes are shown.
const PROC: &CStr = c"/proc";

/// How long the container's files may take to read, in milliseconds.
const PATIENCE: u16 = 1000;

/// Reads the container's files, each whole; one that is not there is empty. `leader` is the init's pidfd: what was opened
/// by its number was its own if it still has that afterwards.
pub(crate) fn read_files(
    proc: &OwnedFd,
    enter: &Enter,
    leader: Option<&OwnedFd>,
) -> Result<Vec<Vec<u8>>, Failure> {
    let copies: Result<Vec<File>, Errno> = enter
        .files
        .iter()
        .map(|_| memfd_create(c"upcall-file", MFdFlags::MFD_CLOEXEC).map(File::from))
        .collect();
    let mut copies = copies.at(Stage::Files)?;
    if copies.is_empty() {
        return Ok(Vec::new());
    }
    let pidfd = match sys::fork(CLONE_CLEAR_SIGHAND, None).at(Stage::Files)? {
        Fork::Child => {
            let done = copy(proc, enter, &mut copies);
            sys::exit(done.err().map_or(0, |errno| errno as i32));
        }
        Fork::Parent { pidfd, .. } => pidfd,
    };
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(PATIENCE)) != Ok(1) {
        let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        return Err(Errno::ETIMEDOUT).at(Stage::Files);
    }
    let status = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).at(Stage::Files)?;
    match wait_status(status) {
        WaitStatus::Exited(0) => {}
        WaitStatus::Exited(errno) => {
            return Err(Errno::from_raw(errno.into())).at(Stage::Files);
        }
        WaitStatus::Signaled(_) => return Err(Errno::EIO).at(Stage::Files),
    }
    let leader = leader.ok_or(Errno::EBADF).at(Stage::Plan)?;
    sys::pidfd_send_signal(leader.as_fd(), 0).at(Stage::Files)?;
    let mut files = Vec::with_capacity(copies.len());
    for mut copy in copies {
        copy.rewind().at(Stage::Files)?;
        let mut bytes = Vec::new();
        copy.take(FILE_MAX)
            .read_to_end(&mut bytes)
            .at(Stage::Files)?;
        files.push(bytes);
    }
    Ok(files)
}

/// Reads them as the container's init would, below its root.
fn copy(proc: &OwnedFd, enter: &Enter, copies: &mut [File]) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = openat(
        proc,
        format!("{}/root", enter.leader).as_str(),
        flags,
        Mode::empty(),
    )?;
    let [uid, gid] = enter.reader;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    sys::set_capabilities(0)?;
    set_dumpable(false)?;
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    for (path, copy) in enter.files.iter().zip(copies) {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(resolve);
        let place = match openat2(&root, path.as_slice(), how) {
            Err(Errno::ENOENT) => continue,
            place => place?,
        };
        // Before it is opened: to open a device can be to use it, and no cgroup of the container's keeps us from that.
        if !sys::file_kind(place.as_fd())?.regular {
            return Err(Errno::EACCES);
        }
        let again = format!("self/fd/{}", place.as_raw_fd());
        // Nor is a lease of the tenant's waited for (fcntl(2), F_SETLEASE).
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(proc, again.as_str(), flags, Mode::empty())?;
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let mut bytes = Vec::new();
        File::from(file)
            .take(FILE_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(errno)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_MAX) {
            return Err(Errno::EFBIG);
        }
        copy.write_all(&bytes).map_err(errno)?;
    }
    Ok(())
}

/// From the host to beside the container, and down to nobody.
pub(crate) fn enter(
    enter: &Enter,
    fds: &mut Fds,
    proc: &OwnedFd,
    files: &[Vec<u8>],
) -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNS).at(Stage::Root)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).at(Stage::Root)?;
    for (path, bytes) in enter.files.iter().zip(files) {
        show(path, bytes).at(Stage::Files)?;
    }
    let leader = fds.need(FdRole::Leader)?;
    // A container that shares the host's network has nothing to join.
    if enter.join != 0 {
        setns(&leader, clone_flags(enter.join)?).at(Stage::Join)?;
    }
    drop(leader);
    for ((name, flag), expected) in NAMESPACES.iter().zip(&enter.namespaces) {
        if enter.join & flag != 0 {
            let path = format!("self/ns/{name}");
            let flags = nix::fcntl::AtFlags::empty();
            let stat = fstatat(proc, path.as_str(), flags).at(Stage::Namespaces)?;
            let found = NamespaceId {
                dev: stat.st_dev,
                ino: stat.st_ino,
            };
            require(found == *expected, Stage::Namespaces, Errno::EXDEV)?;
        }
    }
    setgroups(&[]).at(Stage::Groups)?;
    sys::limit_bounding_set(0).at(Stage::Bounding)?;
    take_ids(enter)?;
    set_no_new_privs().at(Stage::NoNewPrivs)?;
    sys::set_capabilities(0).at(Stage::Capabilities)?;
    let held = sys::capabilities().at(Stage::Capabilities)?;
    require(held == [0, 0, 0], Stage::Capabilities, Errno::EPERM)
}

/// Shows these bytes at a path of ours, read-only. The file is in a file system of its own that is mounted nowhere else.
fn show(path: &[u8], bytes: &[u8]) -> Result<(), Errno> {
    let shown = calls::detached_tmpfs()?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o444);
    let mut file = File::from(openat(&shown, "file", flags, mode)?);
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    file.write_all(bytes).map_err(errno)?;
    drop(file);
    // Before Linux 6.15 only what is mounted here can be cloned (fs/namespace.c, `__do_loopback`), so it is for a moment: over
    // /proc, which is there on every host and which we have open.
    calls::move_mount(shown.as_fd(), PROC)?;
    let file = calls::clone_tree(shown.as_fd(), c"file")?;
    umount2(PROC, MntFlags::MNT_DETACH)?;
    calls::make_read_only(file.as_fd())?;
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    calls::move_mount(file.as_fd(), &path)
}
