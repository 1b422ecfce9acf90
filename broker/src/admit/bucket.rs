//! Rates.

use std::time::{Duration, Instant};

use upcall_config::plan::Rate;

/// A token bucket: as many at once as the rate's count, refilled evenly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    pub(super) rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            tokens: f64::from(rate.count),
            filled: now,
        }
    }

    fn per_second(&self) -> f64 {
        f64::from(self.rate.count) / self.rate.per.as_secs_f64().max(0.001)
    }

    /// Its tokens, and parts of one.
    fn now(&self, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second();
        (self.tokens + gained).min(f64::from(self.rate.count))
    }

    /// How many could be taken.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the rate's count, and `as` saturates"
    )]
    pub(super) fn whole(&self, now: Instant) -> u32 {
        self.now(now) as u32
    }

    /// Takes a token, or says in how long there is one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.tokens = self.now(now);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64(
            (1.0 - self.tokens) / self.per_second().max(1e-9),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_up_again_and_not_over_its_brim() {
        let start = Instant::now();
        let mut bucket = Bucket::new(
            Rate {
                count: 2,
                per: Duration::from_secs(10),
            },
            start,
        );
        assert!(bucket.take(start).is_ok() && bucket.take(start).is_ok());
        assert_eq!(bucket.take(start).unwrap_err().as_secs(), 5);
        assert!(bucket.take(start + Duration::from_secs(5)).is_ok());
        let later = start + Duration::from_hours(1);
        assert!(bucket.take(later).is_ok() && bucket.take(later).is_ok());
        assert!(bucket.take(later).is_err());
    }
}
