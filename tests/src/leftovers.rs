//! What nobody may leave behind: processes, cgroups, descriptors, mounts, files that are not whole. Every daemon of a test is
//! looked after so when it ends ([`crate::daemon::Daemon::stop`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::cgroup::hierarchies;
use crate::command::until;
use crate::container::{children, runs};
use crate::records::Records;
use crate::sandbox::{MOUNTED_BY, Sandbox};

/// How long what has ended may take to be cleared away.
const PATIENCE: Duration = Duration::from_secs(3);

/// A daemon when it was ready: what it holds beyond that when all is over, it has forgotten.
#[derive(Debug)]
pub struct Before {
    daemon: u32,
    launcher: u32,
    daemons: BTreeMap<String, usize>,
    launchers: BTreeMap<String, usize>,
}

impl Before {
    /// Of this daemon and its launcher, which is ready when somebody waits for the first launch.
    pub fn of(daemon: u32, launcher: u32) -> Self {
        drop(until(PATIENCE, "a ready keeper", || {
            (!children(launcher).is_empty()).then_some(())
        }));
        Self {
            daemon,
            launcher,
            daemons: settled(daemon),
            launchers: settled(launcher),
        }
    }

    /// Whether both hold again what they held, and nobody works for them.
    ///
    /// # Errors
    /// They hold more; the error says what.
    pub fn is_again(&self) -> Result<()> {
        let all = || {
            let both = [
                (self.daemon, &self.daemons, "upcalld"),
                (self.launcher, &self.launchers, "the launcher"),
            ];
            let held = both.into_iter().flat_map(|(pid, before, who)| {
                let more = more(before, &descriptors(pid));
                more.into_iter()
                    .map(move |what| format!("{who} holds {what}"))
            });
            held.collect::<Vec<String>>()
        };
        let nothing = until(PATIENCE, "descriptors to be closed", || {
            all().is_empty().then_some(())
        });
        nothing.map_err(|_| anyhow!("not forgotten: {}", all().join(", ")))
    }

    /// Those who work for it: descendants of the launcher's.
    pub fn workers(&self) -> Vec<u32> {
        descendants(self.launcher)
    }
}

/// A process's descriptors when they are the same twice: one that is replaced while they are read may be missed.
fn settled(pid: u32) -> BTreeMap<String, usize> {
    let mut last = descriptors(pid);
    drop(until(PATIENCE, "descriptors", || {
        let now = descriptors(pid);
        let same = now == last;
        last = now;
        same.then_some(())
    }));
    last
}

/// The kinds of a process's descriptors and how many it has of each.
fn descriptors(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    let all = std::fs::read_dir(format!("/proc/{pid}/fd"));
    for entry in all.into_iter().flatten().flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        // Programs of rules are sealed once and kept; the kernel is traced from the first time on that a module is wanted.
        if target.starts_with("/memfd:") || target.starts_with("/instances/upcalld_") {
            continue;
        }
        // Pipes and sockets have numbers.
        let kind = target.trim_end_matches(|letter: char| letter == ']' || letter.is_ascii_digit());
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

fn more(before: &BTreeMap<String, usize>, now: &BTreeMap<String, usize>) -> Vec<String> {
    let known = |kind: &String| before.get(kind).copied().unwrap_or(0);
    let grown = now.iter().filter(|(kind, count)| **count > known(kind));
    grown
        .map(|(kind, count)| format!("{} more {kind}", count - known(kind)))
        .collect()
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut all = children(pid);
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        all.extend(children(pid));
        next += 1;
    }
    all
}

/// Whether everything that a sandbox's daemons and shims began has ended and is cleared away; `workers` are processes that
/// must have ended as well.
///
/// # Errors
/// Something is left; the error says what.
pub fn left_nothing(sandbox: &Sandbox, workers: &[u32]) -> Result<()> {
    let nothing = until(PATIENCE, "everything to be gone", || {
        leftovers(sandbox, workers).is_empty().then_some(())
    });
    nothing.map_err(|_| anyhow!("left behind: {}", leftovers(sandbox, workers).join(", ")))
}

fn leftovers(sandbox: &Sandbox, workers: &[u32]) -> Vec<String> {
    let records = Records::at(&sandbox.state()).all();
    let ids: Vec<String> = records.into_iter().map(|record| record.id).collect();
    let mut left = processes(sandbox, &ids);
    let workers = workers.iter().filter(|pid| runs(**pid));
    left.extend(workers.map(|pid| format!("worker {pid} {}", words(*pid).escape_ascii())));
    left.extend(files(sandbox));
    left.extend(mounts(sandbox));
    for mount in hierarchies() {
        below(&mount, 0, &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let id = name.strip_prefix("upcall-");
            if id.is_some_and(|id| ids.iter().any(|known| id.starts_with(known.as_str()))) {
                left.push(format!("cgroup {}", path.display()));
            }
        });
    }
    left
}

fn words(pid: u32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// Shims of the sandbox, and whoever is in the cgroup of a helper.
fn processes(sandbox: &Sandbox, ids: &[String]) -> Vec<String> {
    let libexec = sandbox.libexec().join("");
    let libexec = libexec.as_os_str().as_encoded_bytes();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = pids.filter(|pid| runs(*pid)).filter_map(|pid| {
        let words = words(pid);
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let helper = |id: &String| cgroup.contains(&format!("upcall-{id}"));
        let ours = words.starts_with(libexec) || ids.iter().any(helper);
        ours.then(|| format!("process {pid} {}", words.escape_ascii()))
    });
    ours.collect()
}

/// Open records, and files that were to get another name when they are whole. The spool's are the next daemon's.
fn files(sandbox: &Sandbox) -> Vec<String> {
    let mut left = Vec::new();
    for directory in [sandbox.state(), sandbox.hooks(), sandbox.sockets()] {
        below(&directory, 0, &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let half = [".new", ".tmp", ".part"]
                .iter()
                .any(|end| name.ends_with(end));
            let open = path.parent().is_some_and(|parent| parent.ends_with("open"));
            if half || open || name.starts_with('.') {
                left.push(format!("file {}", path.display()));
            }
        });
    }
    left
}

/// What is mounted below where upcalld works, but for what tests mount there in their own name.
fn mounts(sandbox: &Sandbox) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = [sandbox.state(), sandbox.hooks(), sandbox.sockets()];
    let of_place = |line: &&str| {
        let at = line.split(' ').nth(4).map(Path::new);
        let below = |place: &PathBuf| at.is_some_and(|at| at != place && at.starts_with(place));
        places.iter().any(below)
    };
    let lines = table.lines().filter(of_place);
    let lines = lines.filter(|line| !line.contains(&format!(" {MOUNTED_BY} ")));
    lines.map(|line| format!("mount {line}")).collect()
}

fn below(path: &Path, depth: u32, see: &mut impl FnMut(&Path)) {
    if depth > 8 {
        return;
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    for path in paths {
        see(&path);
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            below(&path, depth + 1, see);
        }
    }
}

/// Whether nobody may answer a key any more. Asked by who has borrowed the host's hook.
///
/// # Errors
/// An authorisation key is left.
pub fn no_authority() -> Result<()> {
    let left = || -> Vec<String> {
        let keys = std::fs::read_to_string("/proc/keys").unwrap_or_default();
        let of = keys.lines().filter(|line| line.contains(".request_"));
        of.map(str::to_owned).collect()
    };
    let nothing = until(PATIENCE, "authorisation keys to go", || {
        left().is_empty().then_some(())
    });
    nothing.map_err(|_| anyhow!("keys are left: {}", left().join("; ")))
}
