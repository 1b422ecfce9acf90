use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{chroot, execv, getpid};
use upcall_helpers::seccomp::verdict;
use upcall_helpers::sys as calls;

use super::*;
use crate::linux::sys::connector_socket;

/// `SECCOMP_RET_ACTION_FULL` of linux/seccomp.h; it is compared with its sign.
const ACTION: i32 = 0xffff_0000_u32.cast_signed();

/// Set in the process that has the filter: what becomes of what is not listed.
const INSIDE: &str = "UPCALLD_TEST_CALLS";

/// Starts this very test again, told so.
#[expect(
    clippy::disallowed_methods,
    reason = "this very test is started again, with the filter"
)]
fn again(name: &str, inside: &str) -> Output {
    let name = format!("daemon::armour::calls::tests::{name}");
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--test-threads=1", "--nocapture"])
        .env(INSIDE, inside)
        .output()
        .unwrap()
}

fn put_on(unlisted: Unlisted) {
    prctl::set_no_new_privs().unwrap();
    limit(unlisted).unwrap();
}

#[test]
fn whoever_takes_the_daemon_over_starts_and_enters_and_reaches_nothing() {
    if std::env::var_os(INSIDE).is_some() {
        put_on(Unlisted::Refused);
        attack();
        // And what it has a use for: a hook that is a link, taken back.
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/x", directory.path().join("link")).unwrap();
        println!("all refused");
        return;
    }
    let output = again(
        "whoever_takes_the_daemon_over_starts_and_enters_and_reaches_nothing",
        "refused",
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("all refused"), "{said} {output:?}");
}

/// What takes over a container's host, each as the crate at hand does it.
fn attack() {
    const NO: Option<i32> = Some(libc::EPERM);
    let os = |error: std::io::Error| error.raw_os_error();
    let none = Option::<&str>::None;

    // A program, and another process.
    assert_eq!(execv(c"/bin/true", &[c"true"]), Err(Errno::EPERM));
    #[expect(clippy::disallowed_methods, reason = "nothing is to come of it")]
    let started = Command::new("/bin/true").spawn();
    assert_eq!(started.err().and_then(os), NO);
    assert_eq!(calls::fork(0, None).err(), Some(Errno::ENOSYS));
    // Namespaces, roots, mounts.
    let own = std::fs::File::open("/proc/self/ns/mnt").unwrap();
    assert_eq!(
        setns(own.as_fd(), CloneFlags::CLONE_NEWNS),
        Err(Errno::EPERM)
    );
    assert_eq!(unshare(CloneFlags::CLONE_NEWNS), Err(Errno::EPERM));
    assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
    assert_eq!(chroot("/"), Err(Errno::EPERM));
    let mounted = mount(Some("none"), "/tmp", Some("tmpfs"), MsFlags::empty(), none);
    assert_eq!(mounted, Err(Errno::EPERM));
    // Another process's memory, descriptors and life; our own for others.
    assert_eq!(ptrace::attach(getpid()), Err(Errno::EPERM));
    assert_eq!(ptrace::traceme(), Err(Errno::EPERM));
    let pidfd = calls::pidfd_open(std::process::id()).unwrap();
    assert_eq!(
        calls::pidfd_getfd(pidfd.as_fd(), 0).err(),
        Some(Errno::EPERM)
    );
    assert_eq!(kill(getpid(), None), Err(Errno::EPERM));
    let end = calls::pidfd_send_signal(pidfd.as_fd(), Signal::SIGTERM as i32);
    assert_eq!(end, Err(Errno::EPERM));
    assert_eq!(prctl::set_dumpable(true), Err(Errno::EPERM));
    // More rights, the kernel's keys, the network.
    assert_eq!(calls::set_capabilities(u64::MAX), Err(Errno::EPERM));
    assert_eq!(calls::new_session_keyring(), Err(Errno::EPERM));
    assert_eq!(UdpSocket::bind("127.0.0.1:0").err().and_then(os), NO);
    assert_eq!(TcpListener::bind("[::1]:0").err().and_then(os), NO);

    // And what it lives by goes on.
    assert_eq!(calls::pidfd_send_signal(pidfd.as_fd(), 0), Ok(()));
    std::thread::Builder::new()
        .name("another".to_owned())
        .spawn(|| ())
        .unwrap()
        .join()
        .unwrap();
    UnixDatagram::unbound().unwrap();
    assert!(!matches!(connector_socket(), Err(Errno::EPERM)));
}

#[test]
fn a_daemon_that_shall_end_does() {
    if std::env::var_os(INSIDE).is_some() {
        put_on(Unlisted::Kills);
        let _ = execv(c"/bin/true", &[c"true"]);
        return;
    }
    let output = again("a_daemon_that_shall_end_does", "kills");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

/// What containers were escaped from with, and hosts taken over.
const NEVER: [i64; 36] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_setresuid,
    libc::SYS_capset,
    libc::SYS_prlimit64,
    libc::SYS_kill,
    libc::SYS_mknodat,
    libc::SYS_setxattr,
    libc::SYS_swapon,
    libc::SYS_bpf,
];

#[test]
fn what_a_root_process_is_robbed_of_first_is_not_on_the_list() {
    for (unlisted, no) in [(Unlisted::Refused, REFUSE), (Unlisted::Kills, KILL)] {
        let programs = [absent().unwrap(), listed(unlisted, 77).unwrap()];
        // Of several filters the kernel does what the least agreeable one says (seccomp(2)).
        let on = |number, arguments: &[u32]| {
            let each = programs.iter().map(|one| verdict(one, number, arguments));
            each.min_by_key(|action| action.unwrap().cast_signed() & ACTION)
                .flatten()
                .unwrap()
        };
        for number in NEVER {
            assert_eq!(on(number, &[]), no, "system call {number}");
        }
        // A thread, and neither a process nor a thread in other namespaces.
        assert_eq!(on(libc::SYS_clone, &[0x003d_0f00]), ALLOW);
        for flags in [0, 0x11, 0x4111, 0x203d_0f00, 0x003f_0f00, 0x1000_0011] {
            assert_eq!(on(libc::SYS_clone, &[flags]), no, "{flags:x}");
        }
        assert_eq!(on(libc::SYS_clone3, &[]), ABSENT);
        // Data, and no code.
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(on(number, &[0, 0, 3]), ALLOW);
            assert_eq!(on(number, &[0, 0, 5]), no);
            assert_eq!(on(number, &[0, 0, 4]), no);
        }
        // Local sockets and the kernel's events.
        for (socket, expected) in [
            ([1, 0x80801, 0], ALLOW),
            ([16, 0x80802, 11], ALLOW),
            ([16, 3, 0], no),
            ([16, 3, 12], no),
            ([2, 1, 0], no),
            ([10, 1, 0], no),
            ([17, 3, 0], no),
            ([40, 1, 0], no),
        ] {
            assert_eq!(on(libc::SYS_socket, &socket), expected, "{socket:?}");
        }
        assert_eq!(on(libc::SYS_setsockopt, &[9, 1, 26]), ALLOW);
        assert_eq!(on(libc::SYS_setsockopt, &[9, 0, 64]), no);
        for request in REQUESTS {
            assert_eq!(on(libc::SYS_ioctl, &[9, seccomp::low(request)]), ALLOW);
        }
        assert_eq!(on(libc::SYS_ioctl, &[0, 0x5412]), no, "TIOCSTI");
        assert_eq!(on(libc::SYS_prctl, &[15]), ALLOW);
        assert_eq!(on(libc::SYS_prctl, &[4, 1]), no, "PR_SET_DUMPABLE");
        assert_eq!(on(libc::SYS_bpf, &[5]), ALLOW);
        assert_eq!(on(libc::SYS_pidfd_send_signal, &[3, 0]), ALLOW);
        assert_eq!(on(libc::SYS_pidfd_send_signal, &[3, 9]), no);
        assert_eq!(on(libc::SYS_tgkill, &[77, 78, 6]), ALLOW);
        assert_eq!(on(libc::SYS_tgkill, &[1, 1, 9]), no);
        // What a later kernel has: libc does without it.
        for later in [470, 999, 0x4000_0000, 0x4000_003b, u32::MAX] {
            assert_eq!(on(i64::from(later), &[]), ABSENT, "{later}");
        }
    }
}
