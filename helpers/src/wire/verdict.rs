//! What the daemon tells the shim.

use super::field::{DecodeError, EncodeError, MessageKind, Reader, Writer, once};

const VERDICT: u16 = 1;
const ERRNO: u16 = 2;
const TTL: u16 = 3;

/// What the shim is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

impl Verdict {
    /// The record.
    ///
    /// # Errors
    /// None of today's verdicts can be too long.
    pub fn encode(self) -> Result<Vec<u8>, EncodeError> {
        let mut writer = Writer::new(MessageKind::Verdict);
        match self {
            Self::Done => writer.u8(VERDICT, 1),
            Self::Deny { errno, ttl } => writer.u8(VERDICT, 2).u32(ERRNO, errno).u32(TTL, ttl),
            Self::Fallback => writer.u8(VERDICT, 3),
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
        while let Some(field) = reader.next()? {
            match field.tag {
                VERDICT => once(&mut verdict, VERDICT, field.u8()?)?,
                ERRNO => once(&mut errno, ERRNO, field.u32()?)?,
                TTL => once(&mut ttl, TTL, field.u32()?)?,
                _ => field.unknown()?,
            }
        }
        match verdict.ok_or(DecodeError::Missing(VERDICT))? {
            1 => Ok(Self::Done),
            2 => Ok(Self::Deny {
                errno: errno.ok_or(DecodeError::Missing(ERRNO))?,
                ttl: ttl.ok_or(DecodeError::Missing(TTL))?,
            }),
            3 => Ok(Self::Fallback),
            _ => Err(DecodeError::Value(VERDICT)),
        }
    }
}
