//! What the launcher and its children tell the daemon about a launch, and append to the open record.

use super::field::{DecodeError, EncodeError, MessageKind, Reader, Writer, once, record_length};

const ID: u16 = 1;
const SLOT: u16 = 2;
const TIME: u16 = 3;
const EVENT: u16 = 4;
const STAGE: u16 = 5;
const ERRNO: u16 = 6;
const PID: u16 = 7;
const STATUS: u16 = 8;
const TIMED_OUT: u16 = 9;
const FED: u16 = 10;
const OUTPUT: u16 = 11;
const SIZE: u16 = 12;
const STORED: u16 = 13;
const TRUNCATED: u16 = 14;
const ANSWERED: u16 = 15;

const ID_MAX: usize = 16;

/// The most of a helper's output that a report carries, in bytes.
const OUTPUT_MAX: usize = 16 * 1024;

/// A step on the way from a launch to a running program; errors name it. In the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "Stage::as_str and upcall-enter(8) describe each"
)]
pub enum Stage {
    Plan = 1,
    Fork = 2,
    Freezer = 3,
    Cgroup = 4,
    Pipes = 5,
    Clone = 6,
    Scheduling = 7,
    Undumpable = 8,
    Session = 9,
    Descriptors = 10,
    Limits = 11,
    Groups = 12,
    Join = 13,
    Namespaces = 14,
    Root = 15,
    Bounding = 16,
    Ids = 17,
    Inside = 18,
    Label = 19,
    NoNewPrivs = 20,
    Capabilities = 21,
    Program = 22,
    Seccomp = 23,
    Exec = 24,
    Claim = 25,
    Deadline = 26,
    Store = 27,
    Place = 28,
    Files = 29,
    Authority = 30,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 30] = [
        Self::Plan,
        Self::Fork,
        Self::Freezer,
        Self::Cgroup,
        Self::Pipes,
        Self::Clone,
        Self::Scheduling,
        Self::Undumpable,
        Self::Session,
        Self::Descriptors,
        Self::Limits,
        Self::Groups,
        Self::Join,
        Self::Namespaces,
        Self::Root,
        Self::Bounding,
        Self::Ids,
        Self::Inside,
        Self::Label,
        Self::NoNewPrivs,
        Self::Capabilities,
        Self::Program,
        Self::Seccomp,
        Self::Exec,
        Self::Claim,
        Self::Deadline,
        Self::Store,
        Self::Place,
        Self::Files,
        Self::Authority,
    ];

    /// The word used in records and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Fork => "fork",
            Self::Freezer => "freezer",
            Self::Cgroup => "cgroup",
            Self::Pipes => "pipes",
            Self::Clone => "clone",
            Self::Scheduling => "scheduling",
            Self::Undumpable => "undumpable",
            Self::Session => "session",
            Self::Descriptors => "descriptors",
            Self::Limits => "limits",
            Self::Groups => "groups",
            Self::Join => "join",
            Self::Namespaces => "namespaces",
            Self::Root => "root",
            Self::Bounding => "bounding",
            Self::Ids => "ids",
            Self::Inside => "inside",
            Self::Label => "label",
            Self::NoNewPrivs => "no_new_privs",
            Self::Capabilities => "capabilities",
            Self::Program => "program",
            Self::Seccomp => "seccomp",
            Self::Exec => "exec",
            Self::Claim => "claim",
            Self::Deadline => "deadline",
            Self::Store => "store",
            Self::Place => "place",
            Self::Files => "files",
            Self::Authority => "authority",
        }
    }

    /// The stage with this number on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage as u8 == code)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitStatus {
    /// It exited with this code.
    Exited(u8),
    /// This signal killed it.
    Signaled(u8),
}

/// What became of a key, as the shim knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The shim gave it a payload.
    Instantiated,
    /// Somebody else answered it: the helper, or what stood before us.
    ByHelper,
    /// The shim refused it, with the report's errno.
    Rejected,
    /// The shim could do neither, with the report's errno.
    Failed,
}

/// One thing that happened to a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The program runs and the claim is held: nobody else will read the pipe.
    Started {
        /// Its pid in the launcher's pid namespace.
        pid: u32,
    },
    /// It was not started; not a byte was read and the claim is untouched, or (stage `claim`) somebody else's.
    Failed {
        /// At which step.
        stage: Stage,
        /// With which error.
        errno: u32,
    },
    /// A fed helper ended.
    Ended {
        /// How.
        status: WaitStatus,
        /// Whether it was ended because nothing went on.
        timed_out: bool,
        /// Bytes that it was given.
        fed: u64,
        /// What it wrote, at most 16 KiB.
        output: Vec<u8>,
    },
    /// The store worker is done.
    Stored {
        /// Bytes of the core that the kernel wrote.
        size: u64,
        /// Bytes kept.
        stored: u64,
        /// Whether there was more than may be kept.
        truncated: bool,
        /// Why nothing, or not everything, was kept: an errno, 0 for none.
        errno: u32,
    },
    /// The launcher's own child for this launch is gone; nothing more will come.
    Gone {
        /// How.
        status: WaitStatus,
    },
    /// The shim is done with a key; nothing more will come.
    Answered {
        /// What became of it.
        how: Answered,
        /// With which error, 0 for none.
        errno: u32,
    },
}

/// An event, to which launch it belongs, and when it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The record's id.
    pub id: Vec<u8>,
    /// Which launch of it.
    pub slot: u8,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// What happened.
    pub event: Event,
}

impl WaitStatus {
    fn code(self) -> u32 {
        match self {
            Self::Exited(code) => u32::from(code),
            Self::Signaled(signal) => 0x100 | u32::from(signal),
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        let [low, high, 0, 0] = code.to_le_bytes() else {
            return None;
        };
        match high {
            0 => Some(Self::Exited(low)),
            1 => Some(Self::Signaled(low)),
            _ => None,
        }
    }
}

impl Report {
    /// The record.
    ///
    /// # Errors
    /// The output is over its limit.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut writer = Writer::new(MessageKind::Report);
        writer
            .bytes(ID, &self.id, ID_MAX)
            .u8(SLOT, self.slot)
            .u64(TIME, self.time);
        match &self.event {
            Event::Started { pid } => writer.u8(EVENT, 1).u32(PID, *pid),
            Event::Failed { stage, errno } => writer
                .u8(EVENT, 2)
                .u8(STAGE, *stage as u8)
                .u32(ERRNO, *errno),
            Event::Ended {
                status,
                timed_out,
                fed,
                output,
            } => writer
                .u8(EVENT, 3)
                .u32(STATUS, status.code())
                .u8(TIMED_OUT, u8::from(*timed_out))
                .u64(FED, *fed)
                .bytes(OUTPUT, output, OUTPUT_MAX),
            Event::Stored {
                size,
                stored,
                truncated,
                errno,
            } => writer
                .u8(EVENT, 4)
                .u32(ERRNO, *errno)
                .u64(SIZE, *size)
                .u64(STORED, *stored)
                .u8(TRUNCATED, u8::from(*truncated)),
            Event::Gone { status } => writer.u8(EVENT, 5).u32(STATUS, status.code()),
            Event::Answered { how, errno } => writer
                .u8(EVENT, 6)
                .u32(ERRNO, *errno)
                .u8(ANSWERED, *how as u8),
        };
        writer.finish()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// The record is not a report.
    pub fn decode(record: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(record, MessageKind::Report)?;
        let mut raw = Raw::default();
        while let Some(field) = reader.next()? {
            let tag = field.tag;
            match tag {
                ID => once(&mut raw.id, tag, field.bytes(ID_MAX)?.to_vec())?,
                SLOT => once(&mut raw.slot, tag, field.u8()?)?,
                TIME => once(&mut raw.time, tag, field.u64()?)?,
                EVENT => once(&mut raw.event, tag, field.u8()?)?,
                STAGE => once(&mut raw.stage, tag, field.u8()?)?,
                ERRNO => once(&mut raw.errno, tag, field.u32()?)?,
                PID => once(&mut raw.pid, tag, field.u32()?)?,
                STATUS => once(&mut raw.status, tag, field.u32()?)?,
                TIMED_OUT => once(&mut raw.timed_out, tag, field.u8()? != 0)?,
                FED => once(&mut raw.fed, tag, field.u64()?)?,
                OUTPUT => once(&mut raw.output, tag, field.bytes(OUTPUT_MAX)?.to_vec())?,
                SIZE => once(&mut raw.size, tag, field.u64()?)?,
                STORED => once(&mut raw.stored, tag, field.u64()?)?,
                TRUNCATED => once(&mut raw.truncated, tag, field.u8()? != 0)?,
                ANSWERED => once(&mut raw.answered, tag, field.u8()?)?,
                _ => field.unknown()?,
            }
        }
        let event = raw.event()?;
        Ok(Self {
            id: raw.id.ok_or(DecodeError::Missing(ID))?,
            slot: raw.slot.ok_or(DecodeError::Missing(SLOT))?,
            time: raw.time.ok_or(DecodeError::Missing(TIME))?,
            event,
        })
    }
}

/// The fields as they come.
#[derive(Debug, Default)]
struct Raw {
    id: Option<Vec<u8>>,
    slot: Option<u8>,
    time: Option<u64>,
    event: Option<u8>,
    stage: Option<u8>,
    errno: Option<u32>,
    pid: Option<u32>,
    status: Option<u32>,
    timed_out: Option<bool>,
    fed: Option<u64>,
    output: Option<Vec<u8>>,
    size: Option<u64>,
    stored: Option<u64>,
    truncated: Option<bool>,
    answered: Option<u8>,
}

impl Raw {
    fn event(&mut self) -> Result<Event, DecodeError> {
        Ok(match self.event.ok_or(DecodeError::Missing(EVENT))? {
            1 => Event::Started {
                pid: self.pid.ok_or(DecodeError::Missing(PID))?,
            },
            2 => Event::Failed {
                stage: Stage::from_code(self.stage.ok_or(DecodeError::Missing(STAGE))?)
                    .ok_or(DecodeError::Value(STAGE))?,
                errno: self.errno.ok_or(DecodeError::Missing(ERRNO))?,
            },
            3 => Event::Ended {
                status: self.status()?,
                timed_out: self.timed_out.ok_or(DecodeError::Missing(TIMED_OUT))?,
                fed: self.fed.ok_or(DecodeError::Missing(FED))?,
                output: self.output.take().ok_or(DecodeError::Missing(OUTPUT))?,
            },
            4 => Event::Stored {
                size: self.size.ok_or(DecodeError::Missing(SIZE))?,
                stored: self.stored.ok_or(DecodeError::Missing(STORED))?,
                truncated: self.truncated.ok_or(DecodeError::Missing(TRUNCATED))?,
                errno: self.errno.ok_or(DecodeError::Missing(ERRNO))?,
            },
            5 => Event::Gone {
                status: self.status()?,
            },
            6 => Event::Answered {
                how: match self.answered.ok_or(DecodeError::Missing(ANSWERED))? {
                    0 => Answered::Instantiated,
                    1 => Answered::ByHelper,
                    2 => Answered::Rejected,
                    3 => Answered::Failed,
                    _ => return Err(DecodeError::Value(ANSWERED)),
                },
                errno: self.errno.ok_or(DecodeError::Missing(ERRNO))?,
            },
            _ => return Err(DecodeError::Value(EVENT)),
        })
    }

    fn status(&self) -> Result<WaitStatus, DecodeError> {
        let code = self.status.ok_or(DecodeError::Missing(STATUS))?;
        WaitStatus::from_code(code).ok_or(DecodeError::Value(STATUS))
    }
}

/// The reports that a file holds one after the other, as an open record does; stops at the first thing that is none.
pub fn reports(mut bytes: &[u8]) -> Vec<Report> {
    let mut reports = Vec::new();
    while let Some((record, rest)) =
        record_length(bytes).and_then(|length| bytes.split_at_checked(length))
    {
        let Ok(report) = Report::decode(record) else {
            break;
        };
        reports.push(report);
        bytes = rest;
    }
    reports
}
