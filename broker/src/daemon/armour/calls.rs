//! The system calls that upcalld may make when its launcher is up (seccomp(2)): what it has a use for, and nothing else.
//!
//! A new use of the kernel, of ours or of a library's, is noticed by a test, which then sees the daemon end (`--armour
//! kill`); elsewhere the call fails with `EPERM`, and the kernel's log has its number (`audit: type=1326 … syscall=`).

use nix::errno::Errno;
use upcall_helpers::seccomp::{
    self, ABSENT, ALLOW, Filter, Instruction, KILL, NEW_NAMESPACES, REFUSE,
};
use upcall_helpers::sys::filter_system_calls;

use crate::linux::sys::REQUESTS;
use crate::options::Unlisted;

/// Numbers from here up were given after Linux 6.18. A libc that was made later tries such calls first, and takes "not
/// there" for an answer.
const LATER: u32 = 470;

/// `BPF_PROG_LOAD` of linux/bpf.h.
const BPF_PROG_LOAD: u32 = 5;

/// Allowed whatever the arguments.
#[rustfmt::skip] // a reason beside each
const CALLS: &[i64] = &[
    // files: rules, state of runtimes, /proc, hooks, cgroups, records, cores
    libc::SYS_openat,          // std, and below directories that are held open
    libc::SYS_openat2,         // where no link may lead elsewhere
    libc::SYS_read,            // all of them
    libc::SYS_pread64,         // what was accepted and not recorded
    libc::SYS_readv,           // tokio
    libc::SYS_write,           // records, hooks, eventfds, the log
    libc::SYS_pwrite64,        // the same
    libc::SYS_writev,          // tokio, std
    libc::SYS_close,           // everything
    libc::SYS_lseek,           // /proc read again from the start
    libc::SYS_newfstatat,      // whose a file is
    libc::SYS_fstat,           // the same; libc before 2.33
    libc::SYS_statx,           // the same; std
    libc::SYS_fstatfs,         // room on the disk, and what kind it is
    libc::SYS_statfs,          // the same by path
    libc::SYS_getdents64,      // directories
    libc::SYS_readlinkat,      // the program of a process, namespaces
    libc::SYS_faccessat,       // whether a hook can be written
    libc::SYS_faccessat2,      // the same; libc since 2.33
    libc::SYS_fcntl,           // flags, seals, more descriptors; also copies of them
    libc::SYS_flock,           // one daemon in a place; the spool's claims
    libc::SYS_ftruncate,       // what was spooled in part
    libc::SYS_fsync,           // what has to outlive a loss of power
    libc::SYS_fdatasync,       // the same
    libc::SYS_copy_file_range, // spooled cores, from one file system to another: std's copy
    libc::SYS_sendfile,        // the same, where that is not possible
    libc::SYS_splice,          // the same, of pipes
    libc::SYS_mkdirat,         // cgroups of helpers, directories
    libc::SYS_unlinkat,        // what is too old
    libc::SYS_renameat,        // records that are complete
    libc::SYS_renameat2,       // what must not replace anything
    libc::SYS_linkat,          // a core gets its name
    libc::SYS_symlinkat,       // a hook that is a link to the shim, taken back
    libc::SYS_fchmod,          // what a group may read
    libc::SYS_fchmodat,        // the same by path
    libc::SYS_fchown,          // whose group
    libc::SYS_fchownat,        // the same by path
    libc::SYS_memfd_create,    // sealed programs, and facts for helpers
    libc::SYS_pipe2,           // readers of command lines
    libc::SYS_eventfd2,        // claims; tokio's waker

    // sockets that are open: the shim, the kernel, upcallctl, the launcher, the journal, the kernel's process events
    libc::SYS_socketpair,      // a watcher's end; tokio's signals
    libc::SYS_bind,            // ours in /run/upcalld; the events
    libc::SYS_listen,          // the same
    libc::SYS_accept4,         // who comes
    libc::SYS_connect,         // the journal, systemd, LXC's monitor
    libc::SYS_getsockopt,      // who is there
    libc::SYS_getsockname,     // what systemd gave us
    libc::SYS_getpeername,     // tokio
    libc::SYS_shutdown,        // the end of a connection
    libc::SYS_sendmsg,         // words with descriptors
    libc::SYS_sendto,          // words
    libc::SYS_recvmsg,         // words with descriptors
    libc::SYS_recvfrom,        // words

    // waiting
    libc::SYS_epoll_create1,   // tokio
    libc::SYS_epoll_ctl,       // tokio
    libc::SYS_epoll_pwait,     // tokio
    libc::SYS_ppoll,           // one descriptor, for a moment
    libc::SYS_futex,           // locks
    libc::SYS_nanosleep,       // std; libc before 2.28
    libc::SYS_clock_nanosleep, // std
    libc::SYS_sched_yield,     // locks
    libc::SYS_restart_syscall, // the kernel itself, when a stopped one goes on
    libc::SYS_clock_gettime,   // where the vDSO has no clock

    // processes: to look, never to touch; pidfd_send_signal is a case
    libc::SYS_pidfd_open,      // the leaders of containers
    libc::SYS_getpid,          // std, the log
    libc::SYS_gettid,          // the log
    libc::SYS_getuid,          // who we are, for LXC's monitor
    libc::SYS_getgid,          // the same
    libc::SYS_waitid,          // the launcher's end
    libc::SYS_wait4,           // the same

    // threads and memory; clone, mmap and mprotect are cases
    libc::SYS_set_robust_list, // each thread's start
    libc::SYS_rseq,            // the same; libc since 2.35
    libc::SYS_sigaltstack,     // the same: overflows are told apart
    libc::SYS_sched_getaffinity, // the same: where its stack ends; how many processors there are
    libc::SYS_munmap,          // malloc, ends of threads
    libc::SYS_mremap,          // malloc
    libc::SYS_madvise,         // malloc, ends of threads
    libc::SYS_brk,             // malloc
    libc::SYS_getrandom,       // ids; maps' seeds
    libc::SYS_sysinfo,         // libc's sorting, before 2.37

    // signals to ourselves, and the end
    libc::SYS_rt_sigaction,    // SIGHUP, SIGTERM
    libc::SYS_rt_sigprocmask,  // threads' starts
    libc::SYS_rt_sigreturn,    // the way back
    libc::SYS_exit,            // a thread
    libc::SYS_exit_group,      // all
];

/// Older forms of these, that libc for x86-64 still uses.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[i64] = &[
    libc::SYS_stat,            // as newfstatat; libc before 2.33
    libc::SYS_lstat,           // the same
    libc::SYS_access,          // as faccessat
    libc::SYS_readlink,        // as readlinkat
    libc::SYS_mkdir,           // as mkdirat
    libc::SYS_rmdir,           // as unlinkat
    libc::SYS_unlink,          // as unlinkat
    libc::SYS_rename,          // as renameat
    libc::SYS_symlink,         // as symlinkat
    libc::SYS_chmod,           // as fchmodat
    libc::SYS_chown,           // as fchownat
    libc::SYS_poll,            // as ppoll
    libc::SYS_epoll_wait,      // as epoll_pwait
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Puts the filter on this process, which has one thread; needs `no_new_privs`.
///
/// # Errors
/// As seccomp(2).
pub(super) fn limit(unlisted: Unlisted) -> Result<(), Errno> {
    // Two, because a libc asks for what is absent at every turn, and only what is refused is for the log.
    filter_system_calls(&absent()?, 0)?;
    let rest = listed(unlisted, std::process::id())?;
    filter_system_calls(&rest, libc::SECCOMP_FILTER_FLAG_LOG)
}

/// What libc does without where it is told that the kernel has not got it. The other filter lets it through.
fn absent() -> Result<Vec<Instruction>, Errno> {
    let mut filter = Filter::new(ALLOW);
    filter.from(LATER, ABSENT);
    // Its flags are in memory, where no filter sees them. libc takes clone(2) instead.
    filter.case(libc::SYS_clone3, &[seccomp::end(ABSENT)])?;
    filter.allowing([])
}

/// The filter for the process `pid`, which is this one.
fn listed(unlisted: Unlisted, pid: u32) -> Result<Vec<Instruction>, Errno> {
    let no = match unlisted {
        Unlisted::Refused => REFUSE,
        Unlisted::Kills => KILL,
    };
    let mut filter = Filter::new(no);
    filter.from(LATER, ALLOW);
    filter.case(libc::SYS_clone3, &[seccomp::end(ALLOW)])?;
    filter.case(libc::SYS_clone, &threads(no)?)?;
    // Nothing that is loaded later runs: who is the group `upcall` was asked before.
    let executable = bits(libc::PROT_EXEC)?;
    let code = seccomp::no_bit_of(2, executable, no);
    filter.case(libc::SYS_mmap, &code)?;
    filter.case(libc::SYS_mprotect, &code)?;
    filter.case(libc::SYS_socket, &families(no)?)?;
    // The filter before the events, and what else holds for sockets of every family.
    let generic = seccomp::one_of(1, &[bits(libc::SOL_SOCKET)?], no);
    filter.case(libc::SYS_setsockopt, &generic)?;
    let requests = seccomp::one_of(1, &REQUESTS.map(seccomp::low), no);
    filter.case(libc::SYS_ioctl, &requests)?;
    // A thread's name. Not: being dumpable again.
    let name = bits(libc::PR_SET_NAME)?;
    filter.case(libc::SYS_prctl, &seccomp::one_of(0, &[name], no))?;
    // Device programs for helpers.
    let load = seccomp::one_of(0, &[BPF_PROG_LOAD], no);
    filter.case(libc::SYS_bpf, &load)?;
    // Whether a process is there still.
    let none = seccomp::one_of(1, &[0], no);
    filter.case(libc::SYS_pidfd_send_signal, &none)?;
    // abort(3), and the stops of tests.
    filter.case(libc::SYS_tgkill, &seccomp::one_of(0, &[pid], no))?;
    filter.allowing(CALLS.iter().chain(OLDER).copied())
}

/// clone(2): a thread, in the same namespaces.
fn threads(no: u32) -> Result<[Instruction; 6], Errno> {
    Ok([
        seccomp::load_argument(0),
        seccomp::jump(libc::BPF_JSET, NEW_NAMESPACES, 2, 0),
        seccomp::jump(libc::BPF_JSET, bits(libc::CLONE_THREAD)?, 0, 1),
        seccomp::end(ALLOW),
        seccomp::end(no),
        seccomp::end(no),
    ])
}

/// socket(2): local ones, and the kernel's process events. No network.
fn families(no: u32) -> Result<[Instruction; 7], Errno> {
    Ok([
        seccomp::load_argument(0),
        seccomp::jump(libc::BPF_JEQ, bits(libc::AF_UNIX)?, 3, 0),
        seccomp::jump(libc::BPF_JEQ, bits(libc::AF_NETLINK)?, 0, 3),
        seccomp::load_argument(2),
        seccomp::jump(libc::BPF_JEQ, bits(libc::NETLINK_CONNECTOR)?, 0, 1),
        seccomp::end(ALLOW),
        seccomp::end(no),
    ])
}

fn bits(number: i32) -> Result<u32, Errno> {
    u32::try_from(number).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests;
