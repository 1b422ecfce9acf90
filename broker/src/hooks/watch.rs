//! Looks every 30 seconds whether the kernel still has our hooks.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tracing::{error, info};

use super::file::{CoreHook, HookFileError};
use super::module::ModuleHook;
use super::sysctl::CoreSysctl;
use crate::store::records::now_micros;

mod places;

use places::{Core, Found, Place};

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
    /// Which hook: `core`, `module`.
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
    module: Watched<ModuleHook>,
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
    /// Watches what is installed from this directory, and this module hook; `retake`: puts ours back where another
    /// stands.
    pub fn new(hooks: PathBuf, module: ModuleHook, retake: bool) -> Self {
        Self::of(CoreSysctl::host(), hooks, module, retake)
    }

    /// The same with other files in the place of the kernel's.
    fn of(sysctl: CoreSysctl, hooks: PathBuf, module: ModuleHook, retake: bool) -> Self {
        let changes = broadcast::Sender::new(16);
        Self {
            core: Watched::new(Core::new(sysctl, hooks), retake, &changes),
            module: Watched::new(module, retake, &changes),
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
        vec![self.core.summary(), self.module.summary()]
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

        fn watch(&self, retake: bool) -> Watched<Core> {
            let hooks = self.directory.path().to_owned();
            let sysctl = CoreSysctl::below(&hooks);
            Watched::new(
                Core::new(sysctl, hooks),
                retake,
                &broadcast::Sender::new(16),
            )
        }
    }

    #[test]
    fn a_foreign_write_is_told_once_and_so_is_its_end() {
        let Some(host) = Host::new() else { return };
        let watch = host.watch(false);
        let mut changes = watch.changes.subscribe();
        assert_eq!(watch.look(), HookState::Ours);
        host.set("|/bin/other %p");
        let first = watch.look();
        assert!(
            matches!(&first, HookState::Foreign { pattern, .. } if pattern == "|/bin/other %p")
        );
        assert_eq!(
            watch.look(),
            first,
            "since the same moment, and not told again"
        );
        host.set(&host.ours);
        assert_eq!(watch.look(), HookState::Ours);
        std::fs::write(host.directory.path().join("core"), "garbage").unwrap();
        assert_eq!(watch.look(), HookState::Ours);
        host.set("core");
        std::fs::remove_file(host.directory.path().join("core")).unwrap();
        assert_eq!(watch.look(), HookState::NotInstalled);
        let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
        let states: Vec<_> = told.iter().map(|change| change.state.as_str()).collect();
        assert_eq!(states, ["foreign", "ours", "not_installed"]);
        assert_eq!(told[0].pattern.as_deref(), Some("|/bin/other %p"));
        assert_eq!(watch.seen().foreign_count, 1);
    }

    #[test]
    fn the_module_hook_is_watched_alike() {
        let Some(host) = Host::new() else { return };
        let at = host.directory.path();
        let (libexec, setting) = (at.join("libexec"), at.join("modprobe"));
        std::fs::create_dir(&libexec).unwrap();
        std::fs::write(libexec.join("modprobe"), "").unwrap();
        std::fs::set_permissions(
            libexec.join("modprobe"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        std::fs::write(&setting, "/sbin/modprobe\n").unwrap();
        let hook = ModuleHook::host(&libexec, &at.join("hooks"), at).below(at);
        let changes = broadcast::Sender::new(16);
        let watch = |retake| Watched::new(hook.clone(), retake, &changes);
        let (passive, active) = (watch(false), watch(true));
        assert_eq!(passive.look(), HookState::NotInstalled);
        hook.install(&hook.lock().unwrap()).unwrap();
        assert_eq!(passive.look(), HookState::Ours);
        std::fs::write(&setting, "/bin/other\n").unwrap();
        let foreign = passive.look();
        assert_eq!(foreign.foreign().map(|(what, _)| what), Some("/bin/other"));
        assert_eq!(active.look(), HookState::Ours);
        assert_eq!(passive.look(), HookState::Ours);
        hook.uninstall(false).unwrap();
        assert_eq!(active.look(), HookState::NotInstalled);
    }

    #[test]
    fn another_installations_hook_is_not_ours() {
        let Some(host) = Host::new() else { return };
        let watch = host.watch(false);
        host.set("|/x/core --hooks=/elsewhere %P");
        assert!(matches!(watch.look(), HookState::Foreign { .. }));
    }

    #[test]
    fn ours_is_taken_back_if_so_configured_and_nobody_is_at_work() {
        let Some(host) = Host::new() else { return };
        let watch = host.watch(true);
        watch.look();
        host.set("|/bin/other %p");
        let lock = CoreSysctl::below(host.directory.path()).lock().unwrap();
        assert!(matches!(watch.look(), HookState::Foreign { .. }));
        assert_eq!(host.pattern(), "|/bin/other %p");
        drop(lock);
        assert_eq!(watch.look(), HookState::Ours);
        assert_eq!(host.pattern(), format!("{}\n", host.ours));
        // What was never seen as ours is not put in.
        let watch = host.watch(true);
        host.set("|/bin/other %p");
        assert!(matches!(watch.look(), HookState::Foreign { .. }));
    }
}
