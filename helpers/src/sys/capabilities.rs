//! Capabilities (capabilities(7)).

use nix::errno::Errno;

use super::prctl;

/// capset(2) of this thread: exactly these capabilities permitted and effective, none inheritable.
///
/// # Errors
/// As capset(2); `EPERM` for one that is not permitted now.
pub fn set_capabilities(mask: u64) -> Result<(), Errno> {
    let header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let [low, high] = halves(mask);
    let data = [
        CapData {
            effective: low,
            permitted: low,
            inheritable: 0,
        },
        CapData {
            effective: high,
            permitted: high,
            inheritable: 0,
        },
    ];
    // SAFETY: capset reads a header and, for version 3, two data blocks (capset(2)); all three live here.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(result).map(drop)
}

/// capget(2) of this thread: effective, permitted, inheritable.
///
/// # Errors
/// As capget(2).
pub fn capabilities() -> Result<[u64; 3], Errno> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: capget reads and may correct the header and writes, for version 3, two data blocks; all live here.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(result)?;
    let [low, high] = data;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok([
        join(low.effective, high.effective),
        join(low.permitted, high.permitted),
        join(low.inheritable, high.inheritable),
    ])
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct` of linux/capability.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn halves(mask: u64) -> [u32; 2] {
    [mask & 0xffff_ffff, mask >> 32].map(|half| u32::try_from(half).unwrap_or(0))
}

/// Takes from the bounding set all capabilities that are not in `keep` (prctl(2), `PR_CAPBSET_DROP`), and empties the
/// ambient set.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn limit_bounding_set(keep: u64) -> Result<(), Errno> {
    for capability in 0..64 {
        if keep >> capability & 1 == 1 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, capability, 0, 0) {
            Ok(_) => {}
            Err(Errno::EINVAL) => break, // past the kernel's last capability
            Err(error) => return Err(error),
        }
    }
    let clear = u64::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs());
    prctl(libc::PR_CAP_AMBIENT, clear, 0, 0).map(drop)
}
