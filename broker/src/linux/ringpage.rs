//! Pages of the kernel's trace ring buffer, as `trace_pipe_raw` gives them (kernel/trace/ring_buffer.c;
//! `events/header_page` and `events/header_event` describe them): bytes in, plain data out, nothing read here.
//!
//! The text that tracefs shows has names in it that tenants choose, with any bytes; this has none.

/// A page starts with a time and a length; its events follow (64-bit kernels).
const HEADER: usize = 16;

/// Bits above a page's length that say that events were lost before it.
const MISSED: u64 = 3 << 30;

/// Upper bits of an absolute time, which its event has no room for (`TS_MSB`).
const UPPER: u64 = 0xf8 << 56;

/// What was read of one page.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Page<'a> {
    /// When, by the buffer's clock, and the event's own bytes.
    pub events: Vec<(u64, &'a [u8])>,
    /// Whether older events were written over before they were read.
    pub lost: bool,
}

/// Reads a page. What does not fit ends it; nothing behind is believed.
pub fn page(bytes: &[u8]) -> Page<'_> {
    let mut page = Page::default();
    let (Some(start), Some(length)) = (long(bytes, 0), long(bytes, 8)) else {
        return page;
    };
    page.lost = length & MISSED != 0;
    let length = usize::try_from(length & u64::from(u32::MAX) & !MISSED).unwrap_or(usize::MAX);
    let mut rest = bytes.get(HEADER..).unwrap_or_default();
    rest = rest.get(..length).unwrap_or(rest);
    let mut time = start;
    while let (Some(word), second) = (word(rest, 0), word(rest, 4)) {
        let (kind, delta) = (word & 31, u64::from(word >> 5));
        let longer = || Some((u64::from(second?) << 27) | delta);
        let known: Option<(usize, usize)> = match kind {
            // The length follows, itself included.
            0 => {
                let size = second.and_then(|size| usize::try_from(size).ok());
                size.filter(|size| *size >= 4).map(|size| (8, size - 4))
            }
            1..=28 => usize::try_from(kind).ok().map(|words| (4, words * 4)),
            // Padding up to the end, or an event that was taken back.
            29 if delta == 0 => None,
            29 => {
                let size = second.and_then(|size| usize::try_from(size).ok());
                size.map(|size| (4, size))
            }
            _ => Some((8, 0)),
        };
        let Some((head, size)) = known else { break };
        let Some(event) = head.checked_add(size).and_then(|end| rest.get(head..end)) else {
            break;
        };
        time = match kind {
            30 => longer().map_or(time, |delta| time.wrapping_add(delta)),
            31 => longer().map_or(time, |low| (low & !UPPER) | (start & UPPER)),
            _ => time.wrapping_add(delta),
        };
        if kind <= 28 {
            page.events.push((time, event));
        }
        let next = (head + size).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
    }
    page
}

/// Where a field is in an event, from the event's `format` file, where it is one line with its type, name, `offset:` and `size:`.
pub fn offset(format: &str, name: &str) -> Option<usize> {
    let line = format.lines().find(|line| {
        let declared = line.trim_start().strip_prefix("field:");
        let declared = declared.and_then(|rest| rest.split(';').next());
        declared.is_some_and(|text| text.split_ascii_whitespace().next_back() == Some(name))
    })?;
    number(line, "offset:")
}

/// How long a page is that is read, header included, from `events/header_page`.
pub fn size(header: &str) -> Option<usize> {
    let line = header.lines().find(|line| line.contains(" data;"))?;
    number(line, "offset:")?.checked_add(number(line, "size:")?)
}

fn number(line: &str, key: &str) -> Option<usize> {
    let (_, rest) = line.split_once(key)?;
    rest.split(';').next()?.trim().parse().ok()
}

/// Eight bytes at this place, in the machine's order.
pub fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

/// Four bytes at this place, in the machine's order.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(time: u64, length: u64, events: &[u32]) -> Vec<u8> {
        let words = events.iter().flat_map(|word| word.to_ne_bytes());
        let head = [time, length]
            .into_iter()
            .flat_map(u64::to_ne_bytes)
            .chain(words);
        let mut page: Vec<u8> = head.collect();
        page.resize(4096, 0xee);
        page
    }

    #[test]
    fn events_of_every_length_have_their_times() {
        let bytes = made(
            1000,
            (11 * 4) | (1 << 31),
            &[
                (5 << 5) + 2, // two words, 5 later
                1,
                2,
                (7 << 5) + 30, // a long time
                1,
                3 << 5, // its length in the next word
                8,
                9,
                (4 << 5) + 29, // taken back
                4,
                0,
            ],
        );
        let found = page(&bytes);
        assert!(found.lost);
        let times: Vec<u64> = found.events.iter().map(|(time, _)| *time).collect();
        let later = 1005 + 7 + (1 << 27);
        assert_eq!(times, [1005, later + 3]);
        let words: Vec<Option<u32>> = found.events.iter().map(|(_, e)| word(e, 0)).collect();
        assert_eq!(words, [Some(1), Some(9)]);
    }

    #[test]
    fn nothing_behind_the_length_or_a_broken_event_is_believed() {
        assert_eq!(page(&[]), Page::default());
        assert!(page(&made(0, 0, &[1, 1])).events.is_empty());
        assert!(page(&made(0, 8, &[3, 1, 1, 1])).events.is_empty());
        assert!(page(&made(0, 8, &[0, 3])).events.is_empty());
        assert!(page(&made(0, 8, &[0, u32::MAX])).events.is_empty());
        assert_eq!(
            page(&made(0, u64::MAX, &[1, 7]))
                .events
                .first()
                .map(|e| e.0),
            Some(0)
        );
    }

    #[test]
    fn formats_say_where_a_field_is() {
        let format = "name: exec\nID: 1392\nformat:\n\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
                      \tfield:u64 sub;\toffset:16;\tsize:8;\tsigned:0;\n";
        assert_eq!(offset(format, "sub"), Some(16));
        assert_eq!(offset(format, "common_pid"), Some(4));
        assert_eq!(offset(format, "su"), None);
        let header = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
                      \tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n";
        assert_eq!(size(header), Some(4096));
    }
}
