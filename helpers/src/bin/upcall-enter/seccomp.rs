//! The filter that every helper inside a container gets (seccomp(2)).
//!
//! A container's own filter cannot be read without stopping one of its processes, so this is ours: what the runtimes'
//! defaults allow a process without extra capabilities. What is not listed fails with `EPERM`. It is a list of what
//! may be, not of what may not, so a system call that a later kernel brings is refused until somebody has looked at it.

use nix::errno::Errno;
use nix::libc;
use upcall_helpers::seccomp::{self, ABSENT, Filter, Instruction, NEW_NAMESPACES, REFUSE, end};
use upcall_helpers::sys::keys::operation;

/// personality(2): Linux, variants of it, and asking; not turning randomisation off, not making everything executable.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// What a helper needs of keyctl(2) to answer a key.
const ANSWERING: [u32; 9] = [
    operation::GET_KEYRING_ID,
    operation::DESCRIBE,
    operation::READ,
    operation::INSTANTIATE,
    operation::NEGATE,
    operation::SET_TIMEOUT,
    operation::ASSUME_AUTHORITY,
    operation::REJECT,
    operation::INSTANTIATE_IOV,
];

/// `AF_VSOCK` of socket(2), which no network namespace confines.
const AF_VSOCK: u32 = 40;

/// The filter.
///
/// `keys`: for helpers that answer a key, who may do with keyctl(2) what that takes, and no more: nothing that finds,
/// links or makes another key.
///
/// # Errors
/// Does not fail with this list.
pub(crate) fn filter(keys: bool) -> Result<Vec<Instruction>, Errno> {
    let mut filter = Filter::new(REFUSE);
    // clone3(2) has its flags in memory, where no filter sees them. "Not there" makes libc use clone(2) instead.
    filter.case(libc::SYS_clone3, &[end(ABSENT)])?;
    let namespaces = seccomp::no_bit_of(0, NEW_NAMESPACES, REFUSE);
    filter.case(libc::SYS_clone, &namespaces)?;
    let vsock = seccomp::unless_one_of(0, &[AF_VSOCK], REFUSE);
    filter.case(libc::SYS_socket, &vsock)?;
    let personality = seccomp::one_of(0, &PERSONALITIES, REFUSE);
    filter.case(libc::SYS_personality, &personality)?;
    if keys {
        let answering = seccomp::one_of(0, &ANSWERING, REFUSE);
        filter.case(libc::SYS_keyctl, &answering)?;
    }
    filter.allowing(COMMON.iter().chain(LEGACY).copied())
}

/// Allowed whatever the arguments, on every architecture.
#[rustfmt::skip] // a line per topic reads better than a line per call
const COMMON: &[i64] = &[
    // files and directories
    libc::SYS_read, libc::SYS_write, libc::SYS_openat, libc::SYS_openat2, libc::SYS_close,
    libc::SYS_close_range, libc::SYS_lseek, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64,
    libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2,
    libc::SYS_pwritev2, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs,
    libc::SYS_fstatfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fcntl,
    libc::SYS_flock, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs,
    libc::SYS_sync_file_range, libc::SYS_truncate, libc::SYS_ftruncate, libc::SYS_fallocate,
    libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_mkdirat,
    libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_linkat,
    libc::SYS_symlinkat, libc::SYS_readlinkat, libc::SYS_fchmod, libc::SYS_fchmodat,
    libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_mknodat, libc::SYS_utimensat, libc::SYS_umask,
    libc::SYS_fadvise64, libc::SYS_readahead, libc::SYS_copy_file_range, libc::SYS_sendfile,
    libc::SYS_splice, libc::SYS_tee, libc::SYS_vmsplice, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_pipe2, libc::SYS_ioctl, libc::SYS_memfd_create, libc::SYS_name_to_handle_at,
    libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_setxattr,
    libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_listxattr, libc::SYS_llistxattr,
    libc::SYS_flistxattr, libc::SYS_removexattr, libc::SYS_lremovexattr, libc::SYS_fremovexattr,
    libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // waiting
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_signalfd4,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    libc::SYS_io_setup, libc::SYS_io_destroy, libc::SYS_io_submit, libc::SYS_io_cancel,
    libc::SYS_io_getevents,
    // memory
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect,
    libc::SYS_madvise, libc::SYS_mincore, libc::SYS_msync, libc::SYS_mlock, libc::SYS_mlock2,
    libc::SYS_munlock, libc::SYS_mlockall, libc::SYS_munlockall, libc::SYS_membarrier,
    libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect,
    libc::SYS_process_mrelease, libc::SYS_remap_file_pages, libc::SYS_memfd_secret,
    // processes, threads, ids
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_wait4, libc::SYS_waitid, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid,
    libc::SYS_getpgid, libc::SYS_setpgid, libc::SYS_getsid, libc::SYS_setsid, libc::SYS_getuid,
    libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid,
    libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_setuid, libc::SYS_setgid,
    libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid,
    libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_setgroups, libc::SYS_capget,
    libc::SYS_capset, libc::SYS_prctl, libc::SYS_seccomp, libc::SYS_prlimit64,
    libc::SYS_getrusage, libc::SYS_times, libc::SYS_sysinfo, libc::SYS_uname,
    libc::SYS_set_tid_address, libc::SYS_set_robust_list, libc::SYS_get_robust_list,
    libc::SYS_rseq, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_getcpu, libc::SYS_getrandom,
    libc::SYS_restart_syscall, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal,
    libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    // looking at the crashed process, which a handler exists for; yama and the ids still decide
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // signals
    libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigpending, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo, libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    // time and scheduling
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_getitimer, libc::SYS_setitimer,
    libc::SYS_timer_create, libc::SYS_timer_settime, libc::SYS_timer_gettime,
    libc::SYS_timer_getoverrun, libc::SYS_timer_delete, libc::SYS_adjtimex,
    libc::SYS_clock_adjtime, libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity, libc::SYS_sched_getparam, libc::SYS_sched_setparam,
    libc::SYS_sched_getscheduler, libc::SYS_sched_setscheduler, libc::SYS_sched_getattr,
    libc::SYS_sched_setattr, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
    libc::SYS_sched_rr_get_interval, libc::SYS_getpriority, libc::SYS_setpriority,
    libc::SYS_ioprio_get, libc::SYS_ioprio_set,
    // sockets
    libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4,
    libc::SYS_connect, libc::SYS_shutdown, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto, libc::SYS_recvfrom,
    libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg,
    // System V and POSIX communication, inside the container's own namespace
    libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmdt, libc::SYS_shmctl, libc::SYS_semget,
    libc::SYS_semop, libc::SYS_semctl, libc::SYS_semtimedop, libc::SYS_msgget, libc::SYS_msgsnd,
    libc::SYS_msgrcv, libc::SYS_msgctl, libc::SYS_mq_open, libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend, libc::SYS_mq_timedreceive, libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
];

/// Older forms that only x86-64 has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const LEGACY: &[i64] = &[
    libc::SYS_open, libc::SYS_creat, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access,
    libc::SYS_getdents, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_rename,
    libc::SYS_link, libc::SYS_symlink, libc::SYS_readlink, libc::SYS_chmod, libc::SYS_chown,
    libc::SYS_lchown, libc::SYS_mknod, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat,
    libc::SYS_dup2, libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create,
    libc::SYS_epoll_wait, libc::SYS_epoll_ctl_old, libc::SYS_epoll_wait_old, libc::SYS_eventfd,
    libc::SYS_signalfd, libc::SYS_inotify_init, libc::SYS_fork, libc::SYS_vfork,
    libc::SYS_getpgrp, libc::SYS_getrlimit, libc::SYS_setrlimit, libc::SYS_alarm, libc::SYS_pause,
    libc::SYS_time, libc::SYS_arch_prctl, libc::SYS_get_thread_area, libc::SYS_set_thread_area,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[i64] = &[];

#[cfg(test)]
mod tests {
    use upcall_helpers::seccomp::{ALLOW, X32, verdict};

    use super::*;

    fn on(number: i64, argument: u32) -> u32 {
        verdict(&filter(false).unwrap(), number, &[argument]).unwrap()
    }

    #[test]
    fn who_answers_a_key_may_do_that_and_nothing_else_with_keys() {
        let program = filter(true).unwrap();
        let keyctl = |operation| verdict(&program, libc::SYS_keyctl, &[operation]).unwrap();
        for operation in 0..64 {
            let wanted = if ANSWERING.contains(&operation) {
                ALLOW
            } else {
                REFUSE
            };
            assert_eq!(keyctl(operation), wanted, "{operation}");
        }
        for other in [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_mount] {
            assert_eq!(verdict(&program, other, &[]), Some(REFUSE), "{other}");
        }
    }

    #[test]
    fn exactly_what_is_listed_is_allowed() {
        let listed: Vec<i64> = COMMON.iter().chain(LEGACY).copied().collect();
        let special = [
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_socket,
            libc::SYS_personality,
        ];
        let program = filter(false).unwrap();
        let far = [i64::from(u32::MAX), i64::from(X32), i64::from(X32) + 1];
        for number in (0..1024).chain(far) {
            if special.contains(&number) {
                continue;
            }
            let expected = if listed.contains(&number) {
                ALLOW
            } else {
                REFUSE
            };
            let is = verdict(&program, number, &[]);
            assert_eq!(is, Some(expected), "system call {number}");
        }
    }

    #[test]
    fn what_a_container_may_not_do_is_not_allowed() {
        for refused in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_open_by_handle_at,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_settimeofday,
            libc::SYS_acct,
            libc::SYS_quotactl,
            libc::SYS_iopl,
        ] {
            assert_eq!(on(refused, 0), REFUSE, "system call {refused}");
        }
        assert_eq!(
            on(libc::SYS_clone, 0x1000_0000),
            REFUSE,
            "a new user namespace"
        );
        assert_eq!(on(libc::SYS_clone, 0x0001_1200), ALLOW, "a thread");
        assert_eq!(on(libc::SYS_clone3, 0), ABSENT);
        assert_eq!(on(libc::SYS_socket, AF_VSOCK), REFUSE);
        assert_eq!(on(libc::SYS_socket, 1), ALLOW);
        assert_eq!(
            on(libc::SYS_personality, 0x0040_0000),
            REFUSE,
            "READ_IMPLIES_EXEC"
        );
        assert_eq!(on(libc::SYS_personality, 0xffff_ffff), ALLOW);
    }
}
