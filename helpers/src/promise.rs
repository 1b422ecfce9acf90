//! How long a core says that it is: what a dump that was broken off is known by, since its reader sees no more than an
//! end, as it does of a whole one.
//!
//! The kernel writes the ELF header and all program headers before anything else, and they say where the last byte will
//! be (fs/binfmt_elf.c, elf_core_dump). Where there are more segments than the header can count (`PN_XNUM`, elf(5)), one
//! section header is the very end of the core.

use std::io::{ErrorKind, Read};

/// `e_phnum` of a core whose segments it cannot count.
const PN_XNUM: u64 = 0xffff;

/// `e_type` of a core.
const ET_CORE: u64 = 4;

/// The byte order of this machine, as `e_ident` has it.
const ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };

/// `e_ident`.
const IDENT: usize = 16;

/// Where a field is: its first byte and its length.
type Field = (usize, usize);

/// The places of what is read, in ELF of one word size.
#[derive(Debug)]
struct Layout {
    header: usize,
    phoff: Field,
    shoff: Field,
    /// `e_phentsize`, `e_phnum`, `e_shentsize` and `e_shnum` follow one another, two bytes each.
    counts: usize,
    entry: usize,
    offset: Field,
    filesz: Field,
}

const ELF32: Layout = Layout {
    header: 52,
    phoff: (28, 4),
    shoff: (32, 4),
    counts: 42,
    entry: 32,
    offset: (4, 4),
    filesz: (16, 4),
};

const ELF64: Layout = Layout {
    header: 64,
    phoff: (32, 8),
    shoff: (40, 8),
    counts: 54,
    entry: 56,
    offset: (8, 8),
    filesz: (32, 8),
};

/// What comes next of what is read.
#[derive(Debug)]
enum Next {
    Ident,
    Header(&'static Layout),
    /// The program header at this byte, and so many behind it.
    Entry(&'static Layout, u64, u64),
    Nothing,
}

/// Reads along with a core that comes in parts of any size. It needs a hundred bytes, and believes nothing: a core that
/// contradicts itself has promised nothing.
#[derive(Debug)]
pub struct Promise {
    next: Next,
    /// Bytes that came.
    came: u64,
    /// What is being read, as far as it came.
    held: [u8; 64],
    filled: usize,
    /// Bytes that were promised so far.
    length: u64,
}

impl Default for Promise {
    fn default() -> Self {
        Self {
            next: Next::Ident,
            came: 0,
            held: [0; 64],
            filled: 0,
            length: 0,
        }
    }
}

impl Promise {
    /// Reads what it has to of a core, from its beginning.
    ///
    /// # Errors
    /// As read(2).
    pub fn of(core: &mut impl Read) -> std::io::Result<Self> {
        let mut promise = Self::default();
        let mut part = vec![0; 1 << 16];
        while !promise.is_settled() {
            match core.read(&mut part) {
                Ok(0) => break,
                Ok(length) => promise.see(part.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(promise)
    }

    /// The next part of the core.
    pub fn see(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            let (begin, length) = match self.next {
                Next::Ident => (0, IDENT),
                Next::Header(layout) => (0, layout.header),
                Next::Entry(layout, begin, _) => (begin, layout.entry),
                Next::Nothing => return,
            };
            let ahead = usize::try_from(begin.saturating_sub(self.came)).unwrap_or(usize::MAX);
            let wanted = if ahead > 0 {
                ahead
            } else {
                length - self.filled
            };
            let (now, rest) = part.split_at(wanted.min(part.len()));
            part = rest;
            self.came = self.came.saturating_add(bytes(now.len()));
            if ahead > 0 {
                continue;
            }
            let end = self.filled + now.len();
            if let Some(to) = self.held.get_mut(self.filled..end) {
                to.copy_from_slice(now);
            }
            self.filled = end;
            if end == length {
                self.next = self.read().unwrap_or_else(|| {
                    self.length = 0;
                    Next::Nothing
                });
            }
        }
    }

    /// How many bytes the core has at least, if it is whole; 0 where it does not say.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether more of it changes nothing.
    pub fn is_settled(&self) -> bool {
        matches!(self.next, Next::Nothing)
    }

    /// Takes what is held, and says what comes next; `None` where it makes no sense.
    fn read(&mut self) -> Option<Next> {
        match self.next {
            Next::Ident => {
                let layout = match (self.held.get(..4)?, self.held.get(4)?, self.held.get(5)?) {
                    (b"\x7fELF", 1, &ORDER) => &ELF32,
                    (b"\x7fELF", 2, &ORDER) => &ELF64,
                    _ => return None,
                };
                self.length = bytes(layout.header);
                Some(Next::Header(layout))
            }
            Next::Header(layout) => {
                let [entry, count, section, sections] =
                    [0, 2, 4, 6].map(|more| self.field((layout.counts + more, 2)));
                let (phoff, shoff) = (self.field(layout.phoff)?, self.field(layout.shoff)?);
                let sections = section?.checked_mul(sections?)?;
                self.promise(shoff, sections)?;
                let count = count?;
                let sound = self.field((IDENT, 2))? == ET_CORE
                    && entry? == bytes(layout.entry)
                    && phoff >= bytes(layout.header);
                if !sound {
                    return None;
                }
                if count == PN_XNUM {
                    return Some(Next::Nothing);
                }
                self.promise(phoff, count.checked_mul(bytes(layout.entry))?)?;
                Some(self.entry(layout, phoff, count))
            }
            Next::Entry(layout, begin, more) => {
                let (offset, filesz) = (self.field(layout.offset)?, self.field(layout.filesz)?);
                self.promise(offset, filesz)?;
                let next = begin.checked_add(bytes(layout.entry))?;
                Some(self.entry(layout, next, more))
            }
            Next::Nothing => Some(Next::Nothing),
        }
    }

    /// The first of so many program headers.
    fn entry(&mut self, layout: &'static Layout, begin: u64, count: u64) -> Next {
        self.filled = 0;
        match count.checked_sub(1) {
            Some(more) => Next::Entry(layout, begin, more),
            None => Next::Nothing,
        }
    }

    /// There will be so many bytes at this place; none are no promise.
    fn promise(&mut self, offset: u64, length: u64) -> Option<()> {
        if length > 0 {
            self.length = self.length.max(offset.checked_add(length)?);
        }
        Some(())
    }

    fn field(&self, (begin, length): Field) -> Option<u64> {
        let held = self.held.get(begin..begin + length)?;
        Some(match length {
            2 => u64::from(u16::from_ne_bytes(held.try_into().ok()?)),
            4 => u64::from(u32::from_ne_bytes(held.try_into().ok()?)),
            _ => u64::from_ne_bytes(held.try_into().ok()?),
        })
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(core: &mut [u8], (begin, length): Field, value: u64) {
        let place = core.get_mut(begin..begin + length).unwrap();
        let low = value.to_le_bytes();
        place.copy_from_slice(low.get(..length).unwrap());
        if cfg!(target_endian = "big") {
            place.reverse();
        }
    }

    /// The headers of a core with segments at these places.
    fn headers(layout: &Layout, segments: &[(u64, u64)]) -> Vec<u8> {
        let mut core = vec![0; layout.header];
        let class = if layout.header == 64 { 2 } else { 1 };
        core[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, ORDER]);
        put(&mut core, (IDENT, 2), ET_CORE);
        put(&mut core, layout.phoff, bytes(layout.header));
        put(&mut core, (layout.counts, 2), bytes(layout.entry));
        put(&mut core, (layout.counts + 2, 2), bytes(segments.len()));
        for (offset, size) in segments {
            let mut entry = vec![0; layout.entry];
            put(&mut entry, layout.offset, *offset);
            put(&mut entry, layout.filesz, *size);
            core.extend(entry);
        }
        core
    }

    fn promised(core: &[u8]) -> u64 {
        let promise = Promise::of(&mut &*core).unwrap();
        for step in [1, 7, 64, 1000] {
            let mut crumbs = Promise::default();
            for part in core.chunks(step) {
                crumbs.see(part);
            }
            assert_eq!(crumbs.length(), promise.length(), "in parts of {step}");
            assert_eq!(crumbs.is_settled(), promise.is_settled());
        }
        promise.length()
    }

    #[test]
    fn the_end_of_the_last_segment_is_promised_wherever_that_stands() {
        for layout in [&ELF32, &ELF64] {
            let core = headers(layout, &[(4096, 100), (12_288, 8192), (8192, 4096)]);
            assert_eq!(promised(&core), 20_480);
            // An empty one, as of memory that is not dumped, is nowhere.
            assert_eq!(promised(&headers(layout, &[(4096, 1), (9999, 0)])), 4097);
        }
    }

    #[test]
    fn headers_that_are_not_whole_promise_themselves() {
        let core = headers(&ELF64, &[(4096, 100); 3]);
        assert_eq!(promised(&core[..20]), 64);
        assert_eq!(promised(&core[..64]), 64 + 3 * 56);
        assert_eq!(promised(&core[..core.len() - 60]), 4196);
    }

    #[test]
    fn more_segments_than_can_be_counted_end_before_a_section_header() {
        let mut core = headers(&ELF64, &[]);
        put(&mut core, (ELF64.counts + 2, 2), PN_XNUM);
        assert_eq!(promised(&core), 64, "where it says nothing");
        put(&mut core, ELF64.shoff, 700_000_000);
        put(&mut core, (ELF64.counts + 4, 2), 64);
        put(&mut core, (ELF64.counts + 6, 2), 1);
        assert_eq!(promised(&core), 700_000_064);
    }

    #[test]
    fn what_is_no_core_or_contradicts_itself_promises_nothing() {
        assert_eq!(promised(b""), 0);
        assert_eq!(promised(b"\x7fELF and so on, and so on"), 0);
        assert_eq!(promised(&[b'x'; 5000]), 0);
        let core = headers(&ELF64, &[(4096, 100)]);
        let with = |field: Field, value: u64| {
            let mut core = core.clone();
            put(&mut core, field, value);
            promised(&core)
        };
        assert_eq!(with((IDENT, 2), 2), 0, "a program");
        assert_eq!(with((5, 1), u64::from(3 - ORDER)), 0, "of another machine");
        assert_eq!(with((ELF64.counts, 2), 55), 0);
        assert_eq!(with((ELF64.counts, 2), 0), 0);
        assert_eq!(with(ELF64.phoff, 0), 0);
        assert_eq!(with(ELF64.phoff, u64::MAX), 0);
        assert_eq!(with((64 + 8, 8), u64::MAX), 0);
        // One that only says what cannot be is held to its word.
        assert_eq!(with(ELF64.phoff, u64::MAX / 2), u64::MAX / 2 + 56);
    }
}
