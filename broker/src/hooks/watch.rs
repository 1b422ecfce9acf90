//! Looks every 30 seconds whether the kernel still has our hook.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tracing::{error, info};

use super::file::{CoreHook, HookFileError};
use super::sysctl::{CoreSysctl, Standing, SysctlError};
use crate::store::records::now_micros;

/// How often.
const EVERY: Duration = Duration::from_secs(30);

/// Of a hook that changed hands (journalctl MESSAGE_ID=…).
const CHANGED: &str = "2e8f99420ea748a48e3d833e95f9db35";

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

impl CoreState {
    /// The word for it: `ours`, `foreign`, `not_installed`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotInstalled => "not_installed",
            Self::Ours => "ours",
            Self::Foreign { .. } => "foreign",
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
    /// Which hook: `core`.
    pub hook: String,
    /// `ours`, `foreign` or `not_installed`.
    pub state: String,
    /// What stands there, where it is foreign.
    pub pattern: Option<String>,
}

/// The watch over the core hook.
#[derive(Debug)]
pub struct HookWatch {
    sysctl: CoreSysctl,
    hooks: PathBuf,
    retake: bool,
    seen: Mutex<Seen>,
    changes: broadcast::Sender<HookChange>,
}

#[derive(Debug, Default)]
struct Seen {
    /// What was ours when it was seen last, to put back.
    ours: Option<Standing>,
    /// How it was when it was looked at last.
    state: Option<CoreState>,
    checked: u64,
    /// How often somebody else's was found.
    foreign_count: u64,
}

impl HookWatch {
    /// Watches what is installed from this directory; `retake`: puts ours back where another stands.
    pub fn new(hooks: PathBuf, retake: bool) -> Self {
        Self::of(CoreSysctl::host(), hooks, retake)
    }

    /// The same with other files in the place of the kernel's.
    fn of(sysctl: CoreSysctl, hooks: PathBuf, retake: bool) -> Self {
        Self {
            sysctl,
            hooks,
            retake,
            seen: Mutex::default(),
            changes: broadcast::Sender::new(16),
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
        let mut state = self.found(&mut seen);
        if matches!(state, CoreState::Foreign { .. }) {
            if seen.state.as_ref() != Some(&state) {
                seen.foreign_count += 1;
                self.tell(&state);
                seen.state = Some(state.clone());
            }
            if self.retake && self.take_back(&seen) {
                state = CoreState::Ours;
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

    /// What the kernel and the hook's file say. A file that cannot be used was installed all the same.
    fn found(&self, seen: &mut Seen) -> CoreState {
        seen.checked = now_micros();
        let Ok(standing) = self.sysctl.read() else {
            return CoreState::NotInstalled;
        };
        if standing.pattern.is_of(&self.hooks) {
            seen.ours = Some(standing);
            return CoreState::Ours;
        }
        if CoreHook::read(&self.hooks).is_err_and(|error| error.is_absent()) {
            return CoreState::NotInstalled;
        }
        let text = standing.pattern.text();
        match &seen.state {
            Some(CoreState::Foreign { pattern, since }) if pattern == text => CoreState::Foreign {
                pattern: pattern.clone(),
                since: *since,
            },
            _ => CoreState::Foreign {
                pattern: text.to_owned(),
                since: seen.checked,
            },
        }
    }

    /// Logs a change, and tells those who watch.
    fn tell(&self, state: &CoreState) {
        let pattern = match state {
            CoreState::NotInstalled => {
                info!(
                    MESSAGE_ID = CHANGED,
                    "the core hook is not installed any more"
                );
                None
            }
            CoreState::Ours => {
                info!(MESSAGE_ID = CHANGED, "core_pattern is ours again");
                None
            }
            CoreState::Foreign { pattern, .. } => {
                error!(
                    MESSAGE_ID = CHANGED,
                    "core is foreign: {pattern} (upcallctl status)"
                );
                Some(pattern.clone())
            }
        };
        drop(self.changes.send(HookChange {
            schema: "upcalld.hook".to_owned(),
            version: 1,
            time: format!("{:.6}", jiff::Timestamp::now()),
            hook: "core".to_owned(),
            state: state.as_str().to_owned(),
            pattern,
        }));
    }

    /// Puts ours back, unless somebody of ours is at work there: it may be an `uninstall`.
    fn take_back(&self, seen: &Seen) -> bool {
        let Some(ours) = &seen.ours else {
            return false;
        };
        let take = || -> Result<bool, SysctlError> {
            let Some(lock) = self.sysctl.try_lock()? else {
                return Ok(false);
            };
            if CoreHook::read(&self.hooks).is_err() {
                return Ok(false);
            }
            self.sysctl.put_in(ours, &lock)?;
            Ok(true)
        };
        match take() {
            Ok(true) => {
                info!("core_pattern was taken back (hooks.retake)");
                true
            }
            Ok(false) => false,
            Err(error) => {
                error!("core_pattern could not be taken back: {error}");
                false
            }
        }
    }

    /// Every change from now on.
    pub fn changes(&self) -> broadcast::Receiver<HookChange> {
        self.changes.subscribe()
    }

    /// When it was last looked at, in microseconds since the epoch.
    pub fn checked(&self) -> u64 {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .checked
    }

    /// How the kernel calls, while the hook is ours.
    pub fn mode(&self) -> Option<&'static str> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = seen.ours.as_ref();
        let ours = ours.filter(|_| seen.state == Some(CoreState::Ours));
        ours.map(|standing| standing.pattern.mode())
    }

    /// How often somebody else's hook was found.
    pub fn foreign_count(&self) -> u64 {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .foreign_count
    }

    /// The hook's file, where it is installed.
    ///
    /// # Errors
    /// See [`HookFileError`].
    pub fn file(&self) -> Result<CoreHook, HookFileError> {
        CoreHook::read(&self.hooks)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::Pattern;
    use super::*;

    struct Host {
        directory: tempfile::TempDir,
        ours: String,
    }

    impl Host {
        fn new() -> Option<Self> {
            if !nix::unistd::Uid::effective().is_root() {
                eprintln!("SKIPPED: the files must be root's");
                return None;
            }
            let directory = tempfile::tempdir().unwrap();
            let hooks = directory.path().to_owned();
            let ours = Pattern::ours(std::path::Path::new("/x/core"), &hooks).unwrap();
            let file = CoreHook {
                socket: "/x".into(),
                deadline_ms: 1,
                spool: "/x".into(),
                spool_max: 1,
                keep_free: 1,
                previous: Pattern::parse("core"),
                previous_pipe_limit: 0,
            };
            file.write(&hooks).unwrap();
            let host = Self {
                directory,
                ours: ours.text().to_owned(),
            };
            host.set(&host.ours);
            std::fs::write(hooks.join("core_pipe_limit"), "1024\n").unwrap();
            Some(host)
        }

        fn set(&self, pattern: &str) {
            std::fs::write(self.directory.path().join("core_pattern"), pattern).unwrap();
        }

        fn pattern(&self) -> String {
            std::fs::read_to_string(self.directory.path().join("core_pattern")).unwrap()
        }

        fn watch(&self, retake: bool) -> HookWatch {
            let hooks = self.directory.path().to_owned();
            HookWatch::of(CoreSysctl::below(&hooks), hooks, retake)
        }
    }

    #[test]
    fn a_foreign_write_is_told_once_and_so_is_its_end() {
        let Some(host) = Host::new() else { return };
        let watch = host.watch(false);
        let mut changes = watch.changes();
        assert_eq!(watch.look(), CoreState::Ours);
        host.set("|/bin/other %p");
        let first = watch.look();
        assert!(
            matches!(&first, CoreState::Foreign { pattern, .. } if pattern == "|/bin/other %p")
        );
        assert_eq!(
            watch.look(),
            first,
            "since the same moment, and not told again"
        );
        host.set(&host.ours);
        assert_eq!(watch.look(), CoreState::Ours);
        std::fs::write(host.directory.path().join("core"), "garbage").unwrap();
        assert_eq!(watch.look(), CoreState::Ours);
        host.set("core");
        std::fs::remove_file(host.directory.path().join("core")).unwrap();
        assert_eq!(watch.look(), CoreState::NotInstalled);
        let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
        let states: Vec<_> = told.iter().map(|change| change.state.as_str()).collect();
        assert_eq!(states, ["foreign", "ours", "not_installed"]);
        assert_eq!(told[0].pattern.as_deref(), Some("|/bin/other %p"));
        assert_eq!(watch.foreign_count(), 1);
    }

    #[test]
    fn another_installations_hook_is_not_ours() {
        let Some(host) = Host::new() else { return };
        let watch = host.watch(false);
        host.set("|/x/core --hooks=/elsewhere %P");
        assert!(matches!(watch.look(), CoreState::Foreign { .. }));
    }

    #[test]
    fn ours_is_taken_back_if_so_configured_and_nobody_is_at_work() {
        let Some(host) = Host::new() else { return };
        let watch = host.watch(true);
        watch.look();
        host.set("|/bin/other %p");
        let lock = watch.sysctl.lock().unwrap();
        assert!(matches!(watch.look(), CoreState::Foreign { .. }));
        assert_eq!(host.pattern(), "|/bin/other %p");
        drop(lock);
        assert_eq!(watch.look(), CoreState::Ours);
        assert_eq!(host.pattern(), format!("{}\n", host.ours));
        // What was never seen as ours is not put in.
        let watch = host.watch(true);
        host.set("|/bin/other %p");
        assert!(matches!(watch.look(), CoreState::Foreign { .. }));
    }
}
