//! System calls and ioctls that nix does not wrap, each as one safe function. The crate's only unsafe.

#![expect(
    unsafe_code,
    reason = "the crate's system calls; every other module is without"
)]

mod abi;

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

use upcall_helpers::wire::WaitStatus;

use abi::{BpfLoad, PidfdCoreInfo, PidfdInfo};

/// Every request of ioctl(2) that the daemon makes.
pub const REQUESTS: [libc::Ioctl; 15] = [
    libc::PIDFD_GET_USER_NAMESPACE,
    libc::PIDFD_GET_MNT_NAMESPACE,
    libc::PIDFD_GET_PID_NAMESPACE,
    libc::PIDFD_GET_NET_NAMESPACE,
    libc::PIDFD_GET_IPC_NAMESPACE,
    libc::PIDFD_GET_UTS_NAMESPACE,
    libc::PIDFD_GET_CGROUP_NAMESPACE,
    libc::PIDFD_GET_TIME_NAMESPACE,
    libc::NS_GET_USERNS,
    libc::NS_GET_PARENT,
    libc::NS_GET_OWNER_UID,
    libc::NS_GET_TGID_FROM_PIDNS,
    libc::PIDFD_GET_INFO,
    CORE_INFO,
    libc::FIONBIO, // std's sockets that do not block
];

/// `PIDFD_GET_INFO` with room for a core dump.
const CORE_INFO: libc::Ioctl =
    nix::request_code_readwrite!(0xff, 11, size_of::<PidfdCoreInfo>()) as libc::Ioctl;

/// What `PIDFD_GET_INFO` (6.13) says about a process that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Thread-group id in the caller's pid namespace.
    pub pid: u32,
    /// Id of its cgroup2 cgroup; on hosts with cgroup v1 often the root's.
    pub cgroup: u64,
}

/// `ioctl(pidfd, PIDFD_GET_INFO)`, linux/pidfd.h.
///
/// # Errors
/// `ENOTTY` or `EINVAL` on a kernel without it; `ESRCH` for a process that was reaped; `EREMOTE` for one outside the
/// caller's pid namespace.
pub fn pidfd_info(pidfd: BorrowedFd<'_>) -> Result<ProcessInfo, Errno> {
    let mut info = PidfdInfo {
        mask: abi::PIDFD_INFO_PID | abi::PIDFD_INFO_CGROUPID,
        ..PidfdInfo::default()
    };
    // SAFETY: the request's number carries the size of PidfdInfo, and the kernel reads and writes at most that much
    // of the one that lives here.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    Errno::result(result)?;
    if info.mask & abi::PIDFD_INFO_PID == 0 {
        return Err(Errno::ESRCH);
    }
    Ok(ProcessInfo {
        pid: info.tgid,
        cgroup: info.cgroupid,
    })
}

/// How a process ended, `PIDFD_INFO_EXIT` of 6.15.
///
/// # Errors
/// `EAGAIN` where it was not reaped yet; `ENOTTY` or `EINVAL` on a kernel without it.
pub fn pidfd_exit(pidfd: BorrowedFd<'_>) -> Result<WaitStatus, Errno> {
    let mut info = PidfdInfo {
        mask: abi::PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: as in pidfd_info.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    Errno::result(result)?;
    if info.mask & abi::PIDFD_INFO_EXIT == 0 {
        return Err(Errno::EAGAIN);
    }
    let [low, high, ..] = info.exit_code.to_le_bytes();
    Ok(match low & 0x7f {
        0 => WaitStatus::Exited(high),
        signal => WaitStatus::Signaled(signal),
    })
}

/// What `PIDFD_GET_INFO` (6.16) says about a process's core dump, also when the process is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreInfo {
    /// Whether it dumps, or has dumped, to a program or a socket.
    pub dumped: bool,
    /// As whose the kernel dumps it, as core(5)'s `%d`: 1 a user's, 2 root's alone; `None` before it dumps.
    pub dumpable: Option<u8>,
    /// The signal; `None` before 6.19.
    pub signal: Option<u32>,
}

/// `ioctl(pidfd, PIDFD_GET_INFO)` for a core dump, linux/pidfd.h.
///
/// # Errors
/// As [`pidfd_info`], but for `ESRCH`; `ENOTTY` also on a kernel that knows no core dumps by pidfd.
pub fn pidfd_core_info(pidfd: BorrowedFd<'_>) -> Result<CoreInfo, Errno> {
    let mut info = PidfdCoreInfo::default();
    // Asked how it ended, the kernel answers also for a process that was reaped.
    info.info.mask =
        abi::PIDFD_INFO_COREDUMP | abi::PIDFD_INFO_COREDUMP_SIGNAL | abi::PIDFD_INFO_EXIT;
    // SAFETY: the request's number carries the size of PidfdCoreInfo, and the kernel reads and writes at most that much
    // of the one that lives here.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), CORE_INFO, &raw mut info) };
    Errno::result(result)?;
    let given = info.info.mask;
    if given & abi::PIDFD_INFO_COREDUMP == 0 {
        return Err(Errno::ENOTTY);
    }
    let dumpable = match info.coredump {
        mask if mask & abi::PIDFD_COREDUMP_ROOT != 0 => Some(2),
        mask if mask & abi::PIDFD_COREDUMP_USER != 0 => Some(1),
        _ => None,
    };
    Ok(CoreInfo {
        dumped: info.coredump & abi::PIDFD_COREDUMPED != 0,
        dumpable,
        signal: Some(info.signal).filter(|_| given & abi::PIDFD_INFO_COREDUMP_SIGNAL != 0),
    })
}

/// An ioctl without an argument that returns a new descriptor: `PIDFD_GET_*_NAMESPACE` (6.11) and `NS_GET_USERNS`,
/// `NS_GET_PARENT` (4.9). The kernel opens them close-on-exec.
///
/// # Errors
/// `ENOTTY` on a kernel without it, `ESRCH` for a process that is gone, `EPERM` beyond the caller's own namespaces.
pub fn namespace_ioctl(fd: BorrowedFd<'_>, request: NamespaceRequest) -> Result<OwnedFd, Errno> {
    // SAFETY: these requests take the number 0 and no pointer.
    own(Errno::result(unsafe {
        libc::ioctl(fd.as_raw_fd(), request.number(), 0)
    })?)
}

/// Which descriptor [`namespace_ioctl`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceRequest {
    /// Of a pidfd: the process's namespace at this place of [`upcall_helpers::wire::NAMESPACES`].
    OfProcess(usize),
    /// Of a namespace: the user namespace that owns it.
    Owner,
    /// Of a user or pid namespace: the one above it.
    Parent,
}

impl NamespaceRequest {
    fn number(self) -> libc::Ioctl {
        const OF_PROCESS: [libc::Ioctl; 8] = [
            libc::PIDFD_GET_USER_NAMESPACE,
            libc::PIDFD_GET_MNT_NAMESPACE,
            libc::PIDFD_GET_PID_NAMESPACE,
            libc::PIDFD_GET_NET_NAMESPACE,
            libc::PIDFD_GET_IPC_NAMESPACE,
            libc::PIDFD_GET_UTS_NAMESPACE,
            libc::PIDFD_GET_CGROUP_NAMESPACE,
            libc::PIDFD_GET_TIME_NAMESPACE,
        ];
        match self {
            // Out of range asks for what no kernel knows, and gets ENOTTY.
            Self::OfProcess(place) => OF_PROCESS.get(place).copied().unwrap_or(0),
            Self::Owner => libc::NS_GET_USERNS,
            Self::Parent => libc::NS_GET_PARENT,
        }
    }
}

/// The uid, in the caller's user namespace, of whoever made a user namespace (`NS_GET_OWNER_UID`, 4.11).
///
/// # Errors
/// `EINVAL` for a namespace of another kind.
pub fn namespace_owner_uid(namespace: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the request writes one uid_t to the one that lives here.
    let result =
        unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_OWNER_UID, &raw mut uid) };
    Errno::result(result).map(|_| uid)
}

/// The pid, in the caller's pid namespace, of the process that is `pid` in the pid namespace `namespace`
/// (`NS_GET_TGID_FROM_PIDNS`, 6.11).
///
/// # Errors
/// `ENOTTY` on a kernel without it; `ESRCH` where there is no such process.
pub fn pid_from_namespace(namespace: BorrowedFd<'_>, pid: i32) -> Result<u32, Errno> {
    // SAFETY: this request takes a number and no pointer.
    let pid = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_TGID_FROM_PIDNS, pid) };
    u32::try_from(Errno::result(pid)?).map_err(|_| Errno::EOVERFLOW)
}

/// A mount of a file system that is attached nowhere, so no mount table changes: fsopen(2), fsconfig(2), fsmount(2),
/// 5.2. `options` are `name` or `name=value`.
///
/// # Errors
/// The first call that failed; `EBUSY` for a cgroup v1 hierarchy with these controllers that cannot be had.
pub fn detached_mount(kind: &CStr, options: &[(&CStr, Option<&CStr>)]) -> Result<OwnedFd, Errno> {
    let context = open_file_system(kind)?;
    for (name, value) in options {
        let command = if value.is_some() {
            abi::FSCONFIG_SET_STRING
        } else {
            abi::FSCONFIG_SET_FLAG
        };
        configure(&context, command, Some(name), *value)?;
    }
    configure(&context, abi::FSCONFIG_CMD_CREATE, None, None)?;
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    // SAFETY: fsmount takes a descriptor and two numbers.
    let mount = unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes,
        )
    };
    own(i32::try_from(Errno::result(mount)?).map_err(|_| Errno::EBADF)?)
}

/// A file system of this kind that is not made yet: fsopen(2), 5.2.
///
/// # Errors
/// As fsopen(2): `ENODEV` for a kind that the kernel has no module of either.
pub fn open_file_system(kind: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: fsopen reads one terminated string.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) };
    own(i32::try_from(Errno::result(context)?).map_err(|_| Errno::EBADF)?)
}

fn configure(
    context: &OwnedFd,
    command: u32,
    name: Option<&CStr>,
    value: Option<&CStr>,
) -> Result<(), Errno> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    let (fd, name, value) = (context.as_raw_fd(), pointer(name), pointer(value));
    // SAFETY: fsconfig reads two terminated strings, or null where the command takes none; the borrows outlive it.
    Errno::result(unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, name, value, 0) })
        .map(drop)
}

/// One instruction of eBPF (`struct bpf_insn`, linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct BpfInstruction {
    /// What it does.
    pub operation: u8,
    /// The register that it changes, and in the high half the one that it reads.
    pub registers: u8,
    /// Where in memory, or how far it jumps.
    pub offset: i16,
    /// A number.
    pub number: i32,
}

/// Loads a program that says which devices may be used (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`, 4.15).
///
/// # Errors
/// As bpf(2): `EINVAL` where the kernel does not take it, `EPERM` without `CAP_BPF`.
pub fn load_device_program(program: &[BpfInstruction]) -> Result<OwnedFd, Errno> {
    let load = BpfLoad {
        kind: abi::BPF_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: c"".as_ptr() as u64,
        ..BpfLoad::default()
    };
    let (command, size) = (abi::BPF_PROG_LOAD, size_of::<BpfLoad>());
    // SAFETY: bpf reads the given number of bytes of `load`, as many instructions behind its pointer as it says, and a
    // terminated string; all three live here, and without a log it writes to none of them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const load, size) };
    own(i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?)
}

/// A socket to the kernel's connector (linux/connector.h), close-on-exec, not blocking.
///
/// # Errors
/// As socket(2); `EPROTONOSUPPORT` on a kernel without it.
pub fn connector_socket() -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes three numbers.
    own(Errno::result(unsafe {
        libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_CONNECTOR)
    })?)
}

/// Puts a filter before a socket (`SO_ATTACH_FILTER`, socket(7)): what it drops wakes nobody.
///
/// # Errors
/// As setsockopt(2); `EINVAL` for a program that the kernel does not take.
pub fn attach_filter(socket: &OwnedFd, filter: &[libc::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let length = libc::socklen_t::try_from(size_of_val(&program)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads one sock_fprog of the length given, and through it `len` instructions of the slice it
    // points to, both of which outlive the call; it writes neither.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
}

/// Registers a descriptor that does not block with the event loop.
///
/// # Errors
/// As epoll_ctl(2).
pub fn watch(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: register wants the descriptor to stay open and the same for as long as the AsyncFd lives; it owns it
    // now, an OwnedFd's number never changes, and nothing hands out the right to close it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Makes a descriptor that a call just returned ours.
fn own(fd: RawFd) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: from_raw_fd wants an open descriptor without another owner; the callers pass what a successful call
    // that makes new descriptors returned, once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives this process only the processor time that nobody else wants (sched(7), `SCHED_IDLE`).
///
/// # Errors
/// As sched_setscheduler(2).
pub fn be_idle() -> Result<(), Errno> {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: sched_setscheduler reads one sched_param, which lives here; 0 is the calling thread.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) })
        .map(drop)
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC` (5.11): descriptors from `first` up are closed by the next execve(2).
///
/// # Errors
/// As close_range(2).
pub fn close_on_exec(first: u32) -> Result<(), Errno> {
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: close_range takes three numbers, and with this flag closes nothing now.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flag) }).map(drop)
}
