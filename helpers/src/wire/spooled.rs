//! What the shim writes beside a core that the daemon did not take: the kernel's words, why, and what /proc said about
//! the process while it dumped. A [`super::Report`] of [`super::Event::Stored`] behind it says how the core ended; without
//! one the shim itself was ended.
//!
//! What /proc said is kept as it was read: the daemon has the readers for it.

use super::field::{DecodeError, EncodeError, MessageKind, Reader, Writer, once, record_length};
use super::id::ID_LENGTH;
use super::request::{WORD_MAX, WORDS_MAX};

const ID: u16 = 1;
const ARGV: u16 = 2;
const STARTED: u16 = 3;
const TIME: u16 = 4;
const WHY: u16 = 5;
const BOOT: u16 = 6;
const PROVEN: u16 = 7;
const STAT: u16 = 8;
const STATUS: u16 = 9;
const CGROUP: u16 = 10;
const EXE: u16 = 11;
const NAMESPACES: u16 = 12;

/// The longest file of /proc that is kept, in bytes; a longer one is left out.
pub const PROC_FILE_MAX: usize = 16 * 1024;

/// Why the daemon did not take a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nobody listened.
    Absent,
    /// The answer did not come before the deadline.
    Late,
    /// It was left to the shim.
    HandedBack,
}

impl Why {
    const ALL: [Self; 3] = [Self::Absent, Self::Late, Self::HandedBack];

    fn code(self) -> u8 {
        match self {
            Self::Absent => 1,
            Self::Late => 2,
            Self::HandedBack => 3,
        }
    }
}

/// One core in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// The upcall's id.
    pub id: [u8; ID_LENGTH],
    /// The kernel's words, as in a request.
    pub argv: Vec<Vec<u8>>,
    /// When the shim started, nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
    /// When the shim started, microseconds since the epoch.
    pub time: u64,
    /// Why it is here.
    pub why: Why,
    /// /proc/sys/kernel/random/boot_id: what is said of namespaces and processes holds for this boot.
    pub boot: Vec<u8>,
    /// What /proc said.
    pub process: Seen,
}

/// What /proc said about the process. Empty is what could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The kernel's pidfd says that it was alive after the last of these was read.
    pub proven: bool,
    /// /proc/PID/stat.
    pub stat: Vec<u8>,
    /// /proc/PID/status.
    pub status: Vec<u8>,
    /// /proc/PID/cgroup.
    pub cgroup: Vec<u8>,
    /// What /proc/PID/exe links to.
    pub exe: Vec<u8>,
    /// The inodes of its namespaces in the order of [`super::NAMESPACES`]; 0 for one that is not known.
    pub namespaces: [u64; 8],
}

impl Spooled {
    /// The record.
    ///
    /// # Errors
    /// Something is longer than the kernel can make it.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let process = &self.process;
        let namespaces: Vec<u8> = process
            .namespaces
            .iter()
            .flat_map(|inode| inode.to_le_bytes())
            .collect();
        Writer::new(MessageKind::Spooled)
            .bytes(ID, &self.id, ID_LENGTH)
            .list(ARGV, &self.argv, WORDS_MAX, WORD_MAX)
            .u64(STARTED, self.started)
            .u64(TIME, self.time)
            .u8(WHY, self.why.code())
            .bytes(BOOT, &self.boot, 64)
            .u8(PROVEN, u8::from(process.proven))
            .bytes(STAT, &process.stat, PROC_FILE_MAX)
            .bytes(STATUS, &process.status, PROC_FILE_MAX)
            .bytes(CGROUP, &process.cgroup, PROC_FILE_MAX)
            .bytes(EXE, &process.exe, PROC_FILE_MAX)
            .bytes(NAMESPACES, &namespaces, 64)
            .finish()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// It is none, or not whole.
    pub fn decode(record: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(record, MessageKind::Spooled)?;
        let (mut id, mut started, mut time, mut why, mut boot) = (None, None, None, None, None);
        let mut argv = Vec::new();
        let (mut proven, mut stat, mut status, mut cgroup) = (None, None, None, None);
        let (mut exe, mut namespaces) = (None, None);
        while let Some(field) = reader.next()? {
            let file = || field.bytes(PROC_FILE_MAX).map(<[u8]>::to_vec);
            match field.tag {
                ID => {
                    let value: Option<[u8; ID_LENGTH]> = field.bytes(ID_LENGTH)?.try_into().ok();
                    let value = value.filter(|id| super::id::is_id(id));
                    once(&mut id, ID, value.ok_or(DecodeError::Value(ID))?)?;
                }
                ARGV => field.push(&mut argv, WORDS_MAX, WORD_MAX)?,
                STARTED => once(&mut started, STARTED, field.u64()?)?,
                TIME => once(&mut time, TIME, field.u64()?)?,
                WHY => {
                    let code = field.u8()?;
                    let known = Why::ALL.into_iter().find(|why| why.code() == code);
                    once(&mut why, WHY, known.ok_or(DecodeError::Value(WHY))?)?;
                }
                BOOT => once(&mut boot, BOOT, field.bytes(64)?.to_vec())?,
                PROVEN => match field.u8()? {
                    flag @ (0 | 1) => once(&mut proven, PROVEN, flag == 1)?,
                    _ => return Err(DecodeError::Value(PROVEN)),
                },
                STAT => once(&mut stat, STAT, file()?)?,
                STATUS => once(&mut status, STATUS, file()?)?,
                CGROUP => once(&mut cgroup, CGROUP, file()?)?,
                EXE => once(&mut exe, EXE, file()?)?,
                NAMESPACES => once(&mut namespaces, NAMESPACES, field.u64s()?)?,
                _ => field.unknown()?,
            }
        }
        Ok(Self {
            id: id.ok_or(DecodeError::Missing(ID))?,
            argv,
            started: started.ok_or(DecodeError::Missing(STARTED))?,
            time: time.ok_or(DecodeError::Missing(TIME))?,
            why: why.ok_or(DecodeError::Missing(WHY))?,
            boot: boot.unwrap_or_default(),
            process: Seen {
                proven: proven.unwrap_or(false),
                stat: stat.unwrap_or_default(),
                status: status.unwrap_or_default(),
                cgroup: cgroup.unwrap_or_default(),
                exe: exe.unwrap_or_default(),
                namespaces: namespaces.unwrap_or_default(),
            },
        })
    }

    /// Reads the record that starts a file, and returns what is behind it.
    ///
    /// # Errors
    /// It is none, or not whole.
    pub fn decode_first(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let length = record_length(bytes).ok_or(DecodeError::Magic)?;
        let (record, rest) = bytes
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated)?;
        Ok((Self::decode(record)?, rest))
    }
}
