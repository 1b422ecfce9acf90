//! The descriptors beside a launch.

use super::field::DecodeError;

/// The field of a launch that names them.
pub(super) const FDS: u16 = 3;

/// What one descriptor beside a launch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FdRole {
    /// Pidfd of the container's leader.
    Leader,
    /// Directory, in cgroup2, in which the helper's own cgroup is made.
    Cgroup,
    /// Root of one cgroup v1 hierarchy that the helper joins; occurs once per hierarchy.
    CgroupV1,
    /// `freezer.state` of the cgroup v1 freezer among them.
    FreezerV1,
    /// What the helper reads: the kernel's pipe, or the storing worker's.
    Stdin,
    /// The kernel's pipe, where the helper is fed by somebody else: held, not read, while the helper runs.
    Hold,
    /// The claim's eventfd: its token is taken before the first byte is read.
    Claim,
    /// Directory, in the cgroup v1 hierarchy of the memory controller, in which a cgroup that limits the helper's
    /// memory is made; where there is none, cgroup2 has that controller.
    MemoryV1,
    /// A program that says which devices may be used, for the helper's own cgroup (bpf(2), `BPF_CGROUP_DEVICE`).
    Devices,
    /// Pidfd of the process that crashed, where the helper is to find itself as that one did.
    Origin,
    /// The open record, append only.
    Record,
    /// The program, where it is executed by descriptor.
    Program,
    /// [`super::launch::Exec`] only: becomes this descriptor number, at most 15, of the program.
    Number(u8),
}

impl FdRole {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Leader => 1,
            Self::Cgroup => 2,
            Self::CgroupV1 => 3,
            Self::Stdin => 4,
            Self::Claim => 5,
            Self::Record => 6,
            Self::Program => 7,
            Self::Hold => 8,
            Self::FreezerV1 => 9,
            Self::MemoryV1 => 10,
            Self::Devices => 11,
            Self::Origin => 12,
            Self::Number(number) => 128 | (number & 15),
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Leader),
            2 => Some(Self::Cgroup),
            3 => Some(Self::CgroupV1),
            4 => Some(Self::Stdin),
            5 => Some(Self::Claim),
            6 => Some(Self::Record),
            7 => Some(Self::Program),
            8 => Some(Self::Hold),
            9 => Some(Self::FreezerV1),
            10 => Some(Self::MemoryV1),
            11 => Some(Self::Devices),
            12 => Some(Self::Origin),
            128..=143 => Some(Self::Number(code & 15)),
            _ => None,
        }
    }
}

/// The roles that a record names.
pub(super) fn decode(codes: &[u8]) -> Result<Vec<FdRole>, DecodeError> {
    let mut roles = Vec::with_capacity(codes.len());
    for &code in codes {
        let role = FdRole::from_code(code).ok_or(DecodeError::Value(FDS))?;
        if role != FdRole::CgroupV1 && roles.contains(&role) {
            return Err(DecodeError::Value(FDS));
        }
        roles.push(role);
    }
    Ok(roles)
}
