//! What a process gives up before it looks at a tenant's bytes: rights, files, network, processor time, memory.
//!
//! For processes of the admin's command that read cores. What remains is reading what is open, memory to a limit, and
//! writing an answer into a pipe.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid};
use upcall_helpers::seccomp::{self, ALLOW, Filter, Instruction, REFUSE, X32};
use upcall_helpers::sys as calls;

use super::sys;

/// `nobody`, and `nogroup`: the kernel's overflow ids.
const NOBODY: u32 = 65_534;

/// The limits: memory, processor seconds, files.
const ADDRESS_SPACE: u64 = 1 << 30;
const SECONDS: u64 = 60;
const FILES: u64 = 256;

/// Reading, answering, memory, and the end; and of a socket only messages over one that is open.
const READING: [i64; 30] = [
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_lseek,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_ppoll,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit_group,
];

/// What a confined process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Reads what it was given.
    Read,
    /// Opens files for one that reads.
    Open,
}

/// Why a process is not confined; it must end then.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {errno}")]
pub struct ConfineError {
    /// What failed.
    pub step: &'static str,
    /// How.
    pub errno: Errno,
}

/// Confines this process, which has one thread, for ever. Started as root it becomes nobody; started as anybody else
/// it stays that user, and can do with it no more than read what is open.
///
/// # Errors
/// The first step that failed.
pub fn confine(work: Work) -> Result<(), ConfineError> {
    let step = |step| move |errno| ConfineError { step, errno };
    prctl::set_dumpable(false).map_err(step("dumpable"))?;
    // What whoever started the command had open is not for a tenant's bytes.
    calls::close_range(3, u32::MAX).map_err(step("descriptors"))?;
    sys::be_idle().map_err(step("priority"))?;
    chdir_unless(work).map_err(step("directory"))?;
    for (resource, limit) in [
        (Resource::RLIMIT_AS, ADDRESS_SPACE),
        (Resource::RLIMIT_CPU, SECONDS),
        (Resource::RLIMIT_NOFILE, FILES),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        // The kernel's own mark: no handler is started for such a process (fs/coredump.c).
        (Resource::RLIMIT_CORE, 1),
    ] {
        setrlimit(resource, limit, limit).map_err(step("limits"))?;
    }
    if Uid::effective().is_root() {
        calls::limit_bounding_set(0).map_err(step("bounding set"))?;
        setgroups(&[]).map_err(step("groups"))?;
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setresgid(gid, gid, gid).map_err(step("gid"))?;
        setresuid(uid, uid, uid).map_err(step("uid"))?;
    }
    calls::set_capabilities(0).map_err(step("capabilities"))?;
    prctl::set_no_new_privs().map_err(step("no_new_privs"))?;
    // Changing ids made it dumpable again where fs.suid_dumpable says so.
    prctl::set_dumpable(false).map_err(step("dumpable"))?;
    let filter = filter(work).map_err(step("seccomp"))?;
    calls::filter_system_calls(&filter, 0).map_err(step("seccomp"))
}

/// Who opens files does it from where he was put.
fn chdir_unless(work: Work) -> Result<(), Errno> {
    match work {
        Work::Read => chdir("/"),
        Work::Open => Ok(()),
    }
}

/// What is not listed fails with `EPERM`.
fn filter(work: Work) -> Result<Vec<Instruction>, Errno> {
    let opening = (work == Work::Open).then_some(libc::SYS_openat2);
    Filter::new(REFUSE).allowing(READING.into_iter().chain(opening))
}

/// What this process starts from here on, whoever it becomes, has none of our keys, of our files only `kept`, and types
/// nothing into the terminal that it shares with us: what was typed so would be read by the shell behind us (ioctl_tty(2),
/// `TIOCSTI`; ioctl_console(2), `TIOCLINUX`). Needs `CAP_SYS_ADMIN`, and cannot be undone.
///
/// # Errors
/// The first step that failed.
pub fn confine_children(kept: BorrowedFd<'_>) -> Result<(), ConfineError> {
    let step = |step| move |errno| ConfineError { step, errno };
    match calls::new_session_keyring() {
        Ok(()) | Err(Errno::ENOSYS) => {} // a kernel without keys
        Err(errno) => return Err(step("session keyring")(errno)),
    }
    sys::close_on_exec(3).map_err(step("descriptors"))?;
    fcntl(kept, FcntlArg::F_SETFD(FdFlag::empty())).map_err(step("descriptors"))?;
    let filter = without_typing().map_err(step("seccomp"))?;
    calls::filter_system_calls(&filter, 0).map_err(step("seccomp"))
}

/// All but two requests of ioctl(2), of which the kernel reads 32 bits.
fn without_typing() -> Result<Vec<Instruction>, Errno> {
    // ioctl_tty(2), ioctl_console(2): TIOCSTI, TIOCLINUX
    const TYPING: [u32; 2] = [0x5412, 0x541c];
    let mut filter = Filter::new(ALLOW);
    filter.from(X32, REFUSE);
    let typing = seccomp::unless_one_of(1, &TYPING, REFUSE);
    filter.case(libc::SYS_ioctl, &typing)?;
    filter.allowing([])
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, IntoRawFd};
    use std::process::{Command, Stdio};

    use nix::unistd::close;
    use upcall_helpers::seccomp::verdict;

    use super::*;

    /// Set in the process that is confined.
    const INSIDE: &str = "UPCALLD_TEST_CONFINED";

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "this very test is started again, confined"
    )]
    fn a_confined_process_can_read_what_is_open_and_nothing_else() {
        if std::env::var_os(INSIDE).is_some() {
            inside();
            return;
        }
        let mut test = Command::new(std::env::current_exe().unwrap());
        let name =
            "linux::confine::tests::a_confined_process_can_read_what_is_open_and_nothing_else";
        test.args(["--exact", name, "--test-threads=1", "--nocapture"]);
        let stdin = std::fs::File::open("/etc/passwd").unwrap();
        test.env(INSIDE, "1").stdin(Stdio::from(stdin));
        let output = test.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("confined: all refused"), "{said} {output:?}");
    }

    fn inside() {
        let root = Uid::effective().is_root();
        let status = std::fs::File::open("/proc/thread-self/status").unwrap();
        calls::dup_to(status.as_fd(), 2).unwrap();
        let inherited = status.into_raw_fd();
        let pid = nix::unistd::getpid();
        confine(Work::Read).unwrap();
        assert_eq!(close(inherited), Err(Errno::EBADF));
        let status = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        let mut text = String::new();
        std::fs::File::from(status)
            .read_to_string(&mut text)
            .unwrap();
        let uid = if root {
            "Uid:\t65534\t65534\t65534\t65534"
        } else {
            "Uid:"
        };
        for line in [
            uid,
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let mut bytes = [0; 16];
        std::io::stdin().read_exact(&mut bytes).unwrap();
        let refused = |error: Option<i32>| error == Some(libc::EPERM);
        let os = |error: std::io::Error| error.raw_os_error();
        assert!(refused(
            std::fs::File::open("/etc/passwd").err().and_then(os)
        ));
        assert!(refused(
            std::fs::write("/tmp/upcall-confined", "x")
                .err()
                .and_then(os)
        ));
        assert!(refused(
            std::net::UdpSocket::bind("127.0.0.1:0").err().and_then(os)
        ));
        assert!(refused(
            std::os::unix::net::UnixDatagram::unbound()
                .err()
                .and_then(os)
        ));
        assert_eq!(nix::sys::signal::kill(pid, None), Err(Errno::EPERM));
        assert_eq!(chdir("/tmp"), Err(Errno::EPERM));
        assert_eq!(prctl::set_dumpable(true), Err(Errno::EPERM));
        let mut out = std::io::stdout().lock();
        out.write_all(b"confined: all refused\n").unwrap();
        out.flush().unwrap();
        calls::exit(0);
    }

    #[test]
    fn who_opens_may_open() {
        let allowed = |work, number| verdict(&filter(work).unwrap(), number, &[]) == Some(ALLOW);
        assert!(allowed(Work::Open, libc::SYS_openat2) && !allowed(Work::Read, libc::SYS_openat2));
        for never in [
            libc::SYS_tgkill,
            libc::SYS_openat,
            libc::SYS_execve,
            libc::SYS_socket,
            libc::SYS_clone,
        ] {
            assert!(!allowed(Work::Open, never) && !allowed(Work::Read, never));
        }
    }
}
