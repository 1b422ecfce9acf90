//! The filter that every helper inside a container gets (seccomp(2)).
//!
//! A container's own filter cannot be read without stopping one of its processes, so this is ours: what the runtimes'
//! defaults allow a process without extra capabilities. What is not listed fails with `EPERM`. It is a list of what
//! may be, not of what may not, so a system call that a later kernel brings is refused until somebody has looked at it.

use nix::errno::Errno;
use nix::libc;
use upcall_helpers::sys::keys::operation;

/// One instruction of a filter (`struct sock_filter`, linux/filter.h).
pub(crate) type Instruction = libc::sock_filter;

/// `AUDIT_ARCH_*` of linux/audit.h: a program of another architecture has other numbers.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Every `CLONE_NEW*` but time, which clone(2) cannot make: a helper makes no namespaces.
const NEW_NAMESPACES: u32 = 0x7e02_0000;

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

/// Where `struct seccomp_data` has the number, the architecture and the low half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT: u32 = 16;

/// What becomes of a system call (linux/seccomp.h).
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | 0x01; // EPERM
const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | 0x26; // ENOSYS
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// The filter. What is allowed is a bit per number, and the word with a number's bit is found by halving: short, because
/// the kernel compiles it anew for every helper. One comparison per number cost each of them 0.7 ms.
///
/// `keys`: for helpers that answer a key, who may do with keyctl(2) what that takes, and no more: nothing that finds,
/// links or makes another key.
///
/// # Errors
/// Does not fail with this list.
pub(crate) fn filter(keys: bool) -> Result<Vec<Instruction>, Errno> {
    // The number's bit within its word, for the end. It comes first because it ends the kernel's trying out of every
    // number when a filter is installed: all else here would make a helper wait for that.
    let mut program = vec![
        load(NUMBER),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 31, 0, 0),
        instruction(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        load(ARCHITECTURE),
        jump(libc::BPF_JEQ, ARCH, 1, 0),
        end(KILL),
        load(NUMBER),
    ];
    // clone3(2) has its flags in memory, where no filter sees them. "Not there" makes libc use clone(2) instead.
    case(&mut program, libc::SYS_clone3, &[end(ABSENT)])?;
    let namespaces = jump(libc::BPF_JSET, NEW_NAMESPACES, 0, 1);
    case(
        &mut program,
        libc::SYS_clone,
        &[load(ARGUMENT), namespaces, end(REFUSE), end(ALLOW)],
    )?;
    let vsock = jump(libc::BPF_JEQ, AF_VSOCK, 0, 1);
    case(
        &mut program,
        libc::SYS_socket,
        &[load(ARGUMENT), vsock, end(REFUSE), end(ALLOW)],
    )?;
    let mut personality = vec![load(ARGUMENT)];
    for value in PERSONALITIES {
        personality.extend([jump(libc::BPF_JEQ, value, 0, 1), end(ALLOW)]);
    }
    personality.push(end(REFUSE));
    case(&mut program, libc::SYS_personality, &personality)?;
    if keys {
        let mut keyctl = vec![load(ARGUMENT)];
        for operation in ANSWERING {
            keyctl.extend([jump(libc::BPF_JEQ, operation, 0, 1), end(ALLOW)]);
        }
        keyctl.push(end(REFUSE));
        case(&mut program, libc::SYS_keyctl, &keyctl)?;
    }

    let words = words(COMMON.iter().chain(LEGACY))?;
    program.push(instruction(
        libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K,
        5,
        0,
        0,
    ));
    let mut search = Vec::new();
    find_word(&mut search, 0, &words)?;
    // Each leaf of the search goes on behind the last one, with its word loaded.
    let length = search.len();
    for (place, instruction) in search.iter_mut().enumerate() {
        if u32::from(instruction.code) == libc::BPF_JMP | libc::BPF_JA {
            instruction.k = u32::try_from(length - place - 1).map_err(|_| Errno::E2BIG)?;
        }
    }
    program.append(&mut search);
    program.extend([
        instruction(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_X, 0, 0, 0),
        jump(libc::BPF_JSET, 1, 1, 0),
        end(REFUSE),
        end(ALLOW),
    ]);
    Ok(program)
}

/// A bit for each number, 32 to a word.
fn words<'a>(numbers: impl Iterator<Item = &'a i64> + 'a) -> Result<Vec<u32>, Errno> {
    let mut words = Vec::new();
    for number in numbers {
        let number = usize::try_from(*number).map_err(|_| Errno::EINVAL)?;
        if words.len() <= number / 32 {
            words.resize(number / 32 + 1, 0);
        }
        if let Some(word) = words.get_mut(number / 32) {
            *word |= 1 << (number % 32);
        }
    }
    Ok(words)
}

/// Code that loads the word whose place, `first` and up, is in the accumulator; a place behind the last has none.
fn find_word(program: &mut Vec<Instruction>, first: u32, words: &[u32]) -> Result<(), Errno> {
    match words {
        [] => program.push(end(REFUSE)),
        [word] => program.extend([
            jump(libc::BPF_JEQ, first, 1, 0),
            end(REFUSE),
            instruction(libc::BPF_LD | libc::BPF_IMM, *word, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, 0),
        ]),
        _ => {
            let (low, high) = words.split_at(words.len() / 2);
            let middle = first + u32::try_from(low.len()).map_err(|_| Errno::E2BIG)?;
            let mut below = Vec::new();
            find_word(&mut below, first, low)?;
            program.push(jump(libc::BPF_JGE, middle, distance(below.len())?, 0));
            program.append(&mut below);
            find_word(program, middle, high)?;
        }
    }
    Ok(())
}

/// Code for one number that is more than allowed or refused.
fn case(program: &mut Vec<Instruction>, number: i64, code: &[Instruction]) -> Result<(), Errno> {
    let number = u32::try_from(number).map_err(|_| Errno::EINVAL)?;
    program.push(jump(libc::BPF_JEQ, number, 0, distance(code.len())?));
    program.extend_from_slice(code);
    Ok(())
}

/// A jump forward reaches 255 instructions.
fn distance(length: usize) -> Result<u8, Errno> {
    u8::try_from(length).map_err(|_| Errno::E2BIG)
}

fn load(offset: u32) -> Instruction {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn jump(condition: u32, value: u32, yes: u8, no: u8) -> Instruction {
    instruction(libc::BPF_JMP | condition | libc::BPF_K, value, yes, no)
}

fn end(action: u32) -> Instruction {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> Instruction {
    // All codes have 16 bits.
    Instruction {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    }
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
    use super::*;

    /// Runs the filter as the kernel would (the instructions it is made of).
    fn run(program: &[Instruction], number: u32, arch: u32, argument: u32) -> u32 {
        let (mut place, mut value, mut index) = (0, 0, 0);
        loop {
            let now = program[place];
            place += 1;
            let code = u32::from(now.code);
            match code & 7 {
                libc::BPF_LD if code & libc::BPF_ABS == 0 => value = now.k,
                libc::BPF_LD => {
                    value = match now.k {
                        NUMBER => number,
                        ARCHITECTURE => arch,
                        ARGUMENT => argument,
                        other => panic!("load {other}"),
                    }
                }
                libc::BPF_RET => return now.k,
                libc::BPF_MISC => index = value,
                libc::BPF_ALU => {
                    let operand = if code & libc::BPF_X == 0 {
                        now.k
                    } else {
                        index
                    };
                    value = match code & 0xf0 {
                        libc::BPF_AND => value & operand,
                        libc::BPF_RSH => value >> operand,
                        other => panic!("operation {other:x}"),
                    };
                }
                libc::BPF_JMP => {
                    let holds = match code & 0xf0 {
                        libc::BPF_JA => {
                            place += usize::try_from(now.k).unwrap();
                            continue;
                        }
                        libc::BPF_JEQ => value == now.k,
                        libc::BPF_JGE => value >= now.k,
                        libc::BPF_JSET => value & now.k != 0,
                        other => panic!("jump {other:x}"),
                    };
                    place += usize::from(if holds { now.jt } else { now.jf });
                }
                other => panic!("class {other}"),
            }
        }
    }

    fn on(number: i64, argument: u32) -> u32 {
        run(
            &filter(false).unwrap(),
            u32::try_from(number).unwrap(),
            ARCH,
            argument,
        )
    }

    #[test]
    fn who_answers_a_key_may_do_that_and_nothing_else_with_keys() {
        let program = filter(true).unwrap();
        let keyctl = |operation| {
            run(
                &program,
                u32::try_from(libc::SYS_keyctl).unwrap(),
                ARCH,
                operation,
            )
        };
        for operation in 0..64 {
            let wanted = if ANSWERING.contains(&operation) {
                ALLOW
            } else {
                REFUSE
            };
            assert_eq!(keyctl(operation), wanted, "{operation}");
        }
        for other in [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_mount] {
            let result = run(&program, u32::try_from(other).unwrap(), ARCH, 0);
            assert_eq!(result, REFUSE, "{other}");
        }
    }

    #[test]
    fn exactly_what_is_listed_is_allowed() {
        let listed: Vec<u32> = COMMON
            .iter()
            .chain(LEGACY)
            .map(|number| u32::try_from(*number).unwrap())
            .collect();
        let special = [
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_socket,
            libc::SYS_personality,
        ];
        let program = filter(false).unwrap();
        for number in (0..1024).chain([u32::MAX, 0x4000_0000, 0x4000_0001]) {
            if special.contains(&i64::from(number)) {
                continue;
            }
            let expected = if listed.contains(&number) {
                ALLOW
            } else {
                REFUSE
            };
            assert_eq!(
                run(&program, number, ARCH, 0),
                expected,
                "system call {number}"
            );
        }
        assert_eq!(
            run(&program, 0, 0x4000_0003, 0),
            KILL,
            "a 32-bit program's numbers are others"
        );
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
