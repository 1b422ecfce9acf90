//! Who keeps how many cores, and room for more: no tenant takes more than his share, and none makes another's go.
//!
//! Room is counted in MiB, each core at least one. While cores are written, room is tokens of two eventfds (eventfd(2),
//! `EFD_SEMAPHORE`), a tenant's own and everybody's: who writes takes one of each before a MiB, so what is written at
//! once counts at once. Kept cores are the files of one directory, known by heart from the start on; a file that somebody
//! else removed is found out before room is refused.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use upcall_config::settings::StoreSettings;

/// What room is counted in.
const UNIT: u64 = 1 << 20;

/// Why a core had to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its tenant needs the room for another.
    Evicted,
    /// It is older than `store.max_age`.
    Expired,
}

impl Why {
    /// The state that a record says.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Expired => "expired",
        }
    }
}

/// Cores that had to go: their records' ids, and why.
pub type Gone = Vec<(String, Why)>;

/// Why no core may be kept.
#[derive(Debug, thiserror::Error)]
pub enum Full {
    /// All have together what they may have, and this tenant has none that could go.
    #[error(
        "all kept cores together have reached store.max_total; help: upcallctl cores rm, or raise store.max_total"
    )]
    Total,
    /// No tokens can be had.
    #[error("out of descriptors: {0}")]
    Descriptor(#[from] Errno),
}

/// One kept core.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Core {
    id: String,
    share: String,
    path: PathBuf,
    units: u64,
    /// When it was kept, in microseconds since the epoch.
    micros: u64,
}

/// One tenant's tokens, while he writes.
#[derive(Debug)]
struct Writing {
    own: Arc<EventFd>,
    writers: usize,
}

/// Both kinds of tokens, for one writer.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The tenant's own.
    pub own: Arc<EventFd>,
    /// Everybody's.
    pub all: Arc<EventFd>,
}

/// All kept cores.
#[derive(Debug)]
pub struct Ledger {
    settings: StoreSettings,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    all: Arc<EventFd>,
    /// Oldest first.
    cores: Vec<Core>,
    writing: HashMap<String, Writing>,
}

impl Ledger {
    /// Of these settings, and empty.
    ///
    /// # Errors
    /// As eventfd(2).
    pub fn new(settings: StoreSettings) -> Result<Self, Errno> {
        let state = State {
            all: Arc::new(tokens(units(settings.max_total))?),
            cores: Vec::new(),
            writing: HashMap::new(),
        };
        Ok(Self {
            settings,
            state: Mutex::new(state),
        })
    }

    /// Adds a core that is there already; one that was added before it was known whose it is becomes his. `share` is
    /// whose, `bytes` are on disk.
    pub fn add(&self, id: &str, share: &str, path: &Path, bytes: u64, micros: u64) -> Gone {
        let units = units(bytes).max(1);
        let mut state = self.lock();
        if let Some(index) = state.cores.iter().position(|core| core.id == id) {
            let before = state.cores.remove(index);
            give(&state.all, before.units);
        }
        if !state.writing.is_empty() {
            take(&state.all, units);
        }
        state.insert(Core {
            id: id.to_owned(),
            share: share.to_owned(),
            path: path.to_owned(),
            units,
            micros,
        });
        let gone = self.trim(&mut state, share, 0);
        self.settle(&mut state);
        gone
    }

    /// Room for one more of this tenant's, and which of his had to go for it.
    ///
    /// # Errors
    /// See [`Full`].
    pub fn begin(&self, share: &str) -> (Result<Tokens, Full>, Gone) {
        let mut state = self.lock();
        let mut gone = self.trim(&mut state, share, 1);
        while !has(&state.all) {
            if state.forget_missing() {
                continue;
            }
            let Some(oldest) = state.cores.iter().position(|core| core.share == share) else {
                return (Err(Full::Total), gone);
            };
            gone.extend(state.remove(oldest, Why::Evicted));
        }
        let own = match state.writing.get_mut(share) {
            Some(writing) => {
                writing.writers += 1;
                Arc::clone(&writing.own)
            }
            None => match tokens(units(self.settings.max_per_container)) {
                Ok(own) => {
                    let own = Arc::new(own);
                    let writing = Writing {
                        own: Arc::clone(&own),
                        writers: 1,
                    };
                    state.writing.insert(share.to_owned(), writing);
                    own
                }
                Err(error) => return (Err(error.into()), gone),
            },
        };
        let all = Arc::clone(&state.all);
        (Ok(Tokens { own, all }), gone)
    }

    /// A writer has ended: it wrote so many bytes, and they are kept at `path`, or not. Says which had to go for it.
    pub fn end(&self, id: &str, share: &str, written: u64, kept: Option<(&Path, u64)>) -> Gone {
        let mut state = self.lock();
        let units = units(written);
        if let Some(writing) = state.writing.get_mut(share) {
            writing.writers -= 1;
            give(&writing.own, units);
            if writing.writers == 0 {
                state.writing.remove(share);
            }
        }
        let Some((path, micros)) = kept else {
            give(&state.all, units);
            self.settle(&mut state);
            return Gone::new();
        };
        state.insert(Core {
            id: id.to_owned(),
            share: share.to_owned(),
            path: path.to_owned(),
            units: units.max(1),
            micros,
        });
        let gone = self.trim(&mut state, share, 0);
        self.settle(&mut state);
        gone
    }

    /// Removes what is older than `store.max_age`; says what, and in how long the next one will be.
    pub fn expire(&self, now: u64) -> (Gone, Option<Duration>) {
        let mut state = self.lock();
        let age = u64::try_from(self.settings.max_age.as_micros()).unwrap_or(u64::MAX);
        let mut gone = Gone::new();
        while let Some(oldest) = state.cores.first() {
            let due = oldest.micros.saturating_add(age);
            if due > now {
                return (gone, Some(Duration::from_micros(due - now)));
            }
            gone.extend(state.remove(0, Why::Expired));
        }
        (gone, None)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a tenant's oldest until he has no more than he may have, `more` of them to come.
    fn trim(&self, state: &mut State, share: &str, more: u64) -> Gone {
        let mut gone = Gone::new();
        loop {
            let own = state.cores.iter().filter(|core| core.share == share);
            let (count, sum) = own.fold((more, 0), |(count, sum), core| {
                (count + 1, sum + core.units)
            });
            // What is kept last stays: it was bounded while it was written.
            if count <= self.settings.max_count.max(1)
                && (sum <= units(self.settings.max_per_container) || count <= 1)
            {
                return gone;
            }
            let oldest = state.cores.iter().position(|core| core.share == share);
            let Some(oldest) = oldest else { return gone };
            gone.extend(state.remove(oldest, Why::Evicted));
        }
    }

    /// Where nobody writes, what there is says what may be had: a writer that was killed left no word of its tokens.
    fn settle(&self, state: &mut State) {
        if !state.writing.is_empty() {
            return;
        }
        let used: u64 = state.cores.iter().map(|core| core.units).sum();
        if let Ok(all) = tokens(units(self.settings.max_total).saturating_sub(used)) {
            state.all = Arc::new(all);
        }
    }
}

impl State {
    fn insert(&mut self, core: Core) {
        let at = self
            .cores
            .partition_point(|other| other.micros <= core.micros);
        self.cores.insert(at, core);
    }

    /// Removes one; nothing had to go if somebody else had removed it.
    fn remove(&mut self, index: usize, why: Why) -> Option<(String, Why)> {
        let core = self.cores.remove(index);
        give(&self.all, core.units);
        std::fs::remove_file(&core.path)
            .ok()
            .map(|()| (core.id, why))
    }

    /// Forgets cores that somebody else removed; says whether there were any.
    fn forget_missing(&mut self) -> bool {
        let before = self.cores.len();
        let all = &self.all;
        self.cores.retain(|core| {
            let there = core.path.exists();
            if !there {
                give(all, core.units);
            }
            there
        });
        self.cores.len() < before
    }
}

/// Bytes in units, the last one begun.
fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT)
}

fn tokens(count: u64) -> Result<EventFd, Errno> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
    let fd = EventFd::from_flags(flags)?;
    give(&fd, count);
    Ok(fd)
}

fn give(fd: &EventFd, count: u64) {
    if count > 0 {
        let _ = fd.write(count);
    }
}

/// Takes as many as there are of so many.
fn take(fd: &EventFd, count: u64) {
    for _ in 0..count {
        if fd.read().is_err() {
            return;
        }
    }
}

/// Whether there is any.
fn has(fd: &EventFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(1)
}

#[cfg(test)]
mod tests;
