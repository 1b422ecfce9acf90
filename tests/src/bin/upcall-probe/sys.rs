//! The probe's system calls.

#![expect(
    unsafe_code,
    reason = "the probe's system calls; its other modules are without"
)]

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Instead of Rust's own start: that would ignore SIGPIPE, install handlers and open closed descriptors before we
/// could look.
#[unsafe(no_mangle)]
extern "C" fn main(_count: libc::c_int, _words: *const *const libc::c_char) -> libc::c_int {
    crate::run()
}

/// prctl(2) of an option that returns a number, with number arguments only.
pub(crate) fn prctl(option: i32, argument: u64, second: u64) -> i32 {
    // SAFETY: callers pass PR_GET_* and *_READ, *_IS_SET options that take numbers or nothing and write nowhere.
    unsafe { libc::prctl(option, argument, second, 0_u64, 0_u64) }
}

/// The signal that the parent's end brings: prctl(2) writes it instead of returning it.
pub(crate) fn parent_death_signal() -> i32 {
    let mut signal: libc::c_int = -1;
    // SAFETY: PR_GET_PDEATHSIG writes one int, which lives here.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
    signal
}

/// The ids by which files are looked at: setfsuid(2) with an id that does not exist tells and changes nothing.
pub(crate) fn file_system_ids() -> [u32; 2] {
    // SAFETY: setfsuid takes a number.
    let uid = unsafe { libc::setfsuid(u32::MAX) };
    // SAFETY: setfsgid takes a number.
    let gid = unsafe { libc::setfsgid(u32::MAX) };
    [uid.cast_unsigned(), gid.cast_unsigned()]
}

/// The namespace of one kind (`PIDFD_GET_*_NAMESPACE`, by its number) of the process that `pidfd` is.
pub(crate) fn namespace(pidfd: &OwnedFd, kind: u8) -> Result<OwnedFd, Errno> {
    let request = nix::request_code_none!(0xff, kind);
    // SAFETY: these requests take no argument and return a new descriptor.
    let fd = Errno::result(unsafe { libc::ioctl(pidfd.as_raw_fd(), request, 0) })?;
    // SAFETY: from_raw_fd wants an open descriptor without another owner; the call above just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a descriptor is, or nothing where none is open.
pub(crate) fn descriptor(number: RawFd) -> Option<String> {
    // SAFETY: stat is plain numbers, for which all zeroes is a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: fstat writes one stat, which lives here.
    Errno::result(unsafe { libc::fstat(number, &raw mut stat) }).ok()?;
    // SAFETY: fcntl(F_GETFL) takes no third argument and returns flags.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    let kind = match stat.st_mode & libc::S_IFMT {
        libc::S_IFIFO => "pipe".to_owned(),
        libc::S_IFSOCK => "socket".to_owned(),
        libc::S_IFREG => "file".to_owned(),
        libc::S_IFDIR => "directory".to_owned(),
        libc::S_IFCHR => {
            let device = stat.st_rdev;
            format!("device {}:{}", libc::major(device), libc::minor(device))
        }
        other => format!("{other:o}"),
    };
    let access = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => "read",
        libc::O_WRONLY => "write",
        _ => "read and write",
    };
    Some(format!("{kind}, {access}"))
}

/// Signals whose action is to be ignored, a bit each.
pub(crate) fn ignored_signals() -> u64 {
    (1..=64).fold(0, |mask, signal| {
        // SAFETY: sigaction is plain data, for which all zeroes is a value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: sigaction without a new action writes the old one, which lives here.
        let found = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        let ignored = found == 0 && action.sa_sigaction == libc::SIG_IGN;
        mask | u64::from(ignored) << (signal - 1)
    })
}

/// Blocked signals, a bit each, the real-time ones that libc keeps for itself included.
pub(crate) fn blocked_signals() -> u64 {
    let (mut mask, none) = (0_u64, std::ptr::null::<u64>());
    let operation = libc::SIG_BLOCK;
    // SAFETY: rt_sigprocmask without a new mask writes as many bytes as it is told, which live here.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, operation, none, &raw mut mask, 8) };
    mask
}

/// The scheduling policy.
pub(crate) fn scheduler() -> i32 {
    // SAFETY: sched_getscheduler takes a number; 0 is the caller.
    unsafe { libc::sched_getscheduler(0) }
}

/// Niceness.
pub(crate) fn niceness() -> i32 {
    // SAFETY: getpriority takes two numbers; 0 is the caller.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// One attempt at a system call with numbers and null pointers only.
fn attempt(number: libc::c_long, arguments: [u64; 5]) -> String {
    let [one, two, three, four, five] = arguments;
    // SAFETY: the kernel checks every argument of every system call; those tried below point nowhere, so that none
    // can write to memory of ours, and none succeeds with them but to return a number.
    let result = unsafe { libc::syscall(number, one, two, three, four, five) };
    match Errno::result(result) {
        Ok(_) => "ok".to_owned(),
        Err(errno) => format!("{errno:?}"),
    }
}

/// System calls that a container's process is not to make, each tried.
pub(crate) fn refused() -> BTreeMap<String, String> {
    let no = u64::MAX;
    let flags = |flags: libc::c_int| u64::from(flags.cast_unsigned());
    let nowhere = c"/nowhere".as_ptr() as u64;
    let session = u64::from((-3_i32).cast_unsigned());
    let tries: [(&str, libc::c_long, [u64; 5]); 22] = [
        ("add_key", libc::SYS_add_key, [0; 5]),
        ("bpf", libc::SYS_bpf, [0; 5]),
        ("chroot", libc::SYS_chroot, [nowhere, 0, 0, 0, 0]),
        (
            "clone(NEWUSER)",
            libc::SYS_clone,
            [flags(libc::CLONE_NEWUSER | libc::CLONE_THREAD), 0, 0, 0, 0],
        ),
        ("clone3", libc::SYS_clone3, [0; 5]),
        ("finit_module", libc::SYS_finit_module, [no, 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 5]),
        ("kexec_load", libc::SYS_kexec_load, [0; 5]),
        ("keyctl(session)", libc::SYS_keyctl, [0, session, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0, nowhere, 0, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [no, 0, no, 0, 0]),
        (
            "open_by_handle_at",
            libc::SYS_open_by_handle_at,
            [no, 0, 0, 0, 0],
        ),
        ("open_tree", libc::SYS_open_tree, [no, nowhere, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 5]),
        (
            "personality(0x0040000)",
            libc::SYS_personality,
            [0x0004_0000, 0, 0, 0, 0],
        ),
        (
            "pivot_root",
            libc::SYS_pivot_root,
            [nowhere, nowhere, 0, 0, 0],
        ),
        ("request_key", libc::SYS_request_key, [0; 5]),
        ("setns", libc::SYS_setns, [no, 0, 0, 0, 0]),
        ("swapon", libc::SYS_swapon, [nowhere, 0, 0, 0, 0]),
        ("umount2", libc::SYS_umount2, [nowhere, 0, 0, 0, 0]),
        (
            "unshare(NEWUSER)",
            libc::SYS_unshare,
            [flags(libc::CLONE_NEWUSER), 0, 0, 0, 0],
        ),
        ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0]),
    ];
    tries
        .into_iter()
        .map(|(name, number, arguments)| (name.to_owned(), attempt(number, arguments)))
        .collect()
}
