//! Files of cgroups, below a mount that the caller holds.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Opens the file `name` of a cgroup given by its absolute path below `mount`; without a name, its directory.
///
/// A cgroup's path is a tenant's word in part. Cgroup file systems have no links; the flags keep a surprise out all the
/// same.
///
/// # Errors
/// As openat2(2); `EXDEV` for a path that leads out of the mount.
pub fn open_beneath(
    mount: BorrowedFd<'_>,
    cgroup: &[u8],
    name: &str,
    flags: OFlag,
) -> Result<OwnedFd, Errno> {
    // Relative, also where the cgroup is the root.
    let path = [b".", cgroup, b"/", name.as_bytes()].concat();
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    openat2(mount, Path::new(OsStr::from_bytes(&path)), how)
}
