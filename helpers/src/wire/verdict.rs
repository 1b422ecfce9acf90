//! What the daemon tells the shim.

use super::field::{DecodeError, EncodeError, MessageKind, Reader, Writer, once};

const VERDICT: u16 = 1;
const ERRNO: u16 = 2;
const TTL: u16 = 3;
const PAYLOAD: u16 = 4;
const LAUNCH: u16 = 5;
const DEADLINE: u16 = 6;
const CAPABILITIES: u16 = 7;

/// The longest payload that is answered with, in bytes: what a report carries of a helper's output.
pub const PAYLOAD_MAX: usize = 16 * 1024;

/// The longest launch in a verdict: a record's most, less room for what is around it.
const LAUNCH_MAX: usize = super::RECORD_MAX - 1024;

/// What the shim is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing more: whoever has the work holds the claim.
    Done,
    /// The upcall is refused.
    Deny {
        /// The error that the kernel is to see, where the hook can carry one.
        errno: u32,
        /// For how long a refusal of a key holds, in milliseconds.
        ttl: u32,
    },
    /// Do what the hook's file says for a daemon that is not there.
    Fallback,
    /// Start what stood before us.
    Pass {
        /// How long it may take, in milliseconds; then the key is refused. What loads modules is not waited for.
        deadline: u32,
        /// The most capabilities that it may have, by their bits; all where the record does not say.
        capabilities: u64,
    },
    /// The key gets this payload.
    Answer {
        /// At most 16 KiB.
        payload: Vec<u8>,
        /// How long it is good for, in milliseconds; 0: for ever.
        ttl: u32,
    },
    /// Run a helper, as the child that has the authority. Beside it come the descriptor of upcall-enter, and then those
    /// of the launch.
    RunHere {
        /// The record of a [`Launch`](super::Launch).
        launch: Vec<u8>,
        /// How long all of it may take, in milliseconds; then the key is refused.
        deadline: u32,
        /// The helper prints the payload, which is good for so many milliseconds; `None`: it answers by itself.
        prints: Option<u32>,
    },
}

impl Verdict {
    /// The record.
    ///
    /// # Errors
    /// The payload or the launch is too long.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut writer = Writer::new(MessageKind::Verdict);
        match self {
            Self::Done => writer.u8(VERDICT, 1),
            Self::Deny { errno, ttl } => writer.u8(VERDICT, 2).u32(ERRNO, *errno).u32(TTL, *ttl),
            Self::Fallback => writer.u8(VERDICT, 3),
            Self::Pass {
                deadline,
                capabilities,
            } => {
                let writer = writer.u8(VERDICT, 4).u32(DEADLINE, *deadline);
                // An older shim understands no limit, and is to pass nothing rather than without one.
                if *capabilities == u64::MAX {
                    writer
                } else {
                    writer.u64(CAPABILITIES, *capabilities)
                }
            }
            Self::Answer { payload, ttl } => {
                let writer = writer.u8(VERDICT, 5).u32(TTL, *ttl);
                writer.bytes(PAYLOAD, payload, PAYLOAD_MAX)
            }
            Self::RunHere {
                launch,
                deadline,
                prints,
            } => {
                let mut writer = writer.u8(VERDICT, 6);
                if let Some(ttl) = prints {
                    writer = writer.u32(TTL, *ttl);
                }
                let writer = writer.bytes(LAUNCH, launch, LAUNCH_MAX);
                writer.u32(DEADLINE, *deadline)
            }
        }
        .finish()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// The record is not a verdict.
    pub fn decode(record: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(record, MessageKind::Verdict)?;
        let (mut verdict, mut errno, mut ttl) = (None, None, None);
        let (mut payload, mut launch, mut deadline) = (None, None, None);
        let mut capabilities = None;
        while let Some(field) = reader.next()? {
            match field.tag {
                VERDICT => once(&mut verdict, VERDICT, field.u8()?)?,
                ERRNO => once(&mut errno, ERRNO, field.u32()?)?,
                TTL => once(&mut ttl, TTL, field.u32()?)?,
                PAYLOAD => once(&mut payload, PAYLOAD, field.bytes(PAYLOAD_MAX)?.to_vec())?,
                LAUNCH => once(&mut launch, LAUNCH, field.bytes(LAUNCH_MAX)?.to_vec())?,
                DEADLINE => once(&mut deadline, DEADLINE, field.u32()?)?,
                CAPABILITIES => once(&mut capabilities, CAPABILITIES, field.u64()?)?,
                _ => field.unknown()?,
            }
        }
        let deadline = deadline.ok_or(DecodeError::Missing(DEADLINE));
        match verdict.ok_or(DecodeError::Missing(VERDICT))? {
            1 => Ok(Self::Done),
            2 => Ok(Self::Deny {
                errno: errno.ok_or(DecodeError::Missing(ERRNO))?,
                ttl: ttl.ok_or(DecodeError::Missing(TTL))?,
            }),
            3 => Ok(Self::Fallback),
            4 => Ok(Self::Pass {
                deadline: deadline?,
                capabilities: capabilities.unwrap_or(u64::MAX),
            }),
            5 => Ok(Self::Answer {
                payload: payload.ok_or(DecodeError::Missing(PAYLOAD))?,
                ttl: ttl.ok_or(DecodeError::Missing(TTL))?,
            }),
            6 => Ok(Self::RunHere {
                launch: launch.ok_or(DecodeError::Missing(LAUNCH))?,
                deadline: deadline?,
                prints: ttl,
            }),
            _ => Err(DecodeError::Value(VERDICT)),
        }
    }
}
