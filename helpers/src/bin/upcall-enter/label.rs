//! The LSM label of the container's init, for the helper's exec.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use upcall_helpers::wire::Stage;

use crate::failure::{At, Failure, require};

/// Sets the label that the next exec of this process gets. `label` is `LSM\0label` as the daemon read it of the
/// container's init; empty where no module labels processes. A label that cannot be set ends the launch.
///
/// Written through a descriptor of the *host's* /proc: the container may have mounted anything over its own
/// (CVE-2019-19921, CVE-2019-16884).
pub(crate) fn set(proc: BorrowedFd<'_>, label: &[u8]) -> Result<(), Failure> {
    if label.is_empty() {
        return Ok(());
    }
    let split = label
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(Errno::EINVAL)
        .at(Stage::Plan)?;
    let (module, context) = label.split_at(split);
    let context = context.get(1..).unwrap_or_default();
    let (path, text) = match module {
        // apparmor(7): the attribute takes a command and a profile.
        b"apparmor" => (
            "thread-self/attr/apparmor/exec",
            [b"exec ".as_slice(), context].concat(),
        ),
        b"selinux" => ("thread-self/attr/exec", context.to_vec()),
        _ => {
            return Err(Failure {
                stage: Stage::Label,
                errno: Errno::EOPNOTSUPP,
            });
        }
    };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new()
        .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
        .resolve(resolve);
    let fd = openat2(proc, path, how).at(Stage::Label)?;
    let written = nix::unistd::write(&fd, &text).at(Stage::Label)?;
    require(written == text.len(), Stage::Label, Errno::EIO)
}
