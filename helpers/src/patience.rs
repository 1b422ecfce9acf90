//! How long a core is waited for, by whoever keeps one.

use std::time::Duration;

/// How long nothing may come before the dump counts as stuck (its process is frozen, or its memory is behind a file
/// server that does not answer), and how much slower than [`SLOWEST`] it may be in all.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A dump that brings less than so many bytes in a second does so on purpose.
pub const SLOWEST: u64 = 1 << 20;

/// How long the next part is waited for, `since` the first wait and after so many bytes; zero: no longer.
pub fn left(patience: Duration, since: Duration, bytes: u64) -> Duration {
    let allowed = patience.saturating_add(Duration::from_secs(bytes / SLOWEST));
    allowed.saturating_sub(since).min(patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_use_it_up_and_a_stream_does_not() {
        let minute = PATIENCE;
        assert_eq!(left(minute, Duration::ZERO, 0), minute);
        assert_eq!(left(minute, minute, 1000), Duration::ZERO);
        assert_eq!(left(minute, minute * 3, 1 << 30), minute);
    }
}
