//! Which files were mapped, and which builds of them.

use std::collections::BTreeMap;

use upcall_config::text::escape;

use super::bytes::{Bytes, notes};
use super::elf::Class;
use super::memory::Memory;
use super::model::{Crash, Module};
use super::notes::Notes;

/// How much of a file's beginning is looked at: what the kernel dumps of it (coredump_filter, bit 4 in core(5)).
pub(super) const HEADER: u64 = 4096;

/// How many files are listed.
pub(super) const MODULES_MAX: usize = 4096;

/// elf(5).
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// Puts the mapped files into the crash: those whose beginning is an ELF header, by address.
pub(super) fn identify(crash: &mut Crash, notes: &Notes, memory: &Memory, class: Class) {
    let mut modules: BTreeMap<u64, Module> = BTreeMap::new();
    for mapping in &notes.files {
        if mapping.offset == 0 && modules.len() < MODULES_MAX {
            let header = Bytes(memory.at(mapping.start));
            let known = header.0.is_empty() || header.0.starts_with(b"\x7fELF");
            let elf = known && !mapping.path.is_empty();
            if elf {
                modules.insert(
                    mapping.start,
                    Module {
                        path: escape(&mapping.path),
                        start: mapping.start,
                        end: mapping.end,
                        build_id: build_id(header, class),
                    },
                );
                continue;
            }
        }
        // The rest of the file, mapped behind its beginning.
        let before = modules.range_mut(..mapping.start).next_back();
        if let Some((_, module)) = before.filter(|(_, module)| module.path == escape(&mapping.path))
        {
            module.end = module.end.max(mapping.end);
        }
    }
    crash.modules = modules.into_values().collect();
}

/// The build-id of a file whose first bytes these are.
pub(super) fn build_id(file: Bytes<'_>, class: Class) -> Option<String> {
    let (table, sizes) = match class {
        Class::Bits32 => (file.word(28, class)?, 42),
        Class::Bits64 => (file.word(32, class)?, 54),
    };
    let table = usize::try_from(table).ok()?;
    let (each, count) = (
        usize::from(file.u16(sizes)?),
        usize::from(file.u16(sizes + 2)?),
    );
    (0..count).find_map(|place| {
        let entry = file.part(table.checked_add(place.checked_mul(each)?)?, each)?;
        let (offset, length) = match class {
            Class::Bits32 => (entry.word(4, class)?, entry.word(16, class)?),
            Class::Bits64 => (entry.word(8, class)?, entry.word(32, class)?),
        };
        if entry.u32(0)? != PT_NOTE {
            return None;
        }
        let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        let mut list = notes(file.part(offset, length)?);
        let (_, _, id) =
            list.find(|(name, kind, _)| *name == b"GNU" && *kind == NT_GNU_BUILD_ID)?;
        let id = id.0.get(..id.0.len().min(64))?;
        let digit = |half: u8| char::from_digit(u32::from(half), 16);
        let digits = id
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
        Some(digits.flatten().collect())
    })
}
