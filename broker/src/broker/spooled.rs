//! Cores that the shim kept while nobody took them: decided by the rules of now, kept or not, recorded.
//!
//! Nothing can be started for them: the process is gone, and its container may be. Each step can be done again: the core
//! gets its record's name in the store, the record replaces itself, and the facts go last. So whoever ends us anywhere
//! costs neither a core nor a record, nor makes a second one.

use std::collections::HashMap;
use std::fs::File;
use std::time::Duration;

use nix::errno::Errno;
use tracing::{error, info, warn};
use upcall_config::decide::{Verdict, decide};
use upcall_config::facts::{Facts, Reason};
use upcall_config::plan::{Compress, Plan, Store};
use upcall_config::upcall::Upcall;
use upcall_helpers::promise::Promise;
use upcall_helpers::wire::Why;

use super::draft::Draft;
use super::perform::within_core_limit;
use super::reason::{self, name};
use super::{Broker, facts};
use crate::admit::Tenant;
use crate::explain::facts_of_record;
use crate::hooks::file::CoreHook;
use crate::hooks::pattern::Pattern;
use crate::identify::core::CoreWords;
use crate::identify::past::Past;
use crate::intake::spool::{Entry, Found, GiveError, Spool, stored};
use crate::linux::room::Room;
use crate::resolve::Resolution;
use crate::store::record::{Action, Outcome, Record};
use crate::store::records::Entry as EntryOfRecord;
use crate::store::{cores, id};

/// How long a shim that was just sent away is given to begin, and one that is at work until it is looked at again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long after it a second look is taken for one that was slow to begin.
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// Records that there are, by id: when their upcalls were.
type Known = HashMap<String, u64>;

/// What decides about a copy beside the rule.
#[derive(Debug, Clone, Copy)]
struct Missed<'a> {
    why: Why,
    /// Whose share a copy takes.
    share: &'a str,
    /// The process's own core limit.
    limit: Option<u64>,
    /// Whether whoever would have got it takes cores whatever their limit.
    takes_all: bool,
}

impl Broker {
    /// Takes in what is in the spool, now and whenever something was left to a shim; never ends.
    pub async fn take_in_for_ever(self: std::sync::Arc<Self>) {
        loop {
            for pause in [PAUSE, SECOND_LOOK] {
                while self.take_in_now().await {
                    tokio::time::sleep(PAUSE).await;
                }
                if pause == PAUSE {
                    self.spooled.notified().await;
                }
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// A shim may have kept something.
    pub fn look_into_the_spool(&self) {
        self.spooled.notify_one();
    }

    /// Whether a shim is still at work.
    pub(super) async fn take_in_now(self: &std::sync::Arc<Self>) -> bool {
        let broker = std::sync::Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || broker.take_in());
        done.await.unwrap_or(false)
    }

    /// Takes in what is in the spool; returns whether a shim is still at work on something.
    pub fn take_in(self: &std::sync::Arc<Self>) -> bool {
        let hook = CoreHook::read(&self.places.hooks);
        let path = hook.map_or_else(|_| self.places.state.join("spool"), |hook| hook.spool);
        let listed = Spool::open(&path).and_then(|spool| match spool {
            Some(spool) => Ok(Some((spool.names()?, spool))),
            None => Ok(None),
        });
        let (names, spool) = match listed {
            Ok(Some(listed)) => listed,
            Ok(None) => return false,
            Err(wrong) => {
                error!("the spool is not looked at: {wrong}");
                return wrong.is_want();
            }
        };
        if names.is_empty() {
            return false;
        }
        let entries = match self.records.entries() {
            Ok(entries) => entries,
            Err(wrong) => {
                error!("the spool is not looked at: {wrong}");
                return wrong.is_want();
            }
        };
        let known: Known = entries.into_iter().map(|e| (e.id, e.micros)).collect();
        let mut busy = false;
        for name in names {
            match spool.entry(&name) {
                Ok(Found::Entry(entry)) if self.records.is_open(&id::text(entry.spooled.id)) => {
                    busy = true; // what we still write about it ourselves comes first
                }
                Ok(Found::Entry(entry)) => busy |= self.take(&spool, &entry, &known),
                Ok(Found::Busy) => busy = true,
                Ok(Found::Gone) => {}
                // Nothing is wrong with what is there.
                Err(wrong) if wrong.is_want() => busy = true,
                Err(wrong) => {
                    let (name, aside) = (name.escape_debug(), spool.set_aside(&name));
                    match aside {
                        Ok(path) => error!(
                            "{name} in the spool is set aside: {wrong}; help: look at {}",
                            path.display()
                        ),
                        Err(errno) => error!("{name} in the spool: {wrong}; it stays: {errno}"),
                    }
                }
            }
        }
        busy
    }

    /// Takes one core in; returns whether it has to be tried again soon.
    fn take(self: &std::sync::Arc<Self>, spool: &Spool, entry: &Entry, known: &Known) -> bool {
        let room = Room::watch();
        let id = id::text(entry.spooled.id);
        // All records were listed before, perhaps a while ago.
        let written = known.get(&id).copied();
        let written = written.or_else(|| self.late.hold().time(&id));
        let micros = written.unwrap_or(entry.spooled.time);
        let former = written.and_then(|micros| {
            let id = id.clone();
            self.records.read(&EntryOfRecord { micros, id })
        });
        let words = match CoreWords::new(entry.spooled.argv.clone()) {
            Ok(words) => words,
            Err(wrong) => {
                error!("{} in the spool: {wrong}; it is set aside", entry.name);
                drop(spool.set_aside(&entry.name));
                return false;
            }
        };
        let why = entry.spooled.why;
        if entry.spooled.boot == self.boot {
            let pid = words.facts().pid;
            self.missed.answered(pid, entry.spooled.started);
        }
        let mut draft = Draft::at(&self.node, id.clone(), micros);
        let (facts, placed) = self.known(entry, &words, former.as_ref(), why, &mut draft);
        if let Err(errno) = room.was_there() {
            warn!("core {id} stays in the spool: its container could not be looked for: {errno}");
            return true;
        }
        let upcall = Upcall::Core(words.upcall());
        let policy = self.policy();
        let decision = decide(&policy, &upcall, &facts, &id);
        draft.decided_past(&policy, &upcall, &facts, &decision);
        let limit = words.upcall().limit;
        let ended = match decision.verdict {
            Verdict::Deny(denial) => {
                entry.core.iter().for_each(|core| spool.discard(core));
                draft.refused(Reason::Rule, &denial.reason);
                None
            }
            Verdict::Do(plan) => {
                // What nobody can place is kept: whoever's rule it was might have wanted it.
                let takes_all = !placed || matches!(self.previous(), Some(Pattern::Pipe(_)));
                let missed = Missed {
                    why,
                    share: &Tenant::of(&facts).share(),
                    limit,
                    takes_all,
                };
                Some(self.keep(spool, entry, &id, &plan, missed))
            }
        };
        match ended {
            Some(Err(wrong)) => {
                warn!("core {id} stays in the spool: {wrong}");
                return false;
            }
            Some(Ok((actions, outcome))) => {
                self.stop_at("kept");
                let message = message(entry, why, outcome, placed);
                draft.taken_in(actions, outcome, reason(why), message);
            }
            None => {}
        }
        let post = draft.take_post();
        let (record, micros) = draft.finish();
        let written = {
            // It may have come too late to be answered, and just now been read.
            let mut late = self.late.hold();
            self.records.write(&record, late.taken_in(&id, micros))
        };
        match written {
            Ok(()) => {
                self.stop_at("recorded");
                let record = self.told(record, Ok(()));
                spool.done(entry);
                self.post(post, record);
            }
            // The facts stay, and with them everything is done again.
            Err(wrong) => error!("core {id} is taken in again at the next start: {wrong}"),
        }
        false
    }

    /// What is known about the process: from a former daemon's record, which saw it alive, else from the shim's facts.
    /// Also says whether it is known where it lived.
    fn known(
        &self,
        entry: &Entry,
        words: &CoreWords,
        former: Option<&Record>,
        why: Why,
        draft: &mut Draft,
    ) -> (Facts, bool) {
        let seen = former.filter(|record| record.evidence.process.is_some());
        if let Some((record, mut facts)) = seen.and_then(|r| Some((r, facts_of_record(r)?))) {
            // Where it could not be said whose it is, that it is late does not say it either.
            let hidden = facts.host_only.filter(|found| found.hides_container());
            facts.host_only = hidden.or(Some(reason(why)));
            draft.describe_as(record);
            return (facts, true);
        }
        let past = Past::read(words, &entry.spooled, &self.boot);
        let known = past.as_ref().map_err(|lost| &**lost);
        let policy = self.policy();
        let resolve = |past| self.resolver.resolve_past(past, policy.containers());
        let resolution = known.map_or_else(|_| Resolution::default(), resolve);
        let mut facts = facts::past(words, known, &resolution);
        facts.host_only = Some(reason(why));
        draft.describe_past(words, known, &resolution, &facts);
        let on_host = known.is_ok_and(|past| self.resolver.was_on_host(past));
        (facts, on_host || resolution.container.is_some())
    }

    /// Does what can still be done of a plan; returns what was done, and how it ended.
    fn keep(
        &self,
        spool: &Spool,
        entry: &Entry,
        id: &str,
        plan: &Plan,
        Missed {
            why,
            share,
            limit,
            takes_all,
        }: Missed<'_>,
    ) -> Result<(Vec<Action>, Outcome), GiveError> {
        let mut actions = Vec::new();
        let mut missed = |action: &str| {
            let mut action = Action::new(action);
            action.outcome = Outcome::Missed;
            action.reason = Some(reason(why).to_string());
            action.message = Some(format!("missed: {}", in_words(why)));
            actions.push(action);
        };
        let planned = [
            ("run", plan.run()),
            ("deliver", plan.deliver()),
            ("file", plan.file()),
        ];
        for (word, run) in planned {
            if run.is_some() || plan.refused().iter().any(|r| r.action == word) {
                missed(word);
            }
        }
        if plan.pass() {
            missed("pass");
        }
        let nothing_ran = !actions.is_empty();
        let store = plan.after_missed(takes_all).store();
        let store = match store.map(|store| (store, within_core_limit(store, limit))) {
            Some((store, Ok(()))) => Some(store),
            Some((_, Err(refused))) => {
                actions.push(*refused);
                None
            }
            None => None,
        };
        let Some(store) = store else {
            entry.core.iter().for_each(|core| spool.discard(core));
            let refused = actions.iter().any(|a| a.outcome == Outcome::Refused);
            let outcome = match (refused, nothing_ran) {
                (true, false) => Outcome::Failed,
                (_, true) => Outcome::Missed,
                (false, false) => Outcome::Done,
            };
            return Ok((actions, outcome));
        };
        let action = self.stored(spool, entry, (id, share), store)?;
        let outcome = match (action.outcome, nothing_ran) {
            (Outcome::Done, false) => Outcome::Done,
            (Outcome::Lost, _) => Outcome::Lost,
            _ => Outcome::Partial,
        };
        actions.push(action);
        Ok((actions, outcome))
    }

    /// Puts the core into the store, if it is not there already.
    fn stored(
        &self,
        spool: &Spool,
        entry: &Entry,
        (id, share): (&str, &str),
        store: Store,
    ) -> Result<Action, GiveError> {
        let file = cores::name(id, Compress::None);
        let mut action = Action::new("store");
        if let Some(core) = &entry.core {
            spool.give(core, &self.cores, &file, self.settings.store.keep_free)?;
        }
        let Some(size) = stored(&self.cores, &file) else {
            action.outcome = Outcome::Lost;
            (action.size_bytes, action.stored_bytes) = (Some(0), Some(0));
            let (reason, message) = lost(entry);
            action.reason = Some(reason.to_string());
            action.message = Some(message);
            return Ok(action);
        };
        let path = self.places.state.join("cores").join(&file);
        let kept = size.min(store.max_size());
        if kept < size {
            cut(&path, kept)?;
        }
        action.path = Some(path.display().to_string());
        action.compress = Some(cores::compressed(&path).to_owned());
        (action.size_bytes, action.stored_bytes) = (Some(kept), Some(kept));
        let whole = entry.ended.is_some_and(|ended| !ended.truncated);
        let promise = File::open(&path).and_then(|mut core| Promise::of(&mut core));
        let promised = promise.map_or(0, |promise| promise.length());
        action.truncated = Some(kept < size || !whole || size < promised);
        action.share = Some(share.to_owned());
        action.state = Some("kept".to_owned());
        self.note_kept(id, share, &path, kept);
        action.outcome = Outcome::Done;
        if kept < size {
            action.outcome = Outcome::Partial;
            action.reason = Some(Reason::TooLarge.to_string());
            action.message = Some(format!("truncated at store.max_size, {kept} bytes"));
        } else if !whole {
            let (reason, message) = lost(entry);
            action.outcome = Outcome::Partial;
            action.reason = Some(reason.to_string());
            action.message = Some(format!("{message}; {kept} bytes kept"));
        } else if size < promised {
            action.outcome = Outcome::Partial;
            action.reason = Some(Reason::Killed.to_string());
            action.message = Some(reason::ended_early(kept));
        }
        Ok(action)
    }
}

fn cut(path: &std::path::Path, length: u64) -> Result<(), Errno> {
    let file = File::options().write(true).open(path);
    let cut = file.and_then(|file| file.set_len(length));
    cut.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

/// Why there is no core, or not all of it.
fn lost(entry: &Entry) -> (Reason, String) {
    match entry.ended.map(|ended| ended.error) {
        Some(Some(Errno::ENOSPC)) => (
            Reason::DiskFloor,
            "the spool had no room; help: spool_max and keep_free in /etc/upcalld/hooks/core"
                .to_owned(),
        ),
        Some(Some(error)) => (
            Reason::Quota,
            format!("the shim could not write: {}", name(error)),
        ),
        Some(None) => (
            Reason::IdentityLost,
            "the dump ended without a byte".to_owned(),
        ),
        None => (
            Reason::ShimLost,
            "the shim was ended while it wrote".to_owned(),
        ),
    }
}

fn reason(why: Why) -> Reason {
    match why {
        Why::Absent => Reason::DaemonDown,
        Why::Late => Reason::Late,
        Why::HandedBack => Reason::HandedBack,
    }
}

fn in_words(why: Why) -> &'static str {
    match why {
        Why::Absent => "daemon was down",
        Why::Late => "daemon was late",
        Why::HandedBack => "daemon was busy",
    }
}

fn message(entry: &Entry, why: Why, outcome: Outcome, placed: bool) -> String {
    let cut = entry.ended.is_none_or(|ended| ended.truncated);
    let kept = match outcome {
        Outcome::Lost => "nothing of its core could be kept",
        Outcome::Missed | Outcome::Failed | Outcome::Refused => "its core is not kept",
        Outcome::Done | Outcome::Partial | Outcome::Open if cut => {
            "what the spool has of its core is kept"
        }
        Outcome::Done | Outcome::Partial | Outcome::Open => "its core comes from the spool",
    };
    info!("{} was taken in", entry.name);
    let placed = if placed {
        ""
    } else {
        "; whose it was nobody can prove any more"
    };
    format!("{}; {kept}{placed}", in_words(why))
}
