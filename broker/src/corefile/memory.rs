//! Parts of the crashed process's memory.

use super::MEMORY_MAX;
use super::bytes::Bytes;
use super::elf::{Class, Segment};
use super::source::Source;

/// Some of it, by address.
#[derive(Debug, Default)]
pub(super) struct Memory {
    parts: Vec<(u64, Vec<u8>)>,
}

/// A part that is to be read.
#[derive(Debug, Clone, Copy)]
struct Part {
    offset: u64,
    start: u64,
    length: u64,
}

impl Memory {
    /// Reads these addresses, as much as is wanted of each and in the core, which stands at `here`.
    pub(super) fn read(
        core: &mut dyn Source,
        here: u64,
        segments: &[Segment],
        wanted: Vec<(u64, u64)>,
        unread: &mut Vec<String>,
    ) -> Self {
        let mut memory = Self::default();
        let mut by_address: Vec<&Segment> = segments.iter().filter(|s| s.is_memory()).collect();
        by_address.sort_unstable_by_key(|segment| segment.start);
        let parts = wanted.into_iter().filter_map(|(start, length)| {
            let behind = by_address.partition_point(|segment| segment.start <= start);
            let segment = by_address.get(behind.checked_sub(1)?)?;
            let into = start - segment.start;
            let length = segment.size.checked_sub(into)?.min(length);
            let offset = segment.offset.checked_add(into)?;
            (length > 0).then_some(Part {
                offset,
                start,
                length,
            })
        });
        let mut parts: Vec<Part> = parts.collect();
        parts.sort_unstable_by_key(|part| part.offset);
        let (mut at, mut room) = (here, MEMORY_MAX);
        for mut part in parts {
            // Of parts that overlap, the second one begins behind the first.
            let before = at.saturating_sub(part.offset);
            part.offset += before;
            part.start = part.start.saturating_add(before);
            part.length = part.length.saturating_sub(before).min(room);
            let Ok(length) = usize::try_from(part.length) else {
                continue;
            };
            if length == 0 {
                continue;
            }
            let mut bytes = vec![0; length];
            let read = core
                .pass(part.offset - at)
                .and_then(|()| core.fetch(&mut bytes));
            if let Err(error) = read {
                unread.push(format!(
                    "memory: the core ends early or cannot be read: {error}"
                ));
                break;
            }
            at = part.offset + part.length;
            room -= part.length;
            memory.parts.push((part.start, bytes));
        }
        memory.parts.sort_unstable_by_key(|(start, _)| *start);
        memory
    }

    /// What is known from this address on; empty where nothing is.
    pub(super) fn at(&self, address: u64) -> &[u8] {
        let behind = self.parts.partition_point(|(start, _)| *start <= address);
        let part = behind
            .checked_sub(1)
            .and_then(|place| self.parts.get(place));
        part.and_then(|(start, bytes)| bytes.get(usize::try_from(address - start).ok()?..))
            .unwrap_or_default()
    }

    /// The word at an address, as long as an address.
    pub(super) fn word(&self, address: u64, class: Class) -> Option<u64> {
        Bytes(self.at(address)).word(0, class)
    }
}
