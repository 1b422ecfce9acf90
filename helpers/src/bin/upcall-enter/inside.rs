//! The last steps, inside: what is left of our rights, and the exec.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::unistd::{Uid, execve, execveat};
use upcall_helpers::sys;
use upcall_helpers::wire::{Enter, NAMESPACES, Place, Stage};

use crate::failure::{At, Failure, require};
use crate::join::take_ids;
use crate::label;
use crate::launcher::Context;
use crate::status::{Message, Sender};

/// Label, no_new_privs, ids where they are still ours, capabilities.
pub(crate) fn drop_rights(enter: &Enter, proc: &OwnedFd) -> Result<(), Failure> {
    label::set(proc.as_fd(), &enter.label)?;
    set_no_new_privs().at(Stage::NoNewPrivs)?;
    // Without a user namespace of its own the container's root is the host's; ids change only here, where the
    // capabilities go too: a process with fewer than ours could trace one of its own uid that still had them.
    if enter.join & NAMESPACES[0].1 == 0 {
        take_ids(enter)?;
    }
    let root = Uid::current().is_root();
    let mask = if root { enter.capabilities } else { 0 };
    sys::set_capabilities(mask).at(Stage::Capabilities)?;
    let held = sys::capabilities().at(Stage::Capabilities)?;
    require(held == [mask, mask, 0], Stage::Capabilities, Errno::EPERM)
}

/// Checks the program, filters system calls, and executes.
pub(crate) fn execute(
    context: &Context<'_>,
    enter: &Enter,
    program: Option<&OwnedFd>,
    sender: &Sender,
) -> Result<Infallible, Failure> {
    let words = |words: &[Vec<u8>]| -> Result<Vec<CString>, Failure> {
        let strings = words.iter().map(|word| CString::new(word.as_slice()));
        strings
            .collect::<Result<_, _>>()
            .map_err(|_| Errno::EINVAL)
            .at(Stage::Plan)
    };
    let (argv, env) = (words(&enter.argv)?, words(&enter.env)?);
    let path = argv
        .first()
        .map(CString::as_c_str)
        .ok_or(Errno::EINVAL)
        .at(Stage::Plan)?;
    if program.is_none() && enter.place == Place::Container {
        check(path)?;
    }
    if enter.place != Place::Host {
        sys::filter_system_calls(&context.seccomp, 0).at(Stage::Seccomp)?;
    }
    // Whatever their flags: an open descriptor could be named by the path that is executed.
    let kept = [
        Some(sender.file().as_raw_fd()),
        program.map(AsRawFd::as_raw_fd),
    ];
    let kept = kept.into_iter().flatten().map(i32::unsigned_abs).collect();
    sys::close_all_but(3, kept).at(Stage::Descriptors)?;
    sender.send(Message::Executing);
    match program {
        // A static ELF: it needs no /proc to be found by, so the descriptor closes with the exec.
        Some(program) => execveat(program, c"", &argv, &env, AtFlags::AT_EMPTY_PATH),
        // By path, so that scripts work: their interpreter opens the path again. What lies there is the container's
        // own business; all it could gain by exchanging it is to run something else as itself.
        None => execve(path, &argv, &env),
    }
    .at(Stage::Exec)
}

/// The container's program is a plain file of its own, not a door to something of the kernel's or of ours. `O_PATH`
/// and statx(2) ask no file server anything; a look-up on a FUSE mount may hang, and then the keeper ends us.
fn check(path: &CStr) -> Result<(), Failure> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(nix::fcntl::AT_FDCWD, path, how).at(Stage::Program)?;
    require(
        sys::file_kind(fd.as_fd()).at(Stage::Program)?.regular,
        Stage::Program,
        Errno::EACCES,
    )?;
    let fs: FsType = fstatfs(&fd).at(Stage::Program)?.filesystem_type();
    require(
        fs != PROC_SUPER_MAGIC && fs != SYSFS_MAGIC,
        Stage::Program,
        Errno::EACCES,
    )
}
