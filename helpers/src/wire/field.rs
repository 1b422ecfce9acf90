//! Header and fields: the part of the layout that all messages share.

use super::RECORD_MAX;

/// The first four bytes of every record.
const MAGIC: [u8; 4] = *b"upc\x01";

/// The layout's version that this code writes, and the newest it reads.
const VERSION: u16 = 1;

/// Bytes before the first field.
const HEADER: usize = 12;

/// A tag with this bit may be skipped by a reader that does not know it.
const OPTIONAL: u16 = 0x8000;

/// Kind of a message, as the header says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageKind {
    Request = 1,
    Verdict = 2,
    Launch = 3,
    Report = 4,
    Spooled = 5,
}

/// Why bytes are not the message they should be. Nothing of the bytes is trusted after this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The record ends inside its header or inside a field, or is longer or shorter than it says.
    Truncated,
    /// It does not start as a record of ours.
    Magic,
    /// A later layout than this program knows.
    Version(u16),
    /// Another kind of message than was expected here.
    Kind(u16),
    /// A tag this program does not know and must not skip, or one out of order.
    Tag(u16),
    /// The value of this tag is too long, has the wrong length, or is not one of its values.
    Value(u16),
    /// A field with this tag is missing.
    Missing(u16),
    /// The descriptors beside the record are not those it names.
    Descriptors,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => f.write_str("the record is cut off or does not have its own length"),
            Self::Magic => f.write_str("not a record of upcalld"),
            Self::Version(version) => {
                write!(
                    f,
                    "layout version {version}, newer than {VERSION}: upgrade this program"
                )
            }
            Self::Kind(kind) => write!(f, "message kind {kind} is not expected here"),
            Self::Tag(tag) => write!(f, "field {tag:#06x} is unknown or out of order"),
            Self::Value(tag) => write!(f, "field {tag:#06x} has a value it cannot have"),
            Self::Missing(tag) => write!(f, "field {tag:#06x} is missing"),
            Self::Descriptors => f.write_str("the descriptors are not those that the record names"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Why a message cannot be sent: a value is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// The value of this tag is too long or there are too many of it.
    TooLong(u16),
    /// The whole record is over [`RECORD_MAX`].
    Record,
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong(tag) => write!(f, "field {tag:#06x} is over its limit"),
            Self::Record => write!(f, "the record is over {RECORD_MAX} bytes"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// Writes one record. Over-long values are remembered and refused by [`Writer::finish`].
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    error: Option<EncodeError>,
}

impl Writer {
    pub(super) fn new(kind: MessageKind) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(kind as u16).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        Self { bytes, error: None }
    }

    /// A value of at most `max` bytes.
    pub(super) fn bytes(&mut self, tag: u16, value: &[u8], max: usize) -> &mut Self {
        let Ok(length) = u32::try_from(value.len()) else {
            self.error.get_or_insert(EncodeError::TooLong(tag));
            return self;
        };
        if value.len() > max {
            self.error.get_or_insert(EncodeError::TooLong(tag));
            return self;
        }
        self.bytes.extend_from_slice(&tag.to_le_bytes());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    /// A list of at most `count` values of at most `max` bytes.
    pub(super) fn list(
        &mut self,
        tag: u16,
        values: &[Vec<u8>],
        count: usize,
        max: usize,
    ) -> &mut Self {
        if values.len() > count {
            self.error.get_or_insert(EncodeError::TooLong(tag));
            return self;
        }
        for value in values {
            self.bytes(tag, value, max);
        }
        self
    }

    pub(super) fn u8(&mut self, tag: u16, value: u8) -> &mut Self {
        self.bytes(tag, &[value], 1)
    }

    pub(super) fn u32(&mut self, tag: u16, value: u32) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes(), 4)
    }

    pub(super) fn u64(&mut self, tag: u16, value: u64) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes(), 8)
    }

    pub(super) fn option_u64(&mut self, tag: u16, value: Option<u64>) -> &mut Self {
        match value {
            Some(value) => self.u64(tag, value),
            None => self,
        }
    }

    pub(super) fn finish(&mut self) -> Result<Vec<u8>, EncodeError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let length = u32::try_from(self.bytes.len()).map_err(|_| EncodeError::Record)?;
        if self.bytes.len() > RECORD_MAX {
            return Err(EncodeError::Record);
        }
        if let Some(slot) = self.bytes.get_mut(8..HEADER) {
            slot.copy_from_slice(&length.to_le_bytes());
        }
        Ok(std::mem::take(&mut self.bytes))
    }
}

/// One field of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) tag: u16,
    value: &'a [u8],
}

impl<'a> Field<'a> {
    /// The value, at most `max` bytes.
    pub(super) fn bytes(self, max: usize) -> Result<&'a [u8], DecodeError> {
        if self.value.len() > max {
            Err(DecodeError::Value(self.tag))
        } else {
            Ok(self.value)
        }
    }

    fn array<const N: usize>(self) -> Result<[u8; N], DecodeError> {
        self.value
            .try_into()
            .map_err(|_| DecodeError::Value(self.tag))
    }

    pub(super) fn u8(self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Adds the value to a list of at most `count` values of at most `max` bytes.
    pub(super) fn push(
        self,
        list: &mut Vec<Vec<u8>>,
        count: usize,
        max: usize,
    ) -> Result<(), DecodeError> {
        if list.len() >= count {
            return Err(DecodeError::Value(self.tag));
        }
        list.push(self.bytes(max)?.to_vec());
        Ok(())
    }

    /// A value that is a row of 64-bit numbers, exactly `N`.
    pub(super) fn u64s<const N: usize>(self) -> Result<[u64; N], DecodeError> {
        let mut numbers = [0; N];
        let (chunks, rest) = self.value.as_chunks::<8>();
        if chunks.len() != N || !rest.is_empty() {
            return Err(DecodeError::Value(self.tag));
        }
        for (number, chunk) in numbers.iter_mut().zip(chunks) {
            *number = u64::from_le_bytes(*chunk);
        }
        Ok(numbers)
    }

    /// A value that is a row of at most `max` 32-bit numbers.
    pub(super) fn u32s(self, max: usize) -> Result<Vec<u32>, DecodeError> {
        let (chunks, rest) = self.value.as_chunks::<4>();
        if chunks.len() > max || !rest.is_empty() {
            return Err(DecodeError::Value(self.tag));
        }
        Ok(chunks
            .iter()
            .map(|chunk| u32::from_le_bytes(*chunk))
            .collect())
    }

    /// A field that a reader of this version does not know: skipped if it may be.
    pub(super) fn unknown(self) -> Result<(), DecodeError> {
        if self.tag & OPTIONAL == 0 {
            Err(DecodeError::Tag(self.tag))
        } else {
            Ok(())
        }
    }
}

/// Reads the fields of one record in order.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    last: u16,
}

impl<'a> Reader<'a> {
    /// Checks the header and that the record has the length it says.
    pub(super) fn new(record: &'a [u8], kind: MessageKind) -> Result<Self, DecodeError> {
        let (header, rest) = record
            .split_first_chunk::<HEADER>()
            .ok_or(DecodeError::Truncated)?;
        let [m0, m1, m2, m3, v0, v1, k0, k1, l0, l1, l2, l3] = *header;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(DecodeError::Magic);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version == 0 || version > VERSION {
            return Err(DecodeError::Version(version));
        }
        let found = u16::from_le_bytes([k0, k1]);
        if found != kind as u16 {
            return Err(DecodeError::Kind(found));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if usize::try_from(length) != Ok(record.len()) || record.len() > RECORD_MAX {
            return Err(DecodeError::Truncated);
        }
        Ok(Self { rest, last: 0 })
    }

    /// The next field; `None` at the end of the record.
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (head, rest) = self
            .rest
            .split_first_chunk::<6>()
            .ok_or(DecodeError::Truncated)?;
        let [t0, t1, l0, l1, l2, l3] = *head;
        let tag = u16::from_le_bytes([t0, t1]);
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3]))
            .map_err(|_| DecodeError::Truncated)?;
        let (value, rest) = rest
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated)?;
        if tag < self.last {
            return Err(DecodeError::Tag(tag));
        }
        self.last = tag;
        self.rest = rest;
        Ok(Some(Field { tag, value }))
    }
}

/// Length of the record that starts these bytes, for a file that holds several one after the other.
pub(super) fn record_length(bytes: &[u8]) -> Option<usize> {
    let (header, _) = bytes.split_first_chunk::<HEADER>()?;
    let [m0, m1, m2, m3, _, _, _, _, l0, l1, l2, l3] = *header;
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
    ([m0, m1, m2, m3] == MAGIC && (HEADER..=RECORD_MAX).contains(&length)).then_some(length)
}

/// Sets a field that occurs at most once.
pub(super) fn once<T>(slot: &mut Option<T>, tag: u16, value: T) -> Result<(), DecodeError> {
    if slot.replace(value).is_some() {
        Err(DecodeError::Tag(tag))
    } else {
        Ok(())
    }
}
