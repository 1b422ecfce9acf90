//! Cores that the kernel announced and nobody asked us about: one record with the likely cause.
//!
//! The announcement comes for every process that a core signal kills, before the kernel looks whether it may dump. So
//! what is announced is looked at once, at once, and waited for; what the kernel skips by its own rules (a core limit of
//! exactly 1, a process that is not dumpable) is gone before a program could have been started, and is not noise here.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{debug, info, warn};
use upcall_config::facts::{Facts, ProcessFacts, Reason};

use super::draft::Draft;
use super::reason::name;
use super::{Broker, monotonic, new_id, refusals};
use crate::admit::Tenant;
use crate::hooks::file::CoreHook;
use crate::hooks::pattern::Pattern;
use crate::hooks::sysctl::{CoreSysctl, Standing};
use crate::linux::connector::{Connector, CoreEvent, Event};
use crate::linux::parse::{self, Status};
use crate::linux::procdir::ProcDir;
use crate::store::records::now_micros;

/// How long an upcall may take to come.
const PATIENCE: u64 = 5_000_000_000;

/// How long a process may stay between its announcement and its upcall: while its threads end (coredump_wait).
const DUMPING_MAX: u64 = 600_000_000_000;

/// Announcements that are waited for; what is more is counted.
const WAITING_MAX: usize = 1024;

/// Upcalls that are remembered for an announcement that is read later.
const ANSWERED_MAX: usize = 4096;

/// What is waited for, and what came.
#[derive(Debug, Default)]
pub(super) struct Missed(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<u32, Waiting>,
    /// Pids of upcalls, and when their shims started.
    answered: VecDeque<(u32, u64)>,
    /// Announcements for which there was no room.
    over: u64,
}

/// A process that was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    event: CoreEvent,
    /// When it is judged.
    due: u64,
    seen: Glimpse,
}

/// How it was when it was announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Glimpse {
    facts: ProcessFacts,
    /// Its core limit.
    limit: Option<u64>,
    /// Whether the kernel had begun to dump it.
    dumping: bool,
    /// How many dumps we had in work.
    running: u64,
    /// What stood in core_pattern and core_pipe_limit.
    standing: Option<Standing>,
    /// Why the kernel could not start what stood there.
    unusable: Option<String>,
}

/// What becomes of an announcement without an upcall.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    /// The kernel skipped it rightly, or it is not our business.
    Nothing(&'static str),
    /// It still dumps.
    Later,
    /// It was missed.
    Missed(Reason, String),
}

impl Missed {
    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An upcall of this process has come; its shim started at this time.
    pub(super) fn answered(&self, pid: Option<u32>, started: u64) {
        let Some(pid) = pid else { return };
        let mut table = self.lock();
        if let Some(waiting) = table.waiting.get(&pid)
            && waiting.event.time <= started
        {
            table.waiting.remove(&pid);
            return;
        }
        if table.answered.len() >= ANSWERED_MAX {
            table.answered.pop_front();
        }
        table.answered.push_back((pid, started));
    }

    /// A process was announced; `look` looks at it, if it is to be waited for.
    fn announced(&self, event: CoreEvent, look: impl FnOnce() -> Glimpse) {
        {
            let mut table = self.lock();
            let come = |answer: &(u32, u64)| answer.0 == event.pid && answer.1 >= event.time;
            if let Some(at) = table.answered.iter().position(come) {
                table.answered.remove(at);
                return;
            }
            if table.waiting.len() >= WAITING_MAX {
                table.over += 1;
                return;
            }
        }
        let seen = look();
        if seen.limit == Some(1) {
            return; // the kernel starts no program for it (fs/coredump.c)
        }
        let due = event.time.saturating_add(PATIENCE);
        let waiting = Waiting { event, due, seen };
        let mut table = self.lock();
        let come = |answer: &(u32, u64)| answer.0 == event.pid && answer.1 >= event.time;
        if !table.answered.iter().any(come) {
            table.waiting.insert(event.pid, waiting);
        }
    }

    /// When the next is due.
    fn next(&self) -> Option<u64> {
        let table = self.lock();
        table.waiting.values().map(|waiting| waiting.due).min()
    }

    /// Those that are due, taken out.
    fn due(&self, now: u64) -> Vec<Waiting> {
        let mut table = self.lock();
        let due = table.waiting.extract_if(|_, waiting| waiting.due <= now);
        due.map(|(_, waiting)| waiting).collect()
    }

    /// Whether an upcall has come after all.
    fn has_come(&self, event: CoreEvent) -> bool {
        let table = self.lock();
        let mut answered = table.answered.iter();
        answered.any(|(pid, started)| *pid == event.pid && *started >= event.time)
    }

    fn later(&self, mut waiting: Waiting, now: u64) {
        waiting.due = now.saturating_add(PATIENCE);
        self.lock().waiting.insert(waiting.event.pid, waiting);
    }

    fn take_over(&self) -> u64 {
        std::mem::take(&mut self.lock().over)
    }
}

impl Broker {
    /// Listens for announcements and records those that bring no upcall; never ends, but where the kernel gives none.
    /// Drops `listens` when it does, or will not.
    pub async fn notice_missed(self: Arc<Self>, listens: oneshot::Sender<()>) {
        let connector = match Connector::open().await {
            Ok(connector) => connector,
            Err(error) => return info!("crashes that bring no upcall are not noticed: {error}"),
        };
        drop(listens);
        loop {
            let wait = self.missed.next();
            let wait = wait.map(|due| Duration::from_nanos(due.saturating_sub(monotonic())));
            let due = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = connector.next() => match event {
                    Ok(Event::Core(event)) => {
                        let look = || glimpse(event.pid, self.admit.running());
                        self.missed.announced(event, look);
                    }
                    Ok(Event::Answer(_)) => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        warn!("so many processes crash that some were not announced");
                    }
                    Err(error) => return warn!("crashes are not noticed any more: {error}"),
                },
                () = due => self.judge_due().await,
            }
        }
    }

    async fn judge_due(self: &Arc<Self>) {
        let due = self.missed.due(monotonic());
        // What the shim has kept is not missed.
        self.take_in_now().await;
        let over = self.missed.take_over();
        if over > 0 {
            warn!(
                "{over} crashes more than can be waited for; whether they were missed is not known"
            );
        }
        let hooks = &self.places.hooks;
        for waiting in due {
            if self.missed.has_come(waiting.event) {
                continue;
            }
            let now = monotonic();
            match judge(&waiting, hooks, now) {
                Judged::Nothing(why) => {
                    debug!("process {} has no core: {why}", waiting.event.pid);
                }
                Judged::Later => self.missed.later(waiting, now),
                Judged::Missed(reason, message) => self.record_missed(waiting, reason, &message),
            }
        }
    }

    fn record_missed(self: &Arc<Self>, waiting: Waiting, reason: Reason, message: &str) {
        let Ok(id) = new_id() else { return };
        let age = monotonic().saturating_sub(waiting.event.time) / 1000;
        let facts = Facts {
            process: waiting.seen.facts,
            ..Facts::default()
        };
        let tenant = Tenant::of(&facts);
        let mut draft = Draft::at(&self.node, id, now_micros().saturating_sub(age));
        draft.missed(&facts, waiting.seen.limit, reason, message);
        if matches!(
            waiting.seen.standing,
            Some(Standing {
                pattern: Pattern::Socket(_),
                ..
            })
        ) {
            draft.came_by("socket");
        }
        let key = refusals::Key::new(None, &tenant, reason);
        self.refusals.add(key, draft, self);
    }
}

/// Looks at a process that was announced: what can be read without its help.
fn glimpse(pid: u32, running: u64) -> Glimpse {
    let facts = ProcessFacts {
        pid: Some(pid),
        ..ProcessFacts::default()
    };
    let mut seen = Glimpse {
        facts,
        running,
        standing: CoreSysctl::host().read().ok(),
        ..Glimpse::default()
    };
    let pattern = seen.standing.as_ref().map(|standing| &standing.pattern);
    seen.unusable = pattern.and_then(unusable);
    let Ok(directory) = ProcDir::open(pid) else {
        return seen;
    };
    if let Ok(text) = directory.read("status") {
        seen.facts.comm = parse::field(&text, b"Name").map(<[u8]>::to_vec);
        if let Some(status) = Status::parse(&text) {
            let ([uid, ..], [gid, ..]) = (status.uids, status.gids);
            (seen.facts.uid, seen.facts.gid) = (Some(uid), Some(gid));
            seen.dumping = status.dumping == Some(true);
        }
    }
    let limits = directory.read("limits").ok();
    let limits = limits.and_then(|text| parse::limits(&text));
    seen.limit = limits.and_then(|limits| limits.get(4).map(|(soft, _)| *soft));
    let cgroups = directory.cgroups().unwrap_or_default();
    seen.facts.cgroup = crate::identify::cgroup(&cgroups).map(<[u8]>::to_vec);
    seen
}

/// Why an announced process brought no upcall. `hooks`: where our hook's file is.
fn judge(waiting: &Waiting, hooks: &Path, now: u64) -> Judged {
    let seen = &waiting.seen;
    let Some(standing) = &seen.standing else {
        return Judged::Nothing("core_pattern could not be read");
    };
    if !standing.pattern.is_of(hooks) {
        if CoreHook::read(hooks).is_err_and(|error| error.is_absent()) {
            return Judged::Nothing("the core hook is not installed");
        }
        let pattern = standing.pattern.text().escape_debug();
        return Judged::Missed(
            Reason::HookForeign,
            format!("core_pattern was `{pattern}`; help: upcallctl status, upcallctl install core"),
        );
    }
    let young = now.saturating_sub(waiting.event.time) < DUMPING_MAX;
    if young && seen.dumping && glimpse(waiting.event.pid, 0).dumping {
        return Judged::Later;
    }
    if let (Pattern::Socket(_), true) = (&standing.pattern, seen.dumping) {
        return Judged::Missed(
            Reason::ShimLost,
            "the kernel did not get through to our socket: more waited there than net.core.somaxconn allows, or it is \
             not there; help: dmesg, upcallctl install core"
                .to_owned(),
        );
    }
    let limit = standing.pipe_limit;
    if limit > 0 && seen.running >= limit {
        return Judged::Missed(
            Reason::PipeLimit,
            format!("kernel.core_pipe_limit is {limit}, and so many were in work; help: raise it"),
        );
    }
    if let Some(wrong) = seen.unusable.clone() {
        return Judged::Missed(Reason::ShimLost, wrong);
    }
    if seen.dumping {
        return Judged::Missed(
            Reason::ShimLost,
            "the kernel began to dump it and no request came: the shim was killed (memory?), or the process was; \
             help: dmesg"
                .to_owned(),
        );
    }
    Judged::Nothing("it was gone at once: not dumpable, or killed")
}

/// Why the kernel cannot start the program of a pattern.
fn unusable(pattern: &Pattern) -> Option<String> {
    let Pattern::Pipe(text) = pattern else {
        return None;
    };
    let program = text
        .trim_start_matches('|')
        .split_ascii_whitespace()
        .next()?;
    let access = nix::unistd::access(program, nix::unistd::AccessFlags::X_OK);
    let errno = access.err()?;
    let errno = name(errno);
    Some(format!(
        "{program} in core_pattern cannot be executed ({errno}); help: make install, upcallctl install core"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn event(pid: u32, second: u64) -> CoreEvent {
        CoreEvent {
            pid,
            time: second * SECOND,
        }
    }

    fn dumping() -> Glimpse {
        Glimpse {
            dumping: true,
            limit: Some(0),
            ..Glimpse::default()
        }
    }

    #[test]
    fn an_upcall_answers_its_announcement_whichever_comes_first() {
        let missed = Missed::default();
        missed.announced(event(1, 10), dumping);
        missed.answered(Some(1), 10 * SECOND + 1);
        missed.answered(Some(2), 10 * SECOND + 1);
        missed.announced(event(2, 10), || panic!("nobody looks"));
        assert_eq!(missed.next(), None);
        // One with the same number, later, is another one.
        missed.announced(event(2, 11), dumping);
        assert_eq!(missed.next(), Some(16 * SECOND));
        missed.answered(Some(2), 10 * SECOND);
        assert!(missed.due(15 * SECOND).is_empty());
        assert_eq!(missed.due(16 * SECOND).len(), 1);
        assert_eq!(missed.next(), None);
    }

    #[test]
    fn a_storm_takes_no_more_than_its_room() {
        let missed = Missed::default();
        for pid in 0..3000 {
            missed.announced(event(pid, 1), dumping);
        }
        assert_eq!(missed.due(u64::MAX).len(), WAITING_MAX);
        assert_eq!(missed.take_over(), 3000 - WAITING_MAX as u64);
        for pid in 0..10_000 {
            missed.answered(Some(pid), SECOND);
        }
        assert_eq!(missed.lock().answered.len(), ANSWERED_MAX);
    }

    #[test]
    fn a_limit_of_one_is_the_kernels_own_rule_and_one_of_zero_is_not() {
        let missed = Missed::default();
        let one = || Glimpse {
            limit: Some(1),
            ..dumping()
        };
        missed.announced(event(1, 1), one);
        assert_eq!(missed.next(), None);
        missed.announced(event(2, 1), dumping);
        assert!(missed.next().is_some());
    }

    #[test]
    fn each_cause_has_its_word() {
        let hooks = tempfile::tempdir().unwrap();
        let nowhere = hooks.path().join("not/installed");
        std::fs::write(CoreHook::path(hooks.path()), "").unwrap();
        let standing = |pattern: String| {
            Some(Standing {
                pattern: Pattern::parse(&pattern),
                pipe_limit: 4,
            })
        };
        let ours = standing(format!("|/x/core --hooks={}", hooks.path().display()));
        let judged = |seen: Glimpse, hooks: &Path| {
            let waiting = Waiting {
                event: event(u32::MAX, 1),
                due: 0,
                seen,
            };
            match judge(&waiting, hooks, 6 * SECOND) {
                Judged::Missed(reason, _) => Some(reason),
                Judged::Nothing(_) | Judged::Later => None,
            }
        };
        let with = |change: &dyn Fn(&mut Glimpse)| {
            let mut seen = Glimpse {
                standing: ours.clone(),
                ..Glimpse::default()
            };
            change(&mut seen);
            seen
        };
        let foreign = with(&|seen| seen.standing = standing("|/other %P".to_owned()));
        assert_eq!(judged(foreign.clone(), &nowhere), None);
        assert_eq!(judged(foreign, hooks.path()), Some(Reason::HookForeign));
        let full = with(&|seen| seen.running = 4);
        assert_eq!(judged(full, hooks.path()), Some(Reason::PipeLimit));
        let begun = with(&|seen| seen.dumping = true);
        assert_eq!(judged(begun, hooks.path()), Some(Reason::ShimLost));
        let pattern = Pattern::parse("|/nowhere/core %P");
        let broken = with(&|seen| seen.unusable = unusable(&pattern));
        assert_eq!(judged(broken, hooks.path()), Some(Reason::ShimLost));
        assert_eq!(judged(with(&|_| {}), hooks.path()), None, "not dumpable");
    }
}
