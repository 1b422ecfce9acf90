//! The process that dumps core.
//!
//! It is parked in the kernel while we look: its dump waits for somebody to read it. But anything that can end it with
//! SIGKILL frees its number, and another process may have the number by the time we open /proc. So its pidfd comes
//! from the kernel where the kernel makes one, and is asked again after the last read.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use upcall_config::facts::ProcessFacts;
use upcall_config::upcall::{CoreUpcall, Signal};
use upcall_helpers::wire::CORE_WORDS;

use super::{Evidence, Lost, Origin};
use crate::linux::namespace::NsSet;
use crate::linux::parse;
use crate::linux::pidref::PidRef;
use crate::linux::procdir::ProcDir;

/// What the kernel put in the places of [`CORE_WORDS`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CoreWords(Vec<Vec<u8>>);

/// The words are not those that our core_pattern asks for: somebody else called, or another version installed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{found} words instead of {}; install the core hook again (upcallctl install core)", CORE_WORDS.len())]
pub struct WordsError {
    found: usize,
}

impl CoreWords {
    /// Takes a request's words.
    ///
    /// # Errors
    /// There are more or fewer than [`CORE_WORDS`].
    pub fn new(words: Vec<Vec<u8>>) -> Result<Self, WordsError> {
        if words.len() == CORE_WORDS.len() {
            Ok(Self(words))
        } else {
            Err(WordsError { found: words.len() })
        }
    }

    /// All of them, in their order.
    pub(super) fn all(words: [Vec<u8>; CORE_WORDS.len()]) -> Self {
        Self(words.into())
    }

    /// What stands for a specifier of core(5), as `%P`; empty where the kernel does not know it.
    pub fn get(&self, specifier: &str) -> &[u8] {
        let place = CORE_WORDS.iter().position(|known| *known == specifier);
        place
            .and_then(|place| self.0.get(place))
            .map_or(&[], Vec::as_slice)
    }

    fn number(&self, specifier: &str) -> Option<u32> {
        parse::number(self.get(specifier))
    }

    /// The upcall, as rules see it.
    pub fn upcall(&self) -> CoreUpcall {
        CoreUpcall {
            signal: self.number("%s").and_then(Signal::from_number),
            dumpable: self.number("%d").and_then(|mode| u8::try_from(mode).ok()),
            limit: parse::unsigned(self.get("%c")),
            time: parse::unsigned(self.get("%t")),
        }
    }

    /// What they say about the process, for the case that nothing else can be known.
    pub fn facts(&self) -> ProcessFacts {
        let text = |specifier| Some(self.get(specifier).to_vec()).filter(|text| !text.is_empty());
        ProcessFacts {
            pid: self.number("%P"),
            tid: self.number("%I"),
            uid: self.number("%u"),
            gid: self.number("%g"),
            comm: text("%e"),
            // The kernel writes the path's slashes as exclamation marks.
            exe: text("%E").map(|path| {
                path.into_iter()
                    .map(|byte| if byte == b'!' { b'/' } else { byte })
                    .collect()
            }),
            ..ProcessFacts::default()
        }
    }
}

/// Holds and reads the process. `asked` is when the shim was started, in clock ticks since boot: its process cannot
/// be younger.
///
/// # Errors
/// [`Lost`] where it is gone or is not provably the one that dumps.
pub fn identify(
    words: &CoreWords,
    pidfd: Option<OwnedFd>,
    asked: u64,
) -> Result<Origin, Box<Lost>> {
    let lost = |why: &str| {
        Box::new(Lost {
            why: why.to_owned(),
            facts: words.facts(),
        })
    };
    let pid = words
        .number("%P")
        .ok_or_else(|| lost("the kernel gave no number"))?;
    let tid = words.number("%I").unwrap_or(pid);
    let gone = |_| lost("it was gone before it could be looked at");
    let (process, evidence) = if let Some(pidfd) = pidfd {
        let process = PidRef::from_pidfd(pidfd).map_err(gone)?;
        if process.pid() != pid {
            return Err(lost("the kernel's pidfd is of another process"));
        }
        (process, Evidence::KernelPidfd)
    } else {
        (PidRef::open(pid).map_err(gone)?, Evidence::NumberChecked)
    };
    let mut origin =
        read(process, tid, evidence).map_err(|errno| lost(&format!("reading it: {errno}")))?;
    if evidence == Evidence::NumberChecked {
        check_number(words, &origin, asked).map_err(lost)?;
    }
    // The name of the thread that crashed, as the kernel saw it.
    origin.comm = words.facts().comm;
    // The last word: what was read was its own.
    origin
        .process
        .verify()
        .map_err(|_| lost("it was gone while it was looked at"))?;
    Ok(origin)
}

/// Holds and reads a process that is alive and was asked for by its number, as a crash of it would be.
///
/// # Errors
/// `ESRCH` and the like where there is none.
pub fn look(pid: u32) -> Result<Origin, Errno> {
    let mut origin = read(PidRef::open(pid)?, pid, Evidence::NumberChecked)?;
    let mut comm = origin.directory.read("comm")?;
    comm.truncate(comm.len().saturating_sub(1)); // the kernel's newline
    origin.comm = Some(comm);
    Ok(origin)
}

fn read(process: PidRef, tid: u32, evidence: Evidence) -> Result<Origin, Errno> {
    let mut directory = ProcDir::open(process.pid())?;
    let mut stat = directory.stat()?;
    let mut namespaces = NsSet::of(&process, &directory);
    if stat.state == b'Z' && tid != process.pid() {
        // The group's leader has exited before its threads: only they still have namespaces.
        directory = ProcDir::open_thread(process.pid(), tid)?;
        stat = directory.stat()?;
        namespaces = NsSet::of_directory(&directory);
    }
    let namespaces = namespaces?;
    let status = directory.status()?;
    let cgroups = directory.cgroups()?;
    let exe = directory.exe().ok();
    Ok(Origin {
        process,
        tid,
        directory,
        evidence,
        status,
        stat,
        namespaces,
        cgroups,
        exe,
        comm: None,
    })
}

/// Without the kernel's pidfd: everything it said must agree with what is there under the number now.
fn check_number(words: &CoreWords, origin: &Origin, asked: u64) -> Result<(), &'static str> {
    let agree = |said: Option<u32>, found: Option<&u32>| said.is_some() && said.as_ref() == found;
    if origin.status.dumping == Some(false) {
        return Err("the process with its number does not dump core");
    }
    if origin.stat.start > asked {
        return Err("the process with its number is younger than its dump");
    }
    if !agree(words.number("%u"), origin.status.uids.first()) {
        return Err("the process with its number is another user's");
    }
    if !agree(words.number("%p"), origin.status.pids.last()) {
        return Err("the process with its number has another one inside");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pid: u32, uid: &str) -> CoreWords {
        let pid = pid.to_string();
        let words = [
            &pid,
            &pid,
            &pid,
            &pid,
            uid,
            "0",
            "1",
            "11",
            "1700000000",
            "18446744073709551615",
            "0",
            "",
            "host",
            "a b)\x1b",
            "x",
            "!usr!bin!x",
        ];
        CoreWords::new(words.iter().map(|word| word.as_bytes().to_vec()).collect()).unwrap()
    }

    #[test]
    fn words_are_read_by_their_place() {
        let words = words(7, "0");
        let upcall = words.upcall();
        assert_eq!(upcall.signal, Signal::from_name("SEGV"));
        assert_eq!((upcall.dumpable, upcall.limit), (Some(1), Some(u64::MAX)));
        assert_eq!(words.facts().exe.as_deref(), Some(&b"/usr/bin/x"[..]));
        assert_eq!(
            CoreWords::new(vec![vec![]; 15]),
            Err(WordsError { found: 15 })
        );
    }

    #[test]
    fn a_process_is_itself_only_while_everything_agrees() {
        let own = std::process::id();
        // We do not dump core, so our number is not enough.
        let lost = identify(&words(own, "0"), None, u64::MAX).unwrap_err();
        assert!(lost.why.contains("does not dump core"), "{lost}");
        // A pidfd of ours with another's number is a lie.
        let pidfd = upcall_helpers::sys::pidfd_open(own).unwrap();
        assert!(identify(&words(1, "0"), Some(pidfd), u64::MAX).is_err());
        let pidfd = upcall_helpers::sys::pidfd_open(own).unwrap();
        let origin = identify(&words(own, "0"), Some(pidfd), u64::MAX).unwrap();
        assert_eq!(origin.evidence, Evidence::KernelPidfd);
        assert_eq!(origin.facts().pid, Some(own));
        assert!(
            check_number(&words(own, "0"), &origin, 0).is_err(),
            "younger than its dump"
        );
    }
}
