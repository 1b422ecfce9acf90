//! The small languages inside of texts: sizes, times, rates, ranges. Pure; the words say what is wrong.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::plan::Rate;

/// Bytes, as in `4GiB` or `4096`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => {
            let first = unit.chars().next().map(|c| c.to_ascii_uppercase());
            return Err(match first {
                Some(c @ ('K' | 'M' | 'G' | 'T')) if !number.is_empty() => {
                    format!("write `{number}{c}iB`")
                }
                _ => "write a number and KiB, MiB, GiB or TiB".to_owned(),
            });
        }
    };
    let number: u64 = number.parse().map_err(|_| whole_number(number))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "more bytes than can be counted".to_owned())
}

/// A size in the largest unit that keeps it whole.
pub(super) fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// A time in the largest unit that keeps it whole.
pub(super) fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (size, unit) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
    ] {
        if milliseconds != 0 && milliseconds.is_multiple_of(size) {
            return format!("{}{unit}", milliseconds / size);
        }
    }
    format!("{milliseconds}ms")
}

/// A time, as in `30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        "" if !number.is_empty() => return Err(format!("write `{number}s`, or ms, m, h, d")),
        "sec" | "secs" | "second" | "seconds" => return Err(format!("write `{number}s`")),
        "min" | "mins" | "minute" | "minutes" => return Err(format!("write `{number}m`")),
        _ => return Err("write a number and ms, s, m, h or d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| whole_number(number))?;
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(|| "longer than can be counted".to_owned())
}

/// A rate, as in `10/min`.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let form = || "write a number, `/` and s, min, h or day".to_owned();
    let (count, unit) = text.split_once('/').ok_or_else(form)?;
    let seconds = match unit {
        "s" => 1,
        "min" => 60,
        "h" => 60 * 60,
        "day" => 24 * 60 * 60,
        "sec" | "second" => return Err(format!("write `{count}/s`")),
        "m" | "minute" => return Err(format!("write `{count}/min`")),
        "hour" => return Err(format!("write `{count}/h`")),
        "d" => return Err(format!("write `{count}/day`")),
        _ => return Err(form()),
    };
    if !is_number(count) {
        return Err(form());
    }
    match count.parse() {
        Ok(0) => Err("write at least 1; to refuse everything use `deny`".to_owned()),
        Ok(count @ 1..=1_000_000) => Ok(Rate {
            count,
            per: Duration::from_secs(seconds),
        }),
        _ => Err("write at most 1000000".to_owned()),
    }
}

/// Numbers from one to another, as in `1000-1999`.
pub(super) fn range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let form = || "write a number without quotes, or a range such as \"1000-1999\"".to_owned();
    let (low, high) = text.split_once('-').ok_or_else(form)?;
    if !is_number(low) || !is_number(high) {
        return Err(form());
    }
    match (low.parse(), high.parse()) {
        (Ok(low), Ok(high)) if low <= high => Ok(low..=high),
        (Ok(_), Ok(_)) => Err(format!("write \"{high}-{low}\"")),
        _ => Err(format!("the largest number is {}", u32::MAX)),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn whole_number(number: &str) -> String {
    if number.is_empty() {
        "begin with a whole number".to_owned()
    } else {
        "the number is too large".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("1KiB"), Ok(1024));
        assert_eq!(size("4GiB"), Ok(4 << 30));
        assert_eq!(size("3TiB"), Ok(3 << 40));
        assert_eq!(size("4GB"), Err("write `4GiB`".into()));
        assert_eq!(size("4g"), Err("write `4GiB`".into()));
        assert_eq!(
            size("18446744073709551616"),
            Err("the number is too large".into())
        );
        assert_eq!(
            size("16777216TiB"),
            Err("more bytes than can be counted".into())
        );
        for bad in [
            "", "GiB", "1.5GiB", "-1", "+1", " 1", "1 GiB", "4GiBx", "0x10",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
        assert_eq!(duration("2d"), Ok(Duration::from_hours(48)));
        assert_eq!(duration("5min"), Err("write `5m`".into()));
        assert_eq!(duration("30"), Err("write `30s`, or ms, m, h, d".into()));
        for bad in [
            "",
            "s",
            "1.5s",
            "-1s",
            "1h30m",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_times_are_written_as_they_are_read() {
        for text in ["4GiB", "1023KiB", "1MiB", "7TiB"] {
            assert_eq!(size_text(size(text).unwrap()), text);
        }
        assert_eq!(size_text(0), "0 bytes");
        assert_eq!(size_text(1025), "1025 bytes");
        for text in ["500ms", "90s", "5m", "1h"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn rates() {
        let of = |count, per| {
            let per = Duration::from_secs(per);
            Ok(Rate { count, per })
        };
        assert_eq!(rate("10/min"), of(10, 60));
        assert_eq!(rate("1/s"), of(1, 1));
        assert_eq!(rate("2/h"), of(2, 3600));
        assert_eq!(rate("3/day"), of(3, 86400));
        assert_eq!(rate("10/m"), Err("write `10/min`".into()));
        for bad in [
            "",
            "10",
            "/min",
            "0/min",
            "-1/min",
            "+1/min",
            "1/",
            "1000001/s",
            "99999999999/s",
            "1/week",
        ] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges() {
        assert_eq!(range("1000-1999"), Ok(1000..=1999));
        assert_eq!(range("0-0"), Ok(0..=0));
        assert_eq!(range("2-1"), Err("write \"1-2\"".into()));
        for bad in [
            "",
            "1",
            "-",
            "1-",
            "-1",
            "1-2-3",
            "a-b",
            "1 - 2",
            "+1-2",
            "0-4294967296",
        ] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
