//! The two events: taken out of the rings, and joined.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read};

use crate::linux::ringpage;

/// Events that are remembered after they were read.
const REMEMBERED: usize = 4096;

/// A helper starts this soon after it was asked for, and asks this soon after it was started, in nanoseconds; what is
/// older was another's, with the same number.
const FRESH: u64 = 5_000_000_000;

/// `UMH_WAIT_PROC` (linux/umh.h): whoever asked waits for the helper's end.
const WAIT_PROC: u32 = 2;

/// Who asked for a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The thread's number.
    pub thread: u32,
    /// Whether it waits until the helper has ended.
    pub waits: bool,
}

/// Where in an event what is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) page: usize,
    pub(super) kind: usize,
    pub(super) thread: usize,
    pub(super) asked: Event,
    pub(super) begun: Event,
    pub(super) wait: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) id: u16,
    pub(super) sub: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// One for each processor; none when it is over.
    pub(super) rings: Vec<File>,
    pub(super) seen: VecDeque<Seen>,
    pub(super) lost: u64,
    pub(super) buffer: Vec<u8>,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) time: u64,
    pub(super) thread: u32,
    pub(super) sub: u64,
    /// How whoever asked waits; `None`: this is the helper.
    pub(super) wait: Option<u32>,
}

impl State {
    /// Takes everything that is in a ring now: at most as many pages as can be there, and as many again.
    pub(super) fn drain(&mut self, mut ring: &File, layout: Layout) {
        for _ in 0..64 {
            let length = match ring.read(&mut self.buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return, // EAGAIN: nothing more
            };
            let page = ringpage::page(self.buffer.get(..length).unwrap_or_default());
            self.lost += u64::from(page.lost);
            for (time, event) in page.events {
                self.seen.extend(layout.seen(time, event));
            }
            let over = self.seen.len().saturating_sub(REMEMBERED);
            self.seen.drain(..over);
        }
    }

    /// The newest start of this pid, and the newest request before it for the same.
    pub(super) fn asker(&self, helper: u32, time: u64) -> Option<Asker> {
        let last = |before: u64, of: &dyn Fn(&Seen) -> bool| {
            let fresh = |event: &&Seen| {
                let age = before.checked_sub(event.time);
                of(event) && age.is_some_and(|age| age < FRESH)
            };
            let seen = self.seen.iter().filter(fresh);
            seen.max_by_key(|event| event.time).copied()
        };
        let begun = last(time, &|event| {
            event.wait.is_none() && event.thread == helper
        })?;
        let asked = last(begun.time, &|event| {
            event.wait.is_some() && event.sub == begun.sub
        })?;
        // That was another start's: our request was overwritten, and its memory had been used before.
        let between = |event: &Seen| {
            event.wait.is_none()
                && event.sub == begun.sub
                && event.thread != begun.thread
                && (asked.time..begun.time).contains(&event.time)
        };
        if self.seen.iter().any(between) {
            return None;
        }
        Some(Asker {
            thread: asked.thread,
            waits: asked.wait? & WAIT_PROC != 0,
        })
    }
}

impl Layout {
    fn seen(self, time: u64, event: &[u8]) -> Option<Seen> {
        let kind = event.get(self.kind..self.kind.checked_add(2)?)?;
        let kind = u16::from_ne_bytes(kind.try_into().ok()?);
        let sub = |of: Event| ringpage::long(event, of.sub);
        let (sub, wait) = if kind == self.asked.id {
            (sub(self.asked)?, Some(ringpage::word(event, self.wait)?))
        } else if kind == self.begun.id {
            (sub(self.begun)?, None)
        } else {
            return None;
        };
        Some(Seen {
            time,
            thread: ringpage::word(event, self.thread)?,
            sub,
            wait,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(time: u64, thread: u32, sub: u64, wait: Option<u32>) -> Seen {
        Seen {
            time,
            thread,
            sub,
            wait,
        }
    }

    #[test]
    fn two_who_ask_for_the_same_are_told_apart_and_memory_is_used_again() {
        let state = State {
            // In the order in which two processors' rings are read.
            seen: VecDeque::from([
                seen(10, 100, 0xa, Some(6)),
                seen(30, 101, 0xa, Some(5)),
                seen(12, 200, 0xb, Some(6)),
                seen(20, 1000, 0xa, None),
                seen(21, 1001, 0xb, None),
                seen(40, 1002, 0xa, None),
            ]),
            ..State::default()
        };
        let asker = |thread, waits| Some(Asker { thread, waits });
        assert_eq!(state.asker(1000, 50), asker(100, true));
        assert_eq!(state.asker(1001, 50), asker(200, true));
        assert_eq!(state.asker(1002, 50), asker(101, false));
        assert_eq!(state.asker(7, 50), None);
    }

    #[test]
    fn a_start_whose_request_was_overwritten_is_not_its_predecessors() {
        let state = State {
            seen: VecDeque::from([
                seen(10, 100, 0xa, Some(5)),
                seen(20, 1000, 0xa, None),
                seen(40, 1002, 0xa, None),
            ]),
            ..State::default()
        };
        let first = Some(Asker {
            thread: 100,
            waits: false,
        });
        assert_eq!(state.asker(1000, 50), first);
        assert_eq!(state.asker(1002, 50), None);
    }

    #[test]
    fn a_start_whose_request_was_lost_has_nobodys() {
        let state = State {
            seen: VecDeque::from([
                seen(10, 100, 0xa, Some(6)),
                seen(20 + FRESH, 1000, 0xa, None),
            ]),
            ..State::default()
        };
        assert_eq!(state.asker(1000, 21 + FRESH), None);
    }
}
