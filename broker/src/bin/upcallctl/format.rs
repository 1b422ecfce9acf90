//! Times, sizes and durations as people read them. Every figure has its unit.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// `412 MiB`, `3.1 GiB`: two digits at least.
pub(crate) fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift == 0 {
            continue;
        }
        let tenths = (u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift;
        return if tenths < 100 {
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        } else {
            format!("{} {unit}", (tenths + 5) / 10)
        };
    }
    format!("{bytes} B")
}

/// `2 GiB`: a size that somebody set, to the byte.
pub(crate) fn size_set(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

/// `0.21 ms`, `3.1 ms`, `372 ms`, `12.3 s`.
pub(crate) fn duration(us: u64) -> String {
    match us {
        0..1000 => format!("0.{:02} ms", us / 10),
        1000..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

/// Milliseconds without their unit, for a row of them: `0.02`, `371.4`.
pub(crate) fn milliseconds(us: u64) -> String {
    if us < 100_000 {
        format!("{}.{:02}", us / 1000, us % 1000 / 10)
    } else {
        format!("{}.{}", us / 1000, us % 1000 / 100)
    }
}

/// Seconds from then to now; a clock that was set back makes none.
fn since(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_second() - then.as_second()).unwrap_or(0)
}

/// `2m ago`: one unit, short.
pub(crate) fn ago_short(then: Timestamp, now: Timestamp) -> String {
    match since(then, now) {
        seconds @ 0..60 => format!("{seconds}s ago"),
        seconds @ 60..3600 => format!("{}m ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h ago", seconds / 3600),
        seconds => format!("{}d ago", seconds / 86_400),
    }
}

/// `2 min ago`: one unit, in words.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    match since(then, now) {
        seconds @ 0..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h ago", seconds / 3600),
        seconds @ 86_400..172_800 => format!("{} day ago", seconds / 86_400),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

/// `5h 53m ago`: two units.
pub(crate) fn ago_long(then: Timestamp, now: Timestamp) -> String {
    match since(then, now) {
        seconds @ 0..60 => format!("{seconds}s ago"),
        seconds @ 60..3600 => format!("{}m {}s ago", seconds / 60, seconds % 60),
        seconds @ 3600..86_400 => {
            format!("{}h {}m ago", seconds / 3600, seconds % 3600 / 60)
        }
        seconds => format!("{}d {}h ago", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `14:03:22`, and a date before it if it was not within a day.
pub(crate) fn clock(then: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let local = then.to_zoned(zone.clone());
    let format = if since(then, now) < 86_400 {
        "%H:%M:%S"
    } else {
        "%b %d %H:%M:%S"
    };
    local.strftime(format).to_string()
}

/// `14:05:02.114`.
pub(crate) fn clock_exact(then: Timestamp, zone: &TimeZone) -> String {
    let local = then.to_zoned(zone.clone());
    format!("{}.{:03}", local.strftime("%H:%M:%S"), local.millisecond())
}

/// `Nov 20 09:12`, and the year if it is another one.
pub(crate) fn day(then: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let local = then.to_zoned(zone.clone());
    let format = if local.year() == now.to_zoned(zone.clone()).year() {
        "%b %d %H:%M"
    } else {
        "%Y-%m-%d"
    };
    local.strftime(format).to_string()
}

/// `Sun 2026-11-22 08:11:04`.
pub(crate) fn date(then: Timestamp, zone: &TimeZone) -> String {
    let local = then.to_zoned(zone.clone());
    local.strftime("%a %Y-%m-%d %H:%M:%S").to_string()
}

/// `Sun 2026-11-22 14:03:22.114 CET`.
pub(crate) fn date_exact(then: Timestamp, zone: &TimeZone) -> String {
    let local: Zoned = then.to_zoned(zone.clone());
    let day = local.strftime("%a %Y-%m-%d %H:%M:%S").to_string();
    format!("{day}.{:03} {}", local.millisecond(), local.strftime("%Z"))
}

/// From microseconds since the epoch.
pub(crate) fn timestamp(micros: u64) -> Timestamp {
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// `1 core`, `2 cores`.
pub(crate) fn count(number: usize, word: &str) -> String {
    if number == 1 {
        format!("1 {word}")
    } else {
        format!("{number} {word}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_at_least() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (397_312, "388 KiB"),
            (3 << 20 | 1 << 17, "3.1 MiB"),
            (432_013_312, "412 MiB"),
            (10_276_044, "9.8 MiB"),
            (10 * (1 << 30) - 1, "10 GiB"),
            (61 << 30, "61 GiB"),
            (u64::MAX, "16777216 TiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        let set = [2 << 30, 1536 << 20, 0, 4097].map(size_set);
        assert_eq!(set, ["2 GiB", "1536 MiB", "0 B", "4097 B"]);
    }

    #[test]
    fn durations_have_the_digits_that_matter() {
        let durations = [
            (0, "0.00 ms"),
            (210, "0.21 ms"),
            (3149, "3.1 ms"),
            (372_150, "372 ms"),
            (12_345_678, "12.3 s"),
        ];
        for (us, text) in durations {
            assert_eq!(duration(us), text);
        }
        assert_eq!(milliseconds(21), "0.02");
        assert_eq!(milliseconds(371_402), "371.4");
    }

    #[test]
    fn distances_and_times_of_day() {
        let zone = TimeZone::posix("CET-1").unwrap();
        let now: Timestamp = "2026-11-22T13:05:30Z".parse().unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let recent = at("2026-11-22T13:03:22.114203Z");
        assert_eq!(ago_short(recent, now), "2m ago");
        assert_eq!(ago(recent, now), "2 min ago");
        assert_eq!(clock(recent, now, &zone), "14:03:22");
        assert_eq!(clock_exact(recent, &zone), "14:03:22.114");
        assert_eq!(date_exact(recent, &zone), "Sun 2026-11-22 14:03:22.114 CET");
        let started = at("2026-11-22T07:11:04Z");
        assert_eq!(ago_long(started, now), "5h 54m ago");
        assert_eq!(date(started, &zone), "Sun 2026-11-22 08:11:04");
        let old = at("2026-11-20T08:12:00Z");
        assert_eq!(day(old, now, &zone), "Nov 20 09:12");
        assert_eq!(clock(old, now, &zone), "Nov 20 09:12:00");
        assert_eq!(day(at("2025-11-20T08:12:00Z"), now, &zone), "2025-11-20");
        assert_eq!(
            (ago_long(old, now), ago(old, now)),
            ("2d 4h ago".into(), "2 days ago".into())
        );
        // A clock that was set back.
        assert_eq!(ago_short(now, recent), "0s ago");
    }
}
