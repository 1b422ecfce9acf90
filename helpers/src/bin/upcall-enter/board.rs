//! What the launcher and its children know of each other, in memory that they share.
//!
//! A child that waits for a launch writes down what it took; a keeper writes down that it is still moving. Numbers
//! only: whatever a child does, the launcher reads nothing worse than a wrong one.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use upcall_helpers::clock::monotonic;
use upcall_helpers::sys::{self, SHARED_NUMBERS};

/// Numbers per child.
const ROW: usize = 8;

/// The places in a row.
const STATE: usize = 0;
const BEAT: usize = 1;
const SLOT: usize = 2;
const CGROUP: usize = 3;
const LENGTH: usize = 4;
const ID: usize = 5; // and 6
const HELPER: usize = 7;

/// A look at a keeper's beat comes at the earliest so long after the last, in milliseconds and in nanoseconds.
pub(crate) const LOOK_MS: u16 = 1000;
const LOOK: u64 = LOOK_MS as u64 * 1_000_000;

/// After so many looks without a beat between them a keeper is silent: it beats twice a second, unless it is held by
/// something that it cannot leave, as is a process in uninterruptible sleep.
const SILENT: u32 = 5;

/// What a child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for a launch.
    Ready = 0,
    /// It does one.
    Busy = 1,
    /// It keeps a helper, and beats.
    Keeping = 2,
    /// It is about to take the launch that it has written down; whether it has, the socket says.
    Taking = 3,
}

/// All rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Board(&'static [AtomicU64; SHARED_NUMBERS]);

/// One child's row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row(&'static [AtomicU64]);

impl Board {
    pub(crate) fn new() -> Result<Self, Errno> {
        sys::shared_numbers().map(Self)
    }

    /// How many children there can be.
    pub(crate) const ROWS: usize = SHARED_NUMBERS / ROW;

    /// A row that nobody uses, for the next child; `used` are the others'.
    pub(crate) fn free(self, used: impl Fn(usize) -> bool) -> Option<(usize, Row)> {
        let index = (0..Self::ROWS).find(|index| !used(*index))?;
        let row = Row(self.0.get(index * ROW..(index + 1) * ROW)?);
        row.0
            .iter()
            .for_each(|number| number.store(0, Ordering::Relaxed));
        Some((index, row))
    }
}

impl Row {
    fn set(self, place: usize, value: u64) {
        if let Some(number) = self.0.get(place) {
            number.store(value, Ordering::Release);
        }
    }

    fn get(self, place: usize) -> u64 {
        self.0
            .get(place)
            .map_or(0, |number| number.load(Ordering::Acquire))
    }

    pub(crate) fn state(self) -> State {
        match self.get(STATE) {
            0 => State::Ready,
            2 => State::Keeping,
            3 => State::Taking,
            _ => State::Busy,
        }
    }

    /// Whether the next launch is its.
    pub(crate) fn is_ready(self) -> bool {
        matches!(self.state(), State::Ready | State::Taking)
    }

    /// Writes down what is about to be taken, while it is everybody's still.
    pub(crate) fn about_to_take(self, id: &[u8], slot: u8) {
        self.write(id, slot, State::Taking);
    }

    /// Writes down what was taken.
    pub(crate) fn take(self, id: &[u8], slot: u8) {
        self.write(id, slot, State::Busy);
    }

    fn write(self, id: &[u8], slot: u8, state: State) {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(id) {
            *to = *from;
        }
        let (words, _) = bytes.as_chunks::<8>();
        for (place, word) in (ID..).zip(words) {
            self.set(place, u64::from_le_bytes(*word));
        }
        self.set(LENGTH, u64::try_from(id.len()).unwrap_or(0));
        self.set(SLOT, u64::from(slot));
        self.set(STATE, state as u64);
    }

    /// What was taken: the record's id and the slot.
    pub(crate) fn taken(self) -> (Vec<u8>, u8) {
        let mut id: Vec<u8> = [ID, ID + 1]
            .iter()
            .flat_map(|place| self.get(*place).to_le_bytes())
            .collect();
        id.truncate(usize::try_from(self.get(LENGTH)).unwrap_or(0));
        (id, u8::try_from(self.get(SLOT)).unwrap_or(0))
    }

    /// Writes down that a helper is kept, and the descriptor of its cgroup.
    pub(crate) fn keep(self, cgroup: i32) {
        self.beat();
        self.set(CGROUP, u64::from(cgroup.unsigned_abs()));
        self.set(STATE, State::Keeping as u64);
    }

    /// The descriptor of the helper's cgroup, in the keeper.
    pub(crate) fn cgroup(self) -> i32 {
        i32::try_from(self.get(CGROUP)).unwrap_or(-1)
    }

    /// Writes down the descriptor of the helper, a pidfd.
    pub(crate) fn start(self, helper: i32) {
        self.set(HELPER, u64::from(helper.unsigned_abs()));
    }

    /// It has ended.
    pub(crate) fn forget_helper(self) {
        self.set(HELPER, 0);
    }

    /// The descriptor of the helper, in the keeper; -1: it has not started one.
    pub(crate) fn helper(self) -> i32 {
        match self.get(HELPER) {
            0 => -1,
            helper => i32::try_from(helper).unwrap_or(-1),
        }
    }

    /// Writes down that the keeper moves, and returns when: nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) fn beat(self) -> u64 {
        let now = monotonic();
        self.set(BEAT, now);
        now
    }
}

/// What the launcher has seen of one keeper's beat. Looks are counted and no clock is compared: where the launcher stood still,
/// the keepers may have as well, and with them the whole machine.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    beat: u64,
    looked: u64,
    still: u32,
}

impl Pulse {
    /// Takes a look, at `now`, nanoseconds of `CLOCK_MONOTONIC`; returns whether a helper is kept and its keeper is silent.
    pub(crate) fn is_silent(&mut self, row: Row, now: u64) -> bool {
        // In the order in which `keep` writes them, backwards: before it the last beat is a former keeper's, or none.
        let kept = row.state() == State::Keeping;
        let beat = row.get(BEAT);
        if !kept || beat != self.beat {
            (self.beat, self.looked, self.still) = (beat, now, 0);
        } else if now.saturating_sub(self.looked) >= LOOK {
            self.looked = now;
            self.still += 1;
        }
        self.still >= SILENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_read_again() {
        let board = Board::new().unwrap();
        let (index, row) = board.free(|_| false).unwrap();
        assert_eq!((index, row.state()), (0, State::Ready));
        row.about_to_take(b"0000q0tz", 2);
        assert_eq!(
            (row.state(), row.is_ready(), row.taken()),
            (State::Taking, true, (b"0000q0tz".to_vec(), 2))
        );
        row.take(b"k3m9q0tz", 1);
        assert!(!row.is_ready());
        assert_eq!(
            (row.state(), row.taken()),
            (State::Busy, (b"k3m9q0tz".to_vec(), 1))
        );
        row.keep(17);
        assert_eq!((row.state(), row.cgroup()), (State::Keeping, 17));
        row.start(18);
        assert_eq!((row.cgroup(), row.helper()), (17, 18));
        row.forget_helper();
        assert_eq!(row.helper(), -1);
        let (next, _) = board.free(|used| used == 0).unwrap();
        assert_eq!(next, 1);
        assert!(board.free(|_| true).is_none());
    }

    #[test]
    fn who_has_not_moved_at_five_looks_is_silent_and_who_stood_still_with_us_is_not() {
        let board = Board::new().unwrap();
        let (_, row) = board.free(|_| false).unwrap();
        let mut pulse = Pulse::default();
        row.keep(17);
        let begun = monotonic();
        let mut silent = |second: u64| pulse.is_silent(row, begun + second * LOOK);
        assert!((0..5).all(|second| !silent(second)));
        // However often it is looked at.
        assert!(!silent(4));
        // An hour, for everybody.
        row.beat();
        assert!(!silent(3600) && !silent(7200));
        assert!((7201..7204).all(|second| !silent(second)));
        assert!(silent(7204));
    }

    #[test]
    fn who_only_works_is_never_silent() {
        let board = Board::new().unwrap();
        let (_, row) = board.free(|_| false).unwrap();
        let mut pulse = Pulse::default();
        row.take(b"k3m9q0tz", 1);
        assert!((0..20).all(|second| !pulse.is_silent(row, second * LOOK)));
    }
}
