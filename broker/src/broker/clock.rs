//! How long each step of an upcall takes.

use upcall_helpers::clock::monotonic;

/// How far an upcall is, in microseconds since the shim started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    started: u64,
    last: u64,
}

impl Clock {
    pub(super) fn new(started: u64) -> Self {
        Self {
            started,
            last: started,
        }
    }

    /// Microseconds since the last step.
    pub(super) fn step(&mut self) -> Option<u64> {
        let now = monotonic();
        let took = now.checked_sub(self.last)? / 1000;
        self.last = now;
        Some(took)
    }

    pub(super) fn since_step(&self, time: u64) -> Option<u64> {
        Some(time.checked_sub(self.last)? / 1000)
    }

    pub(super) fn since_start(&self, time: u64) -> Option<u64> {
        Some(time.checked_sub(self.started)? / 1000)
    }
}
