//! Users who are nobody's: for programs that read what tenants wrote and are to own nothing.

use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Those that systemd keeps for services without a user of their own (systemd.exec(5), `DynamicUser=`); no file is to
/// belong to them.
pub const IDS: RangeInclusive<u32> = 61_184..=65_519;

/// Where systemd has a file for each that a service has now.
const TAKEN: &str = "/run/systemd/dynamic-uid";

/// One that no service has, another one each time until all had their turn.
pub fn in_turn() -> u32 {
    static TURN: AtomicU32 = AtomicU32::new(0);
    let taken = |id: &u32| Path::new(TAKEN).join(id.to_string()).exists();
    // A host where services have them all has none for us; then one of theirs is as good as another.
    (*IDS.start()..=*IDS.end())
        .map(|_| nth(TURN.fetch_add(1, Ordering::Relaxed)))
        .find(|id| !taken(id))
        .unwrap_or(*IDS.end())
}

/// One that no service and no process has; `None` where all are taken or /proc cannot be read. Reads one directory of
/// /proc for each process.
pub fn unused() -> Option<u32> {
    let mut used = Vec::new();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit)
        {
            used.extend(entry.metadata().ok().map(|meta| meta.uid()));
        }
    }
    // Who starts at the same moment starts elsewhere.
    let start = std::process::id();
    let mut all = (0..=IDS.end() - IDS.start()).map(|step| nth(start.wrapping_add(step)));
    let free = |id: &u32| !used.contains(id) && !Path::new(TAKEN).join(id.to_string()).exists();
    all.find(free)
}

fn nth(number: u32) -> u32 {
    IDS.start() + number % (IDS.end() - IDS.start() + 1)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn everybody_gets_another() {
        let (one, other) = (in_turn(), in_turn());
        assert!(one != other && IDS.contains(&one) && IDS.contains(&other));
        assert!(IDS.contains(&nth(u32::MAX)) && nth(0) == *IDS.start());
    }

    #[test]
    fn who_runs_keeps_his() {
        let first = unused().unwrap();
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: becoming somebody else needs root");
            return;
        }
        let id = first.to_string();
        let words = ["--reuid", &id, "--clear-groups", "--", "cat"];
        #[expect(
            clippy::disallowed_methods,
            reason = "a process with this id is what is tested"
        )]
        let mut command = Command::new("setpriv");
        let piped = Stdio::piped;
        let mut child = command
            .args(words)
            .stdin(piped())
            .stdout(piped())
            .spawn()
            .unwrap();
        // It has become that user once it answers.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let next = unused();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(next.is_some_and(|next| next != first));
    }
}
