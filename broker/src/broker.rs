//! One upcall from its arrival to its record: identify, resolve, decide, admit, record, launch, record.

mod clock;
mod cmdline;
mod core;
mod draft;
mod explained;
mod facts;
mod follow;
mod forget;
mod former;
mod helper;
mod kept;
mod key;
mod late;
mod log;
mod missed;
mod perform;
mod post;
mod reason;
mod refusals;
mod self_test;
mod spooled;
mod unanswered;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::{Notify, broadcast};
use tracing::warn;
use upcall_config::rule::Policy;
use upcall_config::settings::Settings;

use crate::admit::Admit;
use crate::hooks::file::CoreHook;
use crate::hooks::pattern::Pattern;
use crate::launch::Launcher;
use crate::linux::modreq::Watch;
use crate::metrics::Metrics;
use crate::resolve::Resolver;
use crate::store::id;
use crate::store::ledger::Ledger;
use crate::store::record::Record;
use crate::store::records::{RecordError, Records};
use clock::Clock;
use cmdline::Cmdlines;
use draft::Draft;
pub(crate) use draft::helper::{module_text, umh_text};
pub(crate) use explained::{described, described_asker, facts_of_asker, facts_of_core};
use helper::Helpers;
use late::Late;
use missed::Missed;
use post::Posts;
pub(crate) use reason::name;
use refusals::Refusals;
pub use self_test::SELF_TEST;
pub(crate) use upcall_helpers::clock::monotonic;

/// Why an upcall is refused that nobody else could keep.
const BUSY: &str = "everything is busy: as many upcalls as `limits` allows are in work";

/// What the daemon was told when it started, and where its rooms are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Records and cores.
    pub state: PathBuf,
    /// Sockets.
    pub run: PathBuf,
    /// The hooks' files.
    pub hooks: PathBuf,
    /// A step at which the daemon stops: for tests, and only in builds with debug assertions.
    pub stop_at: Option<String>,
}

/// Everything that answering an upcall needs.
#[derive(Debug)]
pub struct Broker {
    places: Places,
    settings: Settings,
    policy: RwLock<Arc<Policy>>,
    resolver: Resolver,
    admit: Admit,
    /// The same limits for keys, counted apart: nobody's crash waits for his own keys.
    keys: Admit,
    helpers: Helpers,
    launcher: Arc<Launcher>,
    records: Records,
    cores: File,
    ledger: Ledger,
    /// A core was kept: somebody has to know when it is too old.
    kept: Notify,
    cmdlines: Cmdlines,
    refusals: Refusals,
    closed: broadcast::Sender<Arc<Record>>,
    metrics: Metrics,
    self_tests: Mutex<HashMap<u32, Instant>>,
    node: String,
    /// This boot's id, as the shim writes it.
    boot: Vec<u8>,
    late: Late,
    /// Something was left to a shim.
    spooled: Notify,
    missed: Missed,
    posts: Posts,
}

impl Broker {
    /// Takes its parts. The cores' directory is made below the state directory.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn new(
        places: Places,
        settings: Settings,
        policy: Arc<Policy>,
        launcher: Arc<Launcher>,
        watch: Watch,
    ) -> anyhow::Result<Self> {
        let cores = places.state.join("cores");
        std::fs::create_dir_all(&cores)?;
        // Who knows a core's name and may read it gets through.
        std::fs::set_permissions(&cores, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self {
            resolver: Resolver::new(&settings.runtimes, Some(launcher.cgroups()))?,
            admit: Admit::new(settings.limits),
            keys: Admit::new(settings.limits),
            helpers: Helpers::new(settings.limits, watch),
            records: Records::create(&places.state)?,
            cores: File::open(&cores)?,
            ledger: Ledger::new(settings.store)?,
            kept: Notify::new(),
            cmdlines: Cmdlines::default(),
            refusals: Refusals::default(),
            closed: broadcast::Sender::new(256),
            metrics: Metrics::default(),
            self_tests: Mutex::default(),
            boot: boot.trim().as_bytes().to_vec(),
            late: Late::default(),
            spooled: Notify::new(),
            missed: Missed::default(),
            posts: Posts::default(),
            node: node.trim().to_owned(),
            policy: RwLock::new(policy),
            places,
            settings,
            launcher,
        })
    }

    /// Stops this process here, if a test asked for this step.
    fn stop_at(&self, step: &str) {
        if cfg!(debug_assertions) && self.places.stop_at.as_deref() == Some(step) {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
        }
    }

    /// The rules as they are loaded.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other rules in their place, at once and whole.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// Its rooms.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The settings it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The launcher.
    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// The resolver, for explaining.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The limits, for explaining.
    pub fn admit(&self) -> &Admit {
        &self.admit
    }

    /// The same of modules, or of other helpers.
    pub fn helper_admit(&self, kind: upcall_config::upcall::Kind) -> &Admit {
        self.helpers.limits(kind)
    }

    /// The same of keys.
    pub fn key_admit(&self) -> &Admit {
        &self.keys
    }

    /// What was counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Every record from now on, when it is closed.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Record>> {
        self.closed.subscribe()
    }

    /// What stood in core_pattern before us, as the hook's file has it.
    fn previous(&self) -> Option<Pattern> {
        CoreHook::read(&self.places.hooks)
            .ok()
            .map(|hook| hook.previous)
    }

    /// Writes a record of which nothing was open.
    fn written(self: &Arc<Self>, mut draft: Draft) {
        let post = draft.take_post();
        let (record, micros) = draft.finish();
        let result = self.records.write(&record, micros);
        let record = self.told(record, result);
        self.post(post, record);
    }

    /// Logs a closed record, and tells those who watch.
    fn told(&self, record: Record, result: Result<(), RecordError>) -> Arc<Record> {
        if let Err(error) = result {
            self.metrics.unwritten();
            warn!("{error}");
        }
        self.metrics.closed(&record);
        log::over(&record);
        let record = Arc::new(record);
        drop(self.closed.send(Arc::clone(&record)));
        record
    }

    /// Ends what is put together and not written yet, before the daemon ends.
    pub fn flush(&self) {
        self.launcher.tidy();
        self.helpers.watch.end();
        for draft in self.refusals.take_all() {
            let (record, micros) = draft.finish();
            let result = self.records.write(&record, micros);
            self.told(record, result);
        }
    }
}

/// A new record's id.
fn new_id() -> Result<String, nix::errno::Errno> {
    id::new()
}
