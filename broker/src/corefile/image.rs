//! A file that was mapped, as it is now: unwinding information and names of functions. Read by what the program loader
//! reads where that is enough; names, and what has no index, are found by sections.

use std::io::{Read, Seek, SeekFrom};

use upcall_config::text::escape;

use super::bytes::Bytes;
use super::elf::Class;
use super::modules::HEADER;
use super::unwind::{self, Table};

/// elf(5).
const LITTLE_ENDIAN: u8 = 1;
const PT_LOAD: u32 = 1;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_GLOBAL: u8 = 1;

/// The most unwinding information of one file.
const TABLE_MAX: u64 = 64 << 20;

/// The longest entry of a table of sections.
const SECTION_MAX: usize = 256;

/// How many symbols of one table are looked at.
const SYMBOLS_MAX: u64 = 1 << 20;

/// The longest name of a function that is shown; those of C++ can be longer.
const NAME_MAX: u64 = 256;

/// An open file of the container's.
pub trait Mapped: Read + Seek {}

impl<T: Read + Seek> Mapped for T {}

/// One file, of the build that crashed.
pub(super) struct Image {
    file: Box<dyn Mapped>,
    class: Class,
    /// What is added to the file's own addresses.
    bias: u64,
    /// How to go up from its functions.
    pub(super) table: Option<Table>,
    symbols: Vec<Symbols>,
}

/// A table of symbols and its names: where in the file, and how long.
struct Symbols {
    entries: (u64, u64),
    names: (u64, u64),
}

/// A part of a file that is loaded, or the index of its unwinding information.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Image {
    /// Reads a file that begins at `start` in memory, where the core has `page`; `None` if it is another one. What is
    /// remembered of it comes off `room`.
    pub(super) fn read(
        mut file: Box<dyn Mapped>,
        start: u64,
        page: &[u8],
        room: &mut u64,
    ) -> Option<Self> {
        let header = part(&mut *file, 0, HEADER)?;
        let class = match (page.get(..4)?, page.get(4)?, page.get(5)?) {
            (b"\x7fELF", 1, &LITTLE_ENDIAN) => Class::Bits32,
            (b"\x7fELF", 2, &LITTLE_ENDIAN) => Class::Bits64,
            _ => return None,
        };
        // The header says where everything is, and the build-id stands behind it.
        let rest = page.get(header.len()..).unwrap_or_default();
        let same = page.iter().zip(&header).all(|(one, other)| one == other);
        if page.len() < 64 || !same || rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        let header = Bytes(&header);
        let segments = segments(header, class)?;
        let first = segments.iter().find(|part| part.kind == PT_LOAD)?;
        let bias = start.wrapping_sub(first.address.wrapping_sub(first.offset));
        let (sections, names) = sections(&mut *file, header, class).unwrap_or_default();
        let mut image = Self {
            file,
            class,
            bias,
            table: None,
            symbols: symbols(&sections),
        };
        image.table = match segments.iter().find(|part| part.kind == PT_GNU_EH_FRAME) {
            Some(index) => image.indexed(index, &segments, room),
            // Programs that are linked statically may have none.
            None => eh_frame(&mut *image.file, &sections, names)
                .and_then(|frames| image.unindexed(&frames, room)),
        };
        Some(image)
    }

    /// Unwinding information by its index, which the program loader knows.
    fn indexed(&mut self, index: &Segment, segments: &[Segment], room: &mut u64) -> Option<Table> {
        let bytes = self.take(index.offset, index.size, room)?;
        let address = unwind::frames_of(&bytes, index.address, self.class)?;
        let mut loaded = segments.iter().filter(|part| part.kind == PT_LOAD);
        let (into, held) = loaded.find_map(|part| {
            let into = address.checked_sub(part.address)?;
            (into < part.size).then_some((into, part))
        })?;
        let frames = self.take(held.offset.checked_add(into)?, held.size - into, room)?;
        Some(Table {
            index: Some((self.bias.wrapping_add(index.address), bytes)),
            frames: (self.bias.wrapping_add(address), frames),
        })
    }

    fn unindexed(&mut self, frames: &Segment, room: &mut u64) -> Option<Table> {
        let bytes = self.take(frames.offset, frames.size, room)?;
        Some(Table {
            index: None,
            frames: (self.bias.wrapping_add(frames.address), bytes),
        })
    }

    /// Bytes of the file that are remembered.
    fn take(&mut self, offset: u64, size: u64, room: &mut u64) -> Option<Vec<u8>> {
        let bytes = part(&mut *self.file, offset, size.min(TABLE_MAX).min(*room))?;
        *room = room.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Some(bytes)
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// The function at an address in memory: its name, escaped, and how far behind its beginning. Only what a symbol
    /// says it covers, since what is merely near would look as sure.
    pub(super) fn symbol(&mut self, address: u64) -> Option<(String, u64)> {
        let wanted = address.wrapping_sub(self.bias);
        let (file, class) = (&mut *self.file, self.class);
        self.symbols.iter().find_map(|table| {
            let Function { begins, name, .. } = find(file, table, wanted, class)?;
            let left = table.names.1.checked_sub(name)?.min(NAME_MAX);
            let bytes = part(file, table.names.0.checked_add(name)?, left)?;
            let name = bytes.split(|byte| *byte == 0).next()?;
            (!name.is_empty()).then(|| (escape(name), wanted - begins))
        })
    }
}

/// A function, as a symbol has it.
struct Function {
    begins: u64,
    length: u64,
    global: bool,
    /// Where its name is among the names.
    name: u64,
}

/// The symbol that covers an address: the innermost, and of those a global one.
fn find(file: &mut dyn Mapped, table: &Symbols, wanted: u64, class: Class) -> Option<Function> {
    let each: u16 = match class {
        Class::Bits32 => 16,
        Class::Bits64 => 24,
    };
    let size = table.entries.1.min(SYMBOLS_MAX * u64::from(each));
    file.seek(SeekFrom::Start(table.entries.0)).ok()?;
    let mut entries = std::io::BufReader::with_capacity(64 << 10, file.take(size));
    let mut entry = vec![0; usize::from(each)];
    let mut best: Option<Function> = None;
    while entries.read_exact(&mut entry).is_ok() {
        let Some(found) = function(Bytes(&entry), class) else {
            continue;
        };
        let into = wanted.checked_sub(found.begins);
        let rank = |function: &Function| (function.begins, function.global);
        if into.is_some_and(|into| into < found.length)
            && best.as_ref().is_none_or(|best| rank(&found) > rank(best))
        {
            best = Some(found);
        }
    }
    best
}

/// A symbol, if it is a function that is defined here.
fn function(entry: Bytes<'_>, class: Class) -> Option<Function> {
    let (info, section, begins, length) = match class {
        Class::Bits32 => (entry.0.get(12)?, entry.u16(14)?, 4, 8),
        Class::Bits64 => (entry.0.get(4)?, entry.u16(6)?, 8, 16),
    };
    let function = Function {
        begins: entry.word(begins, class)?,
        length: entry.word(length, class)?,
        global: info >> 4 == STB_GLOBAL,
        name: u64::from(entry.u32(0)?),
    };
    let defined = section != 0 && [STT_FUNC, STT_GNU_IFUNC].contains(&(info & 15));
    defined.then_some(function)
}

/// What is loaded, and the index of unwinding information.
fn segments(header: Bytes<'_>, class: Class) -> Option<Vec<Segment>> {
    let (table, sizes) = match class {
        Class::Bits32 => (header.word(28, class)?, 42),
        Class::Bits64 => (header.word(32, class)?, 54),
    };
    let table = usize::try_from(table).ok()?;
    let each = usize::from(header.u16(sizes)?);
    let count = usize::from(header.u16(sizes + 2)?);
    let segments = (0..count).map_while(|place| {
        let at = table.checked_add(place.checked_mul(each)?)?;
        let entry = header.part(at, each)?;
        let (offset, address, size) = match class {
            Class::Bits32 => (4, 8, 16),
            Class::Bits64 => (8, 16, 32),
        };
        Some(Segment {
            kind: entry.u32(0)?,
            offset: entry.word(offset, class)?,
            address: entry.word(address, class)?,
            size: entry.word(size, class)?,
        })
    });
    Some(segments.collect())
}

/// A part of a file that need not be loaded.
struct Section {
    name: u64,
    kind: u32,
    address: u64,
    /// Where in the file, and how long.
    place: (u64, u64),
    link: usize,
}

/// The sections, and the number of that with their names.
fn sections(
    file: &mut dyn Mapped,
    header: Bytes<'_>,
    class: Class,
) -> Option<(Vec<Section>, usize)> {
    let (table, sizes) = match class {
        Class::Bits32 => (header.word(32, class)?, 46),
        Class::Bits64 => (header.word(40, class)?, 58),
    };
    let each = usize::from(header.u16(sizes)?);
    let count = usize::from(header.u16(sizes + 2)?);
    let names = usize::from(header.u16(sizes + 4)?);
    // They are 40 or 64 bytes long; a file that says otherwise would have us read up to 4 GiB.
    if each > SECTION_MAX {
        return None;
    }
    let table = part(file, table, u64::try_from(count.checked_mul(each)?).ok()?)?;
    let section = |place: usize| {
        let entry = Bytes(&table).part(place.checked_mul(each)?, each)?;
        let (address, offset, size, link) = match class {
            Class::Bits32 => (12, 16, 20, 24),
            Class::Bits64 => (16, 24, 32, 40),
        };
        Some(Section {
            name: u64::from(entry.u32(0)?),
            kind: entry.u32(4)?,
            address: entry.word(address, class)?,
            place: (entry.word(offset, class)?, entry.word(size, class)?),
            link: usize::try_from(entry.u32(link)?).ok()?,
        })
    };
    Some(((0..count).map_while(section).collect(), names))
}

/// The tables of symbols: all of them first, where the file still has them, then those for the linker at run time.
fn symbols(sections: &[Section]) -> Vec<Symbols> {
    let of_kind = |kind| {
        let table = sections.iter().find(|section| section.kind == kind)?;
        let names = sections.get(table.link)?.place;
        let entries = table.place;
        Some(Symbols { entries, names })
    };
    let tables = [SHT_SYMTAB, SHT_DYNSYM].into_iter();
    tables.filter_map(of_kind).collect()
}

/// `.eh_frame`, as a segment.
fn eh_frame(file: &mut dyn Mapped, sections: &[Section], names: usize) -> Option<Segment> {
    let (names, length) = sections.get(names)?.place;
    let named = |section: &&Section| {
        let wanted = b".eh_frame\0";
        let size = u64::try_from(wanted.len()).unwrap_or(0);
        let at = Some(section.name).filter(|name| *name < length);
        let at = at.and_then(|name| names.checked_add(name));
        at.and_then(|at| part(file, at, size)).as_deref() == Some(wanted)
    };
    let section = sections
        .iter()
        .filter(|section| section.address != 0)
        .find(named)?;
    Some(Segment {
        kind: PT_LOAD,
        offset: section.place.0,
        address: section.address,
        size: section.place.1,
    })
}

/// Bytes of a file, as many as there are.
fn part(file: &mut dyn Mapped, offset: u64, length: u64) -> Option<Vec<u8>> {
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
