//! The process that made the kernel start a helper: one that loads a module, or any other.
//!
//! It waits, uninterruptibly but for SIGKILL, while the shim lives (kernel/umh.c, `call_usermodehelper_exec`). Who it
//! is the kernel tells no helper: two kprobe events say it exactly ([`crate::linux::modreq`]). Without them the threads
//! that wait for a helper are looked for; where there are several, each of them may have asked.

use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use upcall_config::facts::ProcessFacts;

use super::{Evidence, Lost, Origin, key};
use crate::intake::helper::{Helper, HelperCall};
use crate::linux::modreq::Requests;
use crate::linux::parse;
use crate::linux::pidref::PidRef;
use crate::linux::room::noted;

/// Threads that are looked at for one that waits; with more on a host nobody is found.
const THREADS_MAX: usize = 200_000;

/// Several are told by so many.
const CANDIDATES_MAX: usize = 64;

/// Scans at once: what asks may be a storm, and each takes a processor.
const SCANS_MAX: usize = 2;

/// How long one waits for its turn, which is below the shim's own patience, and how long it may take.
const TURN: Duration = Duration::from_millis(20);
const SCAN: Duration = Duration::from_secs(1);

/// A thread that has asked is on its way to sleep: it is given so many times this long to get there.
const ASLEEP: (u32, Duration) = (5, Duration::from_micros(200));

/// Leave to look through all threads of the host.
#[derive(Debug)]
pub struct Scans(Semaphore);

impl Default for Scans {
    fn default() -> Self {
        Self(Semaphore::new(SCANS_MAX))
    }
}

/// Holds and reads who asked: one, or several of whom one did.
///
/// # Errors
/// [`Lost`] where nobody is found, or it was gone while it was looked at.
pub async fn identify(
    call: &HelperCall,
    requests: Option<&Requests>,
    scans: &Scans,
) -> Result<Vec<Origin>, Box<Lost>> {
    let Some((shim, since)) = &call.process else {
        return Err(lost(None, "the shim had ended when its request was read"));
    };
    let asker = requests.and_then(|requests| requests.asker(shim.pid(), call.started));
    let waited_for = call.wanted.other().is_none_or(Helper::is_waited_for);
    let asker = match asker {
        Some(asker) => asker,
        None if waited_for => return scans.look(shim, *since).await,
        None => return Err(lost(None, "nobody waits for it who could be found")),
    };
    let lost = |why: &str| lost(Some(asker.thread), why);
    // One that does not wait may have ended, and its number be another's: but no older one's.
    let evidence = if asker.waits {
        Evidence::Kprobe
    } else {
        Evidence::NumberChecked
    };
    let origin =
        key::read(asker.thread, evidence).map_err(|errno| lost(&format!("reading it: {errno}")))?;
    if origin.stat.start > *since {
        return Err(lost(
            "the process with its number is younger than its request",
        ));
    }
    if asker.waits && !sleeps(&origin).await {
        return Err(lost("it was ended while it waited"));
    }
    let verified = origin.process.verify().and_then(|()| shim.verify());
    verified.map_err(|_| lost("it or the shim was gone while it was looked at"))?;
    Ok(vec![origin])
}

fn lost(thread: Option<u32>, why: &str) -> Box<Lost> {
    Box::new(Lost {
        why: why.to_owned(),
        facts: ProcessFacts {
            pid: thread,
            tid: thread,
            ..ProcessFacts::default()
        },
    })
}

async fn sleeps(origin: &Origin) -> bool {
    let (times, pause) = ASLEEP;
    for _ in 0..times {
        let stat = origin.directory.stat();
        if stat.is_ok_and(|stat| stat.state == b'D') {
            return true;
        }
        tokio::time::sleep(pause).await;
    }
    false
}

impl Scans {
    /// Without kprobes: looks for them, when others have.
    async fn look(&self, shim: &PidRef, since: u64) -> Result<Vec<Origin>, Box<Lost>> {
        let turn = tokio::time::timeout(TURN, self.0.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            let why = "others are looked for already, as many as may be at once";
            return Err(lost(None, why));
        };
        let until = Instant::now() + SCAN;
        tokio::task::block_in_place(|| scan(shim, since, until))
    }
}

/// Every thread that waits for a helper.
fn scan(shim: &PidRef, since: u64, until: Instant) -> Result<Vec<Origin>, Box<Lost>> {
    let mut found = Vec::new();
    for thread in threads().take(THREADS_MAX) {
        if Instant::now() > until {
            return Err(lost(
                None,
                "the host has more threads than can be looked at in time",
            ));
        }
        if !waits_for_helper(thread) {
            continue;
        }
        let origin = key::read(thread, Evidence::Scan).ok();
        // It must have waited before, and still do after it was read.
        found.extend(origin.filter(|origin| {
            origin.stat.start <= since
                && waits_for_helper(thread)
                && origin.process.verify().is_ok()
        }));
        if found.len() > CANDIDATES_MAX {
            return Err(lost(
                None,
                "more than 64 threads wait for helpers, and each may have asked",
            ));
        }
    }
    if shim.verify().is_err() {
        return Err(lost(
            None,
            "the shim was gone while its requester was looked for",
        ));
    }
    if found.is_empty() {
        return Err(lost(None, "no thread is found that waits for a helper"));
    }
    Ok(found)
}

/// All threads of the host, as they are come by.
fn threads() -> impl Iterator<Item = u32> {
    fn numbers(directory: &str) -> impl Iterator<Item = u32> + use<> {
        let entries = std::fs::read_dir(directory).map_err(noted);
        let entries = entries.into_iter().flatten().flatten();
        entries.filter_map(|entry| parse::number(entry.file_name().as_encoded_bytes()))
    }
    numbers("/proc").flat_map(|pid| numbers(&format!("/proc/{pid}/task")))
}

/// Whether a thread sleeps in `call_usermodehelper_exec`. What the helper is for only its stack says, which takes
/// `CAP_SYS_ADMIN`: one that waits for a key is a candidate too.
fn waits_for_helper(thread: u32) -> bool {
    let wchan = std::fs::read(format!("/proc/{thread}/wchan")).map_err(noted);
    wchan.is_ok_and(|wchan| wchan == b"call_usermodehelper_exec")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> PidRef {
        PidRef::open(std::process::id()).unwrap()
    }

    #[test]
    fn a_scan_ends_when_its_time_is_over() {
        let past = Instant::now()
            .checked_sub(Duration::from_millis(1))
            .unwrap();
        let lost = scan(&own(), 0, past).unwrap_err();
        assert!(lost.why.contains("in time"), "{}", lost.why);
        let lost = scan(&own(), 0, Instant::now() + SCAN).unwrap_err();
        assert!(lost.why.contains("no thread"), "{}", lost.why);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn more_than_two_scans_at_once_are_none() {
        let scans = Scans::default();
        let busy = scans.0.acquire_many(2).await.unwrap();
        let lost = scans.look(&own(), 0).await.unwrap_err();
        assert!(lost.why.contains("as many as may be"), "{}", lost.why);
        drop(busy);
        let lost = scans.look(&own(), 0).await.unwrap_err();
        assert!(lost.why.contains("no thread"), "{}", lost.why);
    }
}
