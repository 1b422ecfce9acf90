//! Looks every 30 seconds whether the kernel still has our hooks.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tracing::{error, info};

use super::file::{CoreHook, HookFileError};
use super::key::KeyHook;
use super::module::ModuleHook;
use super::sysctl::CoreSysctl;
use super::umh::UmhHook;
use crate::store::records::now_micros;

mod places;

use places::{Core, Found, Key, Place};

/// How often.
const EVERY: Duration = Duration::from_secs(30);

/// Of a hook that changed hands (journalctl MESSAGE_ID=…).
const CHANGED: &str = "2e8f99420ea748a48e3d833e95f9db35";

/// What stands in a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookState {
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

impl HookState {
    /// The word for it: `ours`, `foreign`, `not_installed`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotInstalled => "not_installed",
            Self::Ours => "ours",
            Self::Foreign { .. } => "foreign",
        }
    }

    /// What is there and since when we know, where it is somebody else's.
    pub fn foreign(&self) -> Option<(&str, u64)> {
        match self {
            Self::NotInstalled | Self::Ours => None,
            Self::Foreign { pattern, since } => Some((pattern, *since)),
        }
    }
}

/// A hook's change, as `upcallctl watch` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookChange {
    /// Always `upcalld.hook`.
    pub schema: String,
    /// Always 1.
    pub version: u32,
    /// When it was seen: RFC 3339, UTC.
    pub time: String,
    /// Which hook: `core`, `key`, `module`, `umh`.
    pub hook: String,
    /// `ours`, `foreign` or `not_installed`.
    pub state: String,
    /// What stands there, where it is foreign.
    pub pattern: Option<String>,
}

/// The watch over the hooks.
#[derive(Debug)]
pub struct HookWatch {
    core: Watched<Core>,
    key: Watched<Key>,
    module: Watched<ModuleHook>,
    umh: Watched<UmhHook>,
    changes: broadcast::Sender<HookChange>,
}

/// One hook that is watched.
#[derive(Debug)]
struct Watched<P> {
    place: P,
    retake: bool,
    seen: Mutex<Seen>,
    changes: broadcast::Sender<HookChange>,
}

#[derive(Debug, Default)]
struct Seen {
    /// How it was when it was looked at last.
    state: Option<HookState>,
    checked: u64,
    /// How often somebody else's was found.
    foreign_count: u64,
}

impl HookWatch {
    /// Watches what is installed from this directory, and these hooks; `retake`: puts ours back where another stands.
    pub fn new(
        hooks: PathBuf,
        key: KeyHook,
        module: ModuleHook,
        umh: UmhHook,
        retake: bool,
    ) -> Self {
        let changes = broadcast::Sender::new(16);
        Self {
            core: Watched::new(Core::new(CoreSysctl::host(), hooks), retake, &changes),
            key: Watched::new(Key::new(key), retake, &changes),
            module: Watched::new(module, retake, &changes),
            umh: Watched::new(umh, retake, &changes),
            changes,
        }
    }

    /// Looks for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            drop(self.all());
            tokio::time::sleep(EVERY).await;
        }
    }

    /// What stands in core_pattern now.
    pub fn core(&self) -> HookState {
        self.core.look()
    }

    /// What stands in kernel.modprobe now.
    pub fn module(&self) -> HookState {
        self.module.look()
    }

    /// The module hook itself.
    pub fn module_hook(&self) -> &ModuleHook {
        &self.module.place
    }

    /// Every change from now on.
    pub fn changes(&self) -> broadcast::Receiver<HookChange> {
        self.changes.subscribe()
    }

    /// When core_pattern was last looked at, in microseconds since the epoch.
    pub fn checked(&self) -> u64 {
        self.core.seen().checked
    }

    /// How the kernel calls, while the core hook is ours.
    pub fn mode(&self) -> Option<&'static str> {
        let ours = self.core.seen().state == Some(HookState::Ours);
        self.core.place.mode().filter(|_| ours)
    }

    /// Each hook's name, what stands there now, and how often somebody else's was found.
    pub fn all(&self) -> Vec<(&'static str, HookState, u64)> {
        vec![
            self.core.summary(),
            self.key.summary(),
            self.module.summary(),
            self.umh.summary(),
        ]
    }

    /// The core hook's file, where it is installed.
    ///
    /// # Errors
    /// See [`HookFileError`].
    pub fn file(&self) -> Result<CoreHook, HookFileError> {
        CoreHook::read(self.core.place.hooks())
    }
}

impl<P: Place> Watched<P> {
    fn new(place: P, retake: bool, changes: &broadcast::Sender<HookChange>) -> Self {
        Self {
            place,
            retake,
            seen: Mutex::default(),
            changes: changes.clone(),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn summary(&self) -> (&'static str, HookState, u64) {
        let state = self.look();
        (self.place.name(), state, self.seen().foreign_count)
    }

    /// Looks now.
    fn look(&self) -> HookState {
        let mut seen = self.seen();
        let mut state = self.found(&mut seen);
        if matches!(state, HookState::Foreign { .. }) {
            if seen.state.as_ref() != Some(&state) {
                seen.foreign_count += 1;
                self.tell(&state);
                seen.state = Some(state.clone());
            }
            if self.retake && self.take_back() {
                state = HookState::Ours;
            }
        }
        if seen.state.as_ref() != Some(&state) {
            // How it was at the start is nothing that happened.
            if seen.state.is_some() {
                self.tell(&state);
            }
            seen.state = Some(state.clone());
        }
        state
    }

    fn found(&self, seen: &mut Seen) -> HookState {
        seen.checked = now_micros();
        let text = match self.place.found() {
            Found::NotInstalled => return HookState::NotInstalled,
            Found::Ours => return HookState::Ours,
            Found::Foreign(text) => text,
        };
        match &seen.state {
            Some(known @ HookState::Foreign { pattern, .. }) if *pattern == text => known.clone(),
            _ => HookState::Foreign {
                pattern: text,
                since: seen.checked,
            },
        }
    }

    /// Logs a change, and tells those who watch.
    fn tell(&self, state: &HookState) {
        let (hook, setting) = (self.place.name(), self.place.setting());
        let pattern = match state {
            HookState::NotInstalled => {
                info!(
                    MESSAGE_ID = CHANGED,
                    "the {hook} hook is not installed any more"
                );
                None
            }
            HookState::Ours => {
                info!(MESSAGE_ID = CHANGED, "{setting} is ours again");
                None
            }
            HookState::Foreign { pattern, .. } => {
                error!(
                    MESSAGE_ID = CHANGED,
                    "{hook} is foreign: {pattern} (upcallctl status)"
                );
                Some(pattern.clone())
            }
        };
        drop(self.changes.send(HookChange {
            schema: "upcalld.hook".to_owned(),
            version: 1,
            time: format!("{:.6}", jiff::Timestamp::now()),
            hook: hook.to_owned(),
            state: state.as_str().to_owned(),
            pattern,
        }));
    }

    fn take_back(&self) -> bool {
        let setting = self.place.setting();
        match self.place.take_back() {
            Ok(true) => {
                info!("{setting} was taken back (hooks.retake)");
                true
            }
            Ok(false) => false,
            Err(error) => {
                error!("{setting} could not be taken back: {error}");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
