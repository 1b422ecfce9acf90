//! Little-endian numbers in bytes of somebody else's: each access is checked, none can panic.

use super::elf::Class;

/// Some bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        let end = at.checked_add(N)?;
        self.0.get(at..end)?.try_into().ok()
    }

    pub(super) fn u16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn u32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(super) fn i32(self, at: usize) -> Option<i32> {
        self.array(at).map(i32::from_le_bytes)
    }

    pub(super) fn u64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// A number as long as an address.
    pub(super) fn word(self, at: usize, class: Class) -> Option<u64> {
        match class {
            Class::Bits32 => self.u32(at).map(u64::from),
            Class::Bits64 => self.u64(at),
        }
    }

    /// Bytes from there up to a NUL, at most so many.
    pub(super) fn text(self, at: usize, most: usize) -> Option<&'a [u8]> {
        let rest = self.0.get(at..)?;
        let rest = rest.get(..most).unwrap_or(rest);
        rest.split(|byte| *byte == 0).next()
    }

    /// So many bytes from there.
    pub(super) fn part(self, at: usize, length: usize) -> Option<Bytes<'a>> {
        self.0.get(at..at.checked_add(length)?).map(Bytes)
    }
}

/// One note of a list (elf(5), `Elf64_Nhdr`): its name, its kind, its content.
pub(super) fn notes(list: Bytes<'_>) -> impl Iterator<Item = (&[u8], u32, Bytes<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let number = |place| usize::try_from(list.u32(place)?).ok();
        let (name, content) = (number(at)?, number(at + 4)?);
        let kind = list.u32(at + 8)?;
        let name_at = at + 12;
        let content_at = name_at.checked_add(padded(name)?)?;
        let text = list.text(name_at, name)?;
        let bytes = list.part(content_at, content)?;
        at = content_at.checked_add(padded(content)?)?;
        Some((text, kind, bytes))
    })
}

/// A length up to the next multiple of 4.
pub(super) fn padded(length: usize) -> Option<usize> {
    length.checked_next_multiple_of(4)
}
