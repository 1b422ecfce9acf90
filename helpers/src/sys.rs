//! System calls that nix does not wrap, each as one safe function. The crate's only unsafe.

#![expect(
    unsafe_code,
    reason = "the crate's system calls; every other module is without"
)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;

mod capabilities;
pub mod keys;
mod limits;

pub use capabilities::{capabilities, limit_bounding_set, set_capabilities};
pub use limits::{rlimit, set_rlimit};

/// `CLONE_CLEAR_SIGHAND` of clone3(2); libc's constant does not fit its own type.
pub const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `CLONE_INTO_CGROUP` of clone3(2), 5.7.
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_PIDFD` of clone(2), 5.2.
const CLONE_PIDFD: u64 = 0x1000;

/// Makes descriptors that recvmsg(2) just installed ours.
pub(crate) fn own_received(raw: Vec<RawFd>) -> Vec<OwnedFd> {
    raw.into_iter()
        // SAFETY: from_raw_fd wants an open descriptor that nobody else owns; the kernel installed this one for the
        // message we just took, and the caller passes each list once.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect()
}

/// Takes a descriptor that this process was started with.
///
/// # Errors
/// `EBADF` where it is not open.
pub fn inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: fcntl(F_GETFD) reads one flag and takes no pointer.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: from_raw_fd wants an open descriptor without another owner: it is open, seen just now, and a program
    // takes each of the numbers it was started with once, at the top of its main.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What clone3(2) returns on its two sides.
#[derive(Debug)]
pub enum Fork {
    /// This is the child.
    Child,
    /// This is the parent.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: u32,
        /// The child.
        pidfd: OwnedFd,
    },
}

/// clone3(2) without shared memory: fork(2) with flags. Only for single-threaded callers: the child goes on with a
/// copy of everything, and a lock held by another thread would stay locked in it.
///
/// `flags` may hold [`CLONE_CLEAR_SIGHAND`]; a `cgroup` (a cgroup2 directory, may be `O_PATH`) is
/// where the child starts.
///
/// # Errors
/// As clone3(2): `ENOMEM` where a pid namespace has lost its init, `EBUSY` or `EOPNOTSUPP` for a cgroup that takes no
/// processes, `EAGAIN` at a limit.
pub fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork, Errno> {
    let mut pidfd: RawFd = -1;
    let args = libc::clone_args {
        flags: flags
            | CLONE_PIDFD
            | if cgroup.is_some() {
                CLONE_INTO_CGROUP
            } else {
                0
            },
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    // SAFETY: clone3 reads `args` and writes one int through `args.pidfd`; both live on this stack, and without
    // CLONE_VM the child works on copies of them.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match u32::try_from(Errno::result(result)?) {
        Ok(0) => Ok(Fork::Child),
        Ok(pid) => {
            // SAFETY: from_raw_fd wants an open descriptor without another owner; clone3 succeeded with CLONE_PIDFD,
            // so it has just stored a new one here.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Fork::Parent { pid, pidfd })
        }
        Err(_) => Err(Errno::EOVERFLOW),
    }
}

/// A copy of another process's descriptor (pidfd_getfd(2), 5.6).
///
/// # Errors
/// As pidfd_getfd(2).
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_getfd takes three numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: from_raw_fd wants an open descriptor without another owner; the call above just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A number that nobody else has had, for ids; it is no secret. It does not wait for the kernel's random numbers to be good
/// (getrandom(2), `GRND_INSECURE`, 5.6): at boot, when modules are asked for, that can take for ever, and all that the
/// kernel started would wait. What it has then may be the same after each boot, but the time is not.
///
/// # Errors
/// As getrandom(2): none for so few bytes.
pub fn random() -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    let (buffer, length) = (bytes.as_mut_ptr(), bytes.len());
    // SAFETY: getrandom writes at most the given number of bytes; the buffer has them. Not by its wrapper: std refers to
    // that weakly, and a static program linked as a whole then takes it for null.
    let length = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, libc::GRND_INSECURE) };
    if Errno::result(length)? != 8 {
        return Err(Errno::EAGAIN);
    }
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let time = u64::try_from(time.map_or(0, |time| time.as_nanos())).unwrap_or(0);
    Ok(u64::from_le_bytes(bytes) ^ time)
}

/// Ends this process at once, without running anything that its parent registered.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// pidfd_open(2).
///
/// # Errors
/// As pidfd_open(2); `ESRCH` where there is no such process.
pub fn pidfd_open(pid: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: from_raw_fd wants an open descriptor without another owner; the call above just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_send_signal(2); signal 0 only asks whether the process is there.
///
/// # Errors
/// As pidfd_send_signal(2); `ESRCH` where the process is gone.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let (fd, none) = (pidfd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: pidfd_send_signal takes numbers and a siginfo that may be null.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
    Errno::result(result).map(drop)
}

/// Makes `fd` also descriptor `number`, open across exec; closes what was there.
///
/// # Errors
/// As dup2(2).
pub fn dup_to(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: dup2 takes two numbers; the callers are about to exec or are forked children that own their whole
    // table and replace only numbers that no OwnedFd of theirs is used through afterwards.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Closes all descriptors from `first` up but those in `kept`, whatever is in the gaps between them. What an `OwnedFd`
/// still names among the closed is gone: only for forked children that end in exec or [`exit`].
///
/// # Errors
/// As close_range(2).
pub fn close_all_but(first: u32, mut kept: Vec<u32>) -> Result<(), Errno> {
    kept.sort_unstable();
    let mut next = first;
    for fd in kept.into_iter().filter(|fd| *fd >= first) {
        if fd > next {
            close_range(next, fd - 1)?;
        }
        next = fd + 1;
    }
    close_range(next, u32::MAX)
}

/// close_range(2), 5.9; as for [`close_all_but`].
///
/// # Errors
/// As close_range(2).
pub fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: close_range takes three numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// prctl(2) with number arguments only; returns what prctl returns.
fn prctl(option: i32, arg2: u64, arg3: u64, arg4: u64) -> Result<i32, Errno> {
    // SAFETY: the options that callers here and in `capabilities` pass (PR_CAPBSET_*, PR_CAP_AMBIENT, PR_SCHED_CORE) take numbers.
    Errno::result(unsafe { libc::prctl(option, arg2, arg3, arg4, 0_u64) })
}

/// Shares the core-scheduling cookie of process `pid` (prctl(2), `PR_SCHED_CORE`, 5.14), so that our helper never runs
/// on one core's two threads with somebody it should not.
///
/// # Errors
/// `ENODEV` without simultaneous multithreading, `EINVAL` on a kernel without core scheduling.
pub fn share_core_cookie(pid: u32) -> Result<(), Errno> {
    let from = u64::from(libc::PR_SCHED_CORE_SHARE_FROM.unsigned_abs());
    prctl(libc::PR_SCHED_CORE, from, u64::from(pid), 0).map(drop)
}

/// Joins a new, anonymous session keyring, so that none of ours is inherited (keyctl(2),
/// `KEYCTL_JOIN_SESSION_KEYRING`).
///
/// # Errors
/// As keyctl(2); `ENOSYS` on a kernel without keys.
pub fn new_session_keyring() -> Result<(), Errno> {
    let none = std::ptr::null::<libc::c_char>();
    let operation = libc::c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING);
    // SAFETY: this operation takes a name that may be null.
    Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, operation, none) }).map(drop)
}

/// ioprio_set(2); libc has no name for it.
const IOPRIO_WHO_PROCESS: i32 = 1;

/// Puts scheduling back to what a process of nobody's has: policy, niceness, I/O priority, processors, memory policy,
/// execution domain, timer slack. What the launcher was given must not reach a helper.
///
/// # Errors
/// The first call that failed.
pub fn reset_scheduling() -> Result<(), Errno> {
    let priority: libc::c_int = 0;
    // SAFETY: sched_setscheduler reads one sched_param, which is one int to the kernel (sched_setscheduler(2)) and lives
    // here; 0 is the calling thread. Not by its wrapper: musl's does nothing but fail.
    let scheduler = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_OTHER,
            &raw const priority,
        )
    };
    Errno::result(scheduler)?;
    // SAFETY: setpriority takes three numbers.
    let nice = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
    match Errno::result(nice) {
        // A launcher that was itself made less nice may not become nicer; the helper stays as humble as that.
        Ok(_) | Err(Errno::EACCES | Errno::EPERM) => {}
        Err(error) => return Err(error),
    }
    // SAFETY: ioprio_set takes three numbers (ioprio_set(2)); priority 0 is the class `none`.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0) })?;
    let all = [0xff_u8; 128];
    // SAFETY: sched_setaffinity reads the given number of bytes from the mask; it has exactly that many.
    let affinity =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, all.len(), all.as_ptr()) };
    Errno::result(affinity)?;
    let none = std::ptr::null::<libc::c_ulong>();
    // SAFETY: set_mempolicy with MPOL_DEFAULT takes an empty node mask, null and 0 (set_mempolicy(2)).
    let policy = unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_DEFAULT, none, 0) };
    match Errno::result(policy) {
        Ok(_) | Err(Errno::ENOSYS) => {} // a kernel without NUMA
        Err(error) => return Err(error),
    }
    // SAFETY: personality takes a number; 0 is PER_LINUX.
    Errno::result(unsafe { libc::personality(0) }).map(drop)
}

/// Filters this thread's system calls from here on, and those of everything it executes (seccomp(2)); needs
/// `no_new_privs`. `flags`: `SECCOMP_FILTER_FLAG_*`.
///
/// # Errors
/// As seccomp(2); `EINVAL` for a program that the kernel does not take.
pub fn filter_system_calls(
    program: &[libc::sock_filter],
    flags: libc::c_ulong,
) -> Result<(), Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: seccomp reads one sock_fprog and as many instructions behind its pointer as it says; both live here,
    // and the kernel writes to neither.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
    Errno::result(result).map(drop)
}

/// Numbers that a process shares with the children it forks, all zero.
///
/// # Errors
/// As mmap(2).
pub fn shared_numbers() -> Result<&'static [AtomicU64; SHARED_NUMBERS], Errno> {
    let length = size_of::<[AtomicU64; SHARED_NUMBERS]>();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: mmap at an address of the kernel's choice, of no file, replaces nothing.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the mapping is new, page-aligned, zeroed and `length` bytes long, AtomicU64 may have any bits and be
    // shared, and nobody ever unmaps it.
    Ok(unsafe { &*address.cast() })
}

/// How many numbers [`shared_numbers`] has.
pub const SHARED_NUMBERS: usize = 4096;

/// Gives every signal its default action but `SIGPIPE`, which stays ignored, and blocks none: what we were started
/// with must not reach a helper, and `CLONE_CLEAR_SIGHAND` leaves ignored signals ignored.
///
/// # Errors
/// As sigprocmask(2).
pub fn reset_signals() -> Result<(), Errno> {
    for signal in (1..=64).filter(|signal| *signal != libc::SIGPIPE) {
        default_action(signal);
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()
}

/// Gives `SIGPIPE` its default action too, right before an exec: Rust's start-up ignores it, and so do we.
pub fn reset_sigpipe() {
    default_action(libc::SIGPIPE);
}

/// Not by signal(3): C libraries keep the first of the real-time signals for themselves, each its own number of them.
fn default_action(signal: i32) {
    // The kernel's `struct sigaction` of zeroes is SIG_DFL without flags (asm-generic/signal.h); none is longer.
    let default = [0_u64; 4];
    let (none, mask) = (std::ptr::null::<u64>(), size_of::<u64>());
    // SAFETY: rt_sigaction reads one `struct sigaction` from a buffer as long as any, and installs no code of ours;
    // numbers it does not take are refused with EINVAL.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, mask) };
}

/// What statx(2) says about an open descriptor without asking the file's server (`AT_STATX_DONT_SYNC`): a FUSE server
/// of the tenant's would never answer.
#[derive(Debug, Clone, Copy)]
pub struct FileKind {
    /// Whether it is a regular file.
    pub regular: bool,
    /// Device number and inode.
    pub id: (u32, u32, u64),
}

/// statx(2) of an `O_PATH` descriptor.
///
/// # Errors
/// As statx(2).
pub fn file_kind(fd: BorrowedFd<'_>) -> Result<FileKind, Errno> {
    // SAFETY: statx is plain numbers, for which all zeroes is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_TYPE | libc::STATX_INO;
    let (fd, empty) = (fd.as_raw_fd(), c"".as_ptr());
    // Not libc's statx: std declares it weak, and in a static program linked as one that makes it null.
    // SAFETY: statx reads an empty, terminated path and writes one statx; both live here.
    let result = unsafe { libc::syscall(libc::SYS_statx, fd, empty, flags, mask, &raw mut stat) };
    Errno::result(result)?;
    let format = u32::from(stat.stx_mode) & libc::S_IFMT;
    Ok(FileKind {
        regular: format == libc::S_IFREG,
        id: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino),
    })
}

/// What the raw getcwd(2) says about the working directory: the kernel puts `(unreachable)` before one that is not
/// below the root, and glibc hides that by searching for it.
///
/// # Errors
/// As getcwd(2).
pub fn working_directory_is_reachable() -> Result<bool, Errno> {
    let mut path = [0_u8; 4096];
    // SAFETY: getcwd writes at most the given number of bytes; the buffer has them.
    let result = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    Errno::result(result)?;
    Ok(CStr::from_bytes_until_nul(&path).is_ok_and(|path| path.to_bytes().first() == Some(&b'/')))
}

/// Gives a file an extended attribute (fsetxattr(2)).
///
/// # Errors
/// As fsetxattr(2): `EOPNOTSUPP` where the file system has none of the kind.
pub fn set_attribute(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let (at, length) = (value.as_ptr().cast(), value.len());
    // SAFETY: fsetxattr reads a string that ends and as many bytes of the value as it is told.
    let result = unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), at, length, 0) };
    Errno::result(result).map(drop)
}
