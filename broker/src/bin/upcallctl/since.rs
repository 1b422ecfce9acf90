//! `--since`: a distance, a day, a time.

use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

use crate::look::Look;

/// What was written, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// So long before now.
    Before(SignedDuration),
    /// Local midnight so many days before today's.
    Midnight(u8),
    /// A local time.
    Local(DateTime),
    /// A moment.
    Moment(Timestamp),
}

impl Since {
    /// The moment that is meant.
    pub(crate) fn moment(self, now: Timestamp, zone: &TimeZone) -> Timestamp {
        let local = |time: DateTime| {
            let zoned = time.to_zoned(zone.clone());
            zoned.map_or(Timestamp::UNIX_EPOCH, |zoned| zoned.timestamp())
        };
        match self {
            Self::Before(distance) => now.checked_sub(distance).unwrap_or(Timestamp::UNIX_EPOCH),
            Self::Midnight(days) => {
                let today: Zoned = now.to_zoned(zone.clone());
                let day = today.date().saturating_sub(i32::from(days).days());
                local(day.to_datetime(jiff::civil::Time::midnight()))
            }
            Self::Local(time) => local(time),
            Self::Moment(moment) => moment,
        }
    }
}

impl Since {
    /// The same, in microseconds since the epoch.
    pub(crate) fn micros(self, look: &Look) -> u64 {
        let moment = self.moment(look.now, &look.zone).as_microsecond();
        u64::try_from(moment).unwrap_or(0)
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "today" => return Ok(Self::Midnight(0)),
            "yesterday" => return Ok(Self::Midnight(1)),
            _ => {}
        }
        if let Some(distance) = distance(text) {
            return Ok(Self::Before(distance));
        }
        // A time with its zone is a moment; jiff would also read one out of a local time's digits.
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Ok(Self::Moment(moment));
        }
        let day = || Some(text.parse::<Date>().ok()?.at(0, 0, 0, 0));
        let time = || text.parse::<DateTime>().ok();
        let minutes = || DateTime::strptime("%Y-%m-%d %H:%M", text).ok();
        minutes()
            .or_else(time)
            .or_else(day)
            .map(Self::Local)
            .ok_or_else(|| {
                "not a time; for example 10m, 2h, 3d, today, yesterday, 2026-11-22, \
             \"2026-11-22 13:00\" or 2026-11-22T12:00:00Z"
                    .to_owned()
            })
    }
}

/// `10m`.
fn distance(text: &str) -> Option<SignedDuration> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    let number: i64 = number.parse().ok()?;
    Some(SignedDuration::from_secs(number.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Option<String> {
        let zone = TimeZone::posix("CET-1").unwrap();
        let now: Timestamp = "2026-11-22T00:30:00Z".parse().unwrap();
        let since: Since = text.parse().ok()?;
        Some(since.moment(now, &zone).to_string())
    }

    #[test]
    fn distances_days_and_times_are_understood() {
        for (text, expected) in [
            ("10m", "2026-11-22T00:20:00Z"),
            ("2h", "2026-11-21T22:30:00Z"),
            ("1d", "2026-11-21T00:30:00Z"),
            ("today", "2026-11-21T23:00:00Z"),
            ("yesterday", "2026-11-20T23:00:00Z"),
            ("2026-11-20", "2026-11-19T23:00:00Z"),
            ("2026-11-20 13:00", "2026-11-20T12:00:00Z"),
            ("2026-11-20 13:00:30", "2026-11-20T12:00:30Z"),
            ("2026-11-20T13:00:30", "2026-11-20T12:00:30Z"),
            ("2026-11-20T13:00:30Z", "2026-11-20T13:00:30Z"),
            ("2026-11-20T13:00:30+02:00", "2026-11-20T11:00:30Z"),
            ("99999999999d", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(moment(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_wrong_usage() {
        for text in [
            "",
            "soon",
            "10",
            "10x",
            "m",
            "-5m",
            "2026-13-01",
            "99999999999999999999m",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }
}
