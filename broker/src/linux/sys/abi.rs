//! Structures and numbers of the kernel's that are newer than libc's.

/// `struct pidfd_info` of linux/pidfd.h as of 6.13, 64 bytes; later kernels have longer ones and take this.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PidfdInfo {
    pub(super) mask: u64,
    pub(super) cgroupid: u64,
    pub(super) pid: u32,
    pub(super) tgid: u32,
    pub(super) ppid: u32,
    pub(super) ids: [u32; 8],
    pub(super) exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == libc::PIDFD_INFO_SIZE_VER0 as usize);

pub(super) const PIDFD_INFO_PID: u64 = 1;
pub(super) const PIDFD_INFO_CGROUPID: u64 = 1 << 2;

/// The same as of 6.16, 72 bytes; the signal is there from 6.19 on, and before it a hole.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PidfdCoreInfo {
    pub(super) info: PidfdInfo,
    pub(super) coredump: u32,
    pub(super) signal: u32,
}

const _: () = assert!(size_of::<PidfdCoreInfo>() == 72);

pub(super) const PIDFD_INFO_EXIT: u64 = 1 << 3;
pub(super) const PIDFD_INFO_COREDUMP: u64 = 1 << 4;
pub(super) const PIDFD_INFO_COREDUMP_SIGNAL: u64 = 1 << 6;

/// In [`PidfdCoreInfo::coredump`]: it dumps or has dumped; as a user's; as root's alone.
pub(super) const PIDFD_COREDUMPED: u32 = 1;
pub(super) const PIDFD_COREDUMP_USER: u32 = 1 << 2;
pub(super) const PIDFD_COREDUMP_ROOT: u32 = 1 << 3;

/// What bpf(2) takes to load a program (`union bpf_attr` of linux/bpf.h, as of 4.15).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BpfLoad {
    pub(super) kind: u32,
    pub(super) count: u32,
    pub(super) instructions: u64,
    pub(super) license: u64,
    pub(super) log: [u64; 2],
    pub(super) version: u32,
    pub(super) flags: u32,
}

const _: () = assert!(size_of::<BpfLoad>() == 48);

/// bpf(2)'s command, and `BPF_PROG_TYPE_CGROUP_DEVICE`.
pub(super) const BPF_PROG_LOAD: u32 = 5;
pub(super) const BPF_CGROUP_DEVICE: u32 = 15;

/// `enum fsconfig_command` of linux/mount.h.
pub(super) const FSCONFIG_SET_FLAG: u32 = 0;
pub(super) const FSCONFIG_SET_STRING: u32 = 1;
pub(super) const FSCONFIG_CMD_CREATE: u32 = 6;
