//! Looks every 30 seconds whether the kernel still has our hook.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{error, info};

use super::file::CoreHook;
use super::install;
use super::pattern::Pattern;
use crate::store::records::now_micros;

/// How often.
const EVERY: Duration = Duration::from_secs(30);

/// What stands in core_pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreState {
    /// It was never installed.
    NotInstalled,
    /// Ours.
    Ours,
    /// Somebody else's, although ours was installed.
    Foreign {
        /// What is there.
        pattern: String,
        /// Since when we know, in microseconds since the epoch.
        since: u64,
    },
}

/// The watch over the core hook.
#[derive(Debug)]
pub struct HookWatch {
    hooks: PathBuf,
    retake: bool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The pattern of ours that was seen last, to put back.
    ours: Option<(Pattern, u64)>,
    foreign: Option<(Pattern, u64)>,
    checked: u64,
    /// How often somebody else's was found.
    foreign_count: u64,
}

impl HookWatch {
    /// Watches what is installed from this directory; `retake`: puts ours back where another stands.
    pub fn new(hooks: PathBuf, retake: bool) -> Self {
        Self {
            hooks,
            retake,
            seen: Mutex::default(),
        }
    }

    /// Looks for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.look();
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Looks now.
    pub fn look(&self) -> CoreState {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_micros();
        seen.checked = now;
        let Ok((pattern, limit)) = install::current() else {
            return CoreState::NotInstalled;
        };
        if CoreHook::read(&self.hooks).is_err() {
            return CoreState::NotInstalled;
        }
        if pattern.is_ours() {
            seen.ours = Some((pattern, limit));
            if seen.foreign.take().is_some() {
                info!("core_pattern is ours again");
            }
            return CoreState::Ours;
        }
        let known = seen
            .foreign
            .as_ref()
            .filter(|(known, _)| *known == pattern)
            .map(|(_, since)| *since);
        let since = known.unwrap_or(now);
        if known.is_none() {
            seen.foreign_count += 1;
            error!("core is foreign: {} (upcallctl status)", pattern.text());
            if self.retake && Self::take_back(&seen) {
                return CoreState::Ours;
            }
        }
        seen.foreign = Some((pattern.clone(), since));
        CoreState::Foreign {
            pattern: pattern.text().to_owned(),
            since,
        }
    }

    fn take_back(seen: &Seen) -> bool {
        let Some((ours, limit)) = &seen.ours else {
            return false;
        };
        let taken = install::write_both(ours, *limit);
        match &taken {
            Ok(()) => info!("core_pattern was taken back (hooks.retake)"),
            Err(error) => error!("core_pattern could not be taken back: {error}"),
        }
        taken.is_ok()
    }

    /// When it was last looked at, in microseconds since the epoch.
    pub fn checked(&self) -> u64 {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .checked
    }

    /// How often somebody else's hook was found.
    pub fn foreign_count(&self) -> u64 {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .foreign_count
    }

    /// The hook's file, where it is installed.
    pub fn file(&self) -> Option<CoreHook> {
        CoreHook::read(&self.hooks).ok()
    }
}
