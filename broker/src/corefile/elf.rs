//! The header and the segments.

use super::CoreError;
use super::bytes::Bytes;
use super::source::Source;

/// elf(5).
const LITTLE_ENDIAN: u8 = 1;
const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PN_XNUM: u64 = 0xffff;

/// The most segments that are looked at: vm.max_map_count is 65,530 unless somebody raises it.
const SEGMENTS_MAX: u64 = 1 << 20;

/// How wide its addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Bits32,
    Bits64,
}

/// What wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86,
    X86_64,
    Aarch64,
    Other(u16),
}

/// The header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) class: Class,
    pub(super) machine: Machine,
    /// Where segments are described, how many they are, how long each description is.
    table: (u64, u64, usize),
    /// Bytes that were read for this.
    length: u64,
}

/// A segment: notes, or memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    kind: u32,
    /// Where in the core.
    pub(super) offset: u64,
    /// Its address.
    pub(super) start: u64,
    /// Bytes in the core; there may be more in memory.
    pub(super) size: u64,
    /// Bytes in memory.
    whole: u64,
}

impl Segment {
    pub(super) fn is_notes(&self) -> bool {
        self.kind == PT_NOTE
    }

    pub(super) fn is_memory(&self) -> bool {
        self.kind == PT_LOAD && self.size > 0
    }

    /// Whether this address was mapped by it.
    pub(super) fn covers(&self, address: u64) -> bool {
        let into = address.checked_sub(self.start);
        self.kind == PT_LOAD && into.is_some_and(|into| into < self.whole)
    }
}

impl Machine {
    pub(super) fn name(self) -> String {
        match self {
            Self::X86 => "x86".to_owned(),
            Self::X86_64 => "x86_64".to_owned(),
            Self::Aarch64 => "aarch64".to_owned(),
            Self::Other(number) => format!("machine {number}"),
        }
    }
}

impl Header {
    pub(super) fn read(core: &mut dyn Source) -> Result<Self, CoreError> {
        let mut header = [0; 64];
        let read = |source| CoreError::Read {
            step: "its header",
            source,
        };
        let (start, rest) = header.split_at_mut(52);
        core.fetch(start).map_err(read)?;
        let class = match (start.get(..4), start.get(4), start.get(5)) {
            (Some(b"\x7fELF"), Some(1), Some(&LITTLE_ENDIAN)) => Class::Bits32,
            (Some(b"\x7fELF"), Some(2), Some(&LITTLE_ENDIAN)) => Class::Bits64,
            (Some(b"\x7fELF"), ..) => return Err(CoreError::NotACore("of another byte order")),
            _ => return Err(CoreError::NotACore("it is not ELF")),
        };
        if class == Class::Bits64 {
            core.fetch(rest).map_err(read)?;
        }
        Self::parse(Bytes(&header), class).ok_or(CoreError::NotACore("its header is damaged"))
    }

    /// The header of any ELF file.
    fn parse(header: Bytes<'_>, class: Class) -> Option<Self> {
        let core = header.u16(16)? == ET_CORE;
        let machine = match header.u16(18)? {
            3 => Machine::X86,
            62 => Machine::X86_64,
            183 => Machine::Aarch64,
            other => Machine::Other(other),
        };
        let (offset, sizes, length, smallest) = match class {
            Class::Bits32 => (header.word(28, class)?, 42, 52, 32),
            Class::Bits64 => (header.word(32, class)?, 54, 64, 56),
        };
        let each = usize::from(header.u16(sizes)?);
        let count = u64::from(header.u16(sizes + 2)?);
        let sane = core && each >= smallest && each <= 256 && offset >= length;
        sane.then_some(Self {
            class,
            machine,
            table: (offset, count, each),
            length,
        })
    }

    /// The segments, in the order of the core; what is not in that order is left out.
    pub(super) fn segments(&self, core: &mut dyn Source) -> Result<Vec<Segment>, CoreError> {
        let (offset, mut count, each) = self.table;
        let read = |source| CoreError::Read {
            step: "its segments",
            source,
        };
        core.pass(offset - self.length).map_err(read)?;
        let mut segments = Vec::new();
        let mut description = vec![0; each];
        let mut done = 0;
        while done < count {
            core.fetch(&mut description).map_err(read)?;
            let segment = segment(Bytes(&description), self.class);
            let segment = segment.ok_or(CoreError::NotACore("its segments are damaged"))?;
            if done == 0 && count == PN_XNUM {
                // The true number stands behind everything else, in a section. But the first segment are the notes,
                // and they begin where the descriptions end (fs/binfmt_elf.c, elf_core_dump).
                let length = segment.offset.saturating_sub(offset);
                let each = u64::try_from(each).unwrap_or(u64::MAX);
                count = length / each;
            }
            if count > SEGMENTS_MAX {
                return Err(CoreError::TooMany("segments"));
            }
            segments.push(segment);
            done += 1;
        }
        let end = u64::try_from(each).unwrap_or(u64::MAX).saturating_mul(done);
        // From here on, offsets count from where the source stands.
        let here = offset.saturating_add(end);
        segments.retain(|segment| segment.offset >= here);
        for segment in &mut segments {
            segment.offset -= here;
        }
        Ok(segments)
    }
}

fn segment(description: Bytes<'_>, class: Class) -> Option<Segment> {
    let word = |at| description.word(at, class);
    let (offset, start, size, whole) = match class {
        Class::Bits32 => (word(4)?, word(8)?, word(16)?, word(20)?),
        Class::Bits64 => (word(8)?, word(16)?, word(32)?, word(40)?),
    };
    Some(Segment {
        kind: description.u32(0)?,
        offset,
        start,
        size,
        whole,
    })
}
