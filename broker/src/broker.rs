//! One upcall from its arrival to its record: identify, resolve, decide, admit, record, launch, record.

mod clock;
mod cmdline;
mod draft;
mod explained;
mod facts;
mod follow;
mod forget;
mod helper;
mod kept;
mod key;
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
use upcall_config::decide::{Decision, Verdict, decide};
use upcall_config::facts::{Facts, Reason};
use upcall_config::rule::Policy;
use upcall_config::settings::Settings;
use upcall_config::text::unescape;
use upcall_config::upcall::Upcall;

use crate::admit::{Admit, Refused, Tenant};
use crate::hooks::file::CoreHook;
use crate::hooks::pattern::Pattern;
use crate::identify::{self, Lost, Origin};
use crate::intake::call::CoreCall;
use crate::intake::shim::Late;
use crate::launch::{Launcher, Slot};
use crate::linux::modreq::Watch;
use crate::linux::parse::CgroupLine;
use crate::linux::room::Room;
use crate::metrics::Metrics;
use crate::resolve::{Container, Resolution, Resolver};
use crate::store::ledger::Ledger;
use crate::store::record::Record;
use crate::store::records::{RecordError, Records, now_micros};
use crate::store::{cores, id};
use clock::Clock;
use cmdline::Cmdlines;
use draft::Draft;
pub(crate) use draft::helper::{module_text, umh_text};
pub(crate) use explained::{described, described_asker, facts_of_asker, facts_of_core};
use helper::Helpers;
use missed::Missed;
use post::Posts;
pub(crate) use reason::name;
use refusals::Refusals;
pub use self_test::SELF_TEST;
pub(crate) use upcall_helpers::clock::monotonic;

/// Why an upcall is refused that nobody else could keep.
const BUSY: &str = "everything is busy: as many upcalls as `limits` allows are in work";

/// Late upcalls that are remembered until their cores are taken in.
const LATE_MAX: usize = 4096;

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
    /// Records of upcalls that we were too late for, and when they were: what of them is in the spool replaces them.
    late: Mutex<HashMap<String, u64>>,
    /// Something was left to a shim.
    spooled: Notify,
    missed: Missed,
    posts: Posts,
}

/// An upcall that is understood and not yet acted on.
#[derive(Debug)]
struct Examined {
    clock: Clock,
    draft: Draft,
    origin: Option<Origin>,
    container: Option<Container>,
    facts: Facts,
    policy: Arc<Policy>,
    decision: Decision,
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
            late: Mutex::default(),
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

    /// Answers one core dump.
    pub async fn core(self: Arc<Self>, call: CoreCall) {
        self.missed.answered(call.words.facts().pid, call.started);
        let mut seen = match self.examine(&call) {
            Ok(seen) => seen,
            Err(error) => return self.hand_back(&call, &error.to_string()),
        };
        self.stop_at("examined");
        if self.is_self_test(&seen.facts) {
            return self.self_tested(&call, seen.draft);
        }
        let plan = match seen.decision.verdict {
            Verdict::Do(plan) => plan,
            Verdict::Deny(denial) => {
                return self.refuse(&call, seen.draft, Reason::Rule, &denial.reason, None);
            }
        };
        let tenant = Tenant::of(&seen.facts);
        let rule = seen.decision.rule.and_then(|index| seen.policy.rule(index));
        let limit = rule.and_then(|rule| Some((rule.source(), plan.limit()?)));
        let mut ticket = match self.admit.enter(&tenant, limit).await {
            Ok(ticket) => ticket,
            Err(Refused::Limit { reason, message }) => {
                let key = refusals::Key::new(limit.map(|(rule, _)| rule), &tenant, reason);
                return self.refuse(&call, seen.draft, reason, &message, Some(key));
            }
            Err(Refused::Overload) => return self.overloaded(&call, seen.draft, &tenant),
        };
        seen.draft.timings().admit = seen.clock.step();
        let open = match self.records.open(seen.draft.record()) {
            Ok(open) => open,
            Err(error) => return self.hand_back(&call, &error.to_string()),
        };
        seen.draft.timings().record = seen.clock.step();
        self.stop_at("opened");

        let performed = self
            .perform(&open, call, plan, seen.origin, seen.container, &tenant)
            .await;
        ticket.next_may_begin();
        let mut draft = seen.draft;
        let (leftover, cmdline) = draft.performed(performed, &mut seen.clock);
        draft.cmdline(match cmdline {
            Some(reading) => reading.words().await,
            None => None,
        });
        let post = draft.take_post();
        let (record, micros) = draft.finish();
        self.stop_at("performed");
        let result = self.records.close(open, &record, micros);
        self.stop_at("closed");
        let record = self.told(record, result);
        leftover.gone(&self.launcher).await;
        drop(ticket);
        self.post(post, record);
    }

    /// Stops this process here, if a test asked for this step.
    fn stop_at(&self, step: &str) {
        if cfg!(debug_assertions) && self.places.stop_at.as_deref() == Some(step) {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
        }
    }

    /// Records a core dump that we were too late for.
    pub fn late(&self, late: &Late) {
        self.missed.answered(late.words.facts().pid, late.started);
        let id = late.id.map(id::text);
        let mut known = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        // The shim may have been faster, and what it kept was taken in.
        if let Some(id) = &id
            && self.records.find(id).is_ok_and(|found| found.is_some())
        {
            return;
        }
        let Ok(mut draft) = Draft::new(&self.node, id) else {
            return warn!("a core dump that came too late has no record");
        };
        let lost = Lost {
            why: "the shim had ended when its request was read".to_owned(),
            facts: late.words.facts(),
        };
        let resolution = Resolution::default();
        let facts = facts::core(&late.words, Err(&lost), &resolution);
        draft.describe(&late.words, Err(&lost), &resolution, &facts);
        draft.late(late.kept);
        let (record, micros) = draft.finish();
        let result = self.records.write(&record, micros);
        if late.kept && known.len() < LATE_MAX {
            known.insert(record.id.clone(), micros);
        }
        drop(known);
        self.told(record, result);
        if late.kept {
            self.spooled.notify_one();
        }
    }

    /// Records a core dump whose process was killed before the kernel could be answered.
    pub fn killed(&self, pid: u32, started: u64) {
        self.missed.answered(Some(pid), started);
        let Ok(mut draft) = Draft::new(&self.node, None) else {
            return warn!("the core dump of process {pid}, which was killed, has no record");
        };
        let message = "it was killed before the kernel was told what to do";
        draft.unanswered(pid, Reason::Killed, message);
        let (record, micros) = draft.finish();
        let result = self.records.write(&record, micros);
        self.told(record, result);
    }

    /// Identifies, resolves, decides: everything that changes nothing.
    fn examine(&self, call: &CoreCall) -> Result<Examined, nix::errno::Errno> {
        let mut clock = Clock::new(call.started);
        let mut draft = Draft::new(&self.node, call.id.map(id::text))?;
        draft.timings().accept = clock.step();

        let room = Room::watch();
        let words = &call.words;
        let pidfd = call.pidfd.as_ref().and_then(|pidfd| pidfd.try_clone().ok());
        let origin = identify::core::identify(words, pidfd, call.started_ticks);
        draft.timings().identify = clock.step();

        let known = origin.as_ref().map_err(|lost| &**lost);
        let policy = self.policy();
        let resolve = |origin| self.resolver.resolve(origin, policy.containers());
        let resolution = known.map_or_else(|_| Resolution::default(), resolve);
        room.was_there()?;
        draft.timings().resolve = clock.step();

        let upcall = Upcall::Core(words.upcall());
        let facts = facts::core(words, known, &resolution);
        let decision = decide(&policy, &upcall, &facts, draft.id());
        draft.describe(words, known, &resolution, &facts);
        draft.came_by(call.caller.hook());
        draft.decided(&policy, &upcall, &facts, &decision);
        draft.timings().decide = clock.step();
        let (origin, container) = (origin.ok(), resolution.container);
        Ok(Examined {
            clock,
            draft,
            origin,
            container,
            facts,
            policy,
            decision,
        })
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

    /// Refuses: nothing is read, which ends the dump. Refusals by a limit are put together, one record for all of a
    /// container, rule and reason within ten seconds.
    fn refuse(
        self: &Arc<Self>,
        call: &CoreCall,
        mut draft: Draft,
        reason: Reason,
        message: &str,
        together: Option<refusals::Key>,
    ) {
        call.caller.refuse(&call.kernel);
        draft.refused(reason, message);
        draft.timings().held = Clock::new(call.started).since_start(monotonic());
        if let Some(key) = together {
            return self.refusals.add(key, draft, self);
        }
        self.written(draft);
    }

    /// Writes a record of which nothing was open.
    fn written(self: &Arc<Self>, mut draft: Draft) {
        let post = draft.take_post();
        let (record, micros) = draft.finish();
        let result = self.records.write(&record, micros);
        let record = self.told(record, result);
        self.post(post, record);
    }

    /// Everything is busy. The shim keeps its core, so that is no refusal; the kernel's own question is one.
    fn overloaded(self: &Arc<Self>, call: &CoreCall, draft: Draft, tenant: &Tenant) {
        if call.caller.is_shim() {
            return self.hand_back(call, "everything is busy");
        }
        let key = refusals::Key::new(None, tenant, Reason::Concurrency);
        self.refuse(call, draft, Reason::Concurrency, BUSY, Some(key));
    }

    /// Leaves the core to the shim, which keeps it; where the kernel itself asks, nobody does.
    fn hand_back(&self, call: &CoreCall, why: &str) {
        if !call.caller.is_shim() {
            call.caller.refuse(&call.kernel);
            self.metrics.unwritten();
            return warn!("a core dump is lost: {why}");
        }
        warn!("a core dump goes to the spool: {why}");
        call.caller.hand_back();
        self.spooled.notify_one();
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

    /// Closes the records that a former daemon left open.
    pub fn close_former(&self) {
        self.records.take_unclosed(|record, reports, _| {
            // Of its helper something may be left where the launcher was killed too.
            if let Some(path) = record.process.cgroup.as_deref().and_then(unescape) {
                let place = [CgroupLine {
                    controllers: Vec::new(),
                    path,
                }];
                for slot in Slot::KEPT {
                    self.launcher.end_helper(&record.id, slot, &place);
                }
            }
            let mut record = draft::close_former(record, &reports);
            let core = cores::find(&self.places.state.join("cores"), &record.id);
            for action in &mut record.actions {
                if action.stored_bytes.is_some_and(|bytes| bytes > 0) && action.path.is_none() {
                    let compress = core.as_deref().map(cores::compressed);
                    action.compress = compress.map(str::to_owned);
                    action.path = core.as_ref().map(|core| core.display().to_string());
                }
            }
            let result = self.records.write(
                &record,
                draft::micros_of(&record).unwrap_or_else(now_micros),
            );
            self.told(record, result);
        });
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
