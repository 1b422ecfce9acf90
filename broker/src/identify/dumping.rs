//! A process that dumps core by the kernel's socket, which tells no more than who it is: what it would have put into the
//! words of a pipe's core_pattern, from the pidfd and from /proc while the process is parked.
//!
//! Nothing here is proven yet: [`super::core::identify`] verifies the same pidfd after its own reads, which come later.

use std::time::{SystemTime, UNIX_EPOCH};

use upcall_helpers::wire::CORE_WORDS;

use super::core::CoreWords;
use crate::linux::namespace::{self, Ns, NsSet};
use crate::linux::parse::{self, Stat};
use crate::linux::pidref::PidRef;
use crate::linux::procdir::ProcDir;
use crate::linux::sys::CoreInfo;

/// Threads that are looked at for the one that crashed; beyond it is the first one's number that is told.
const THREADS_MAX: usize = 4096;

/// The number of RLIMIT_CORE (asm-generic/resource.h).
const RLIMIT_CORE: usize = 4;

/// What is told.
#[derive(Debug)]
pub struct Dumping {
    /// What the kernel's words would have been.
    pub words: CoreWords,
    /// Its core limit, in bytes; `u64::MAX` is unlimited.
    pub limit: Option<u64>,
}

/// Reads what there is. `host` are our namespaces. What cannot be read is an empty word, as one that the kernel does not know.
pub fn read(process: &PidRef, dump: CoreInfo, host: &NsSet) -> Dumping {
    let pid = process.pid();
    let leader = ProcDir::open(pid).ok();
    let stat = leader.as_ref().and_then(|leader| leader.stat().ok());
    // Of what wait(2) will say, the signal: the kernel shows it in the group's file, not in a thread's. While it dumps
    // there is nothing else in it.
    let exit = stat.and_then(|stat| stat.exit).filter(|exit| *exit != 0);
    let signal = dump.signal.or(exit.map(|exit| exit & 0x7f));
    let (tid, stat, thread) = crashed(pid, stat, leader.as_ref());
    let thread = thread.as_ref().or(leader.as_ref());
    let status = thread.and_then(|thread| thread.status().ok());
    let limits = leader
        .as_ref()
        .and_then(|leader| leader.read("limits").ok());
    let limits = limits.and_then(|text| parse::limits(&text));
    let limit = limits.and_then(|limits| limits.get(RLIMIT_CORE).map(|(soft, _)| *soft));
    let exe = thread.and_then(|thread| thread.exe().ok());
    let exe = exe.unwrap_or_default();
    let name = exe.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let mut comm = thread.and_then(|thread| thread.read("comm").ok());
    comm.as_mut().map(|comm| comm.pop_if(|last| *last == b'\n'));

    let text = |number: Option<u64>| number.map(|number| number.to_string().into_bytes());
    let id = |number: Option<u32>| text(number.map(u64::from));
    let word = |specifier: &str| match specifier {
        "%P" => id(Some(pid)),
        "%I" => id(Some(tid)),
        "%p" => id(status.as_ref()?.pids.last().copied()),
        "%i" => id(status.as_ref()?.tids.last().copied()),
        "%u" => id(status.as_ref()?.uids.first().copied()),
        "%g" => id(status.as_ref()?.gids.first().copied()),
        "%d" => id(dump.dumpable.map(u32::from)),
        "%s" => id(signal),
        "%t" => text(now()),
        "%c" => text(limit),
        "%C" => id(stat?.processor),
        "%F" => Some(b"3".to_vec()),
        "%h" => hostname(process, host),
        "%e" => comm.clone(),
        "%f" => Some(name.to_vec()),
        "%E" => Some(
            exe.iter()
                .map(|byte| if *byte == b'/' { b'!' } else { *byte })
                .collect(),
        ),
        _ => None,
    };
    let words = CORE_WORDS.map(|specifier| word(specifier).unwrap_or_default());
    Dumping {
        words: CoreWords::all(words),
        limit,
    }
}

/// The thread that writes the core, its number first; the group's first one where it cannot be told.
fn crashed(
    pid: u32,
    stat: Option<Stat>,
    leader: Option<&ProcDir>,
) -> (u32, Option<Stat>, Option<ProcDir>) {
    if stat.is_none_or(Stat::dumps_core) {
        return (pid, stat, None);
    }
    let threads = leader.and_then(|leader| leader.threads(THREADS_MAX).ok());
    let found = threads.unwrap_or_default().into_iter().find_map(|tid| {
        let thread = ProcDir::open_thread(pid, tid).ok()?;
        let stat = thread.stat().ok().filter(|stat| stat.dumps_core())?;
        Some((tid, Some(stat), Some(thread)))
    });
    found.unwrap_or((pid, stat, None))
}

/// The name of its host: ours, if it has no other; another one cannot be read from outside.
fn hostname(process: &PidRef, host: &NsSet) -> Option<Vec<u8>> {
    let uts = namespace::of_process(process, Ns::Uts).ok()?;
    if uts.id() != host.id(Ns::Uts) {
        return None;
    }
    let mut name = std::fs::read("/proc/sys/kernel/hostname").ok()?;
    name.pop_if(|last| *last == b'\n');
    Some(name)
}

fn now() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}
