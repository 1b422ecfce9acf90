//! Containers that the admin declares, `[[container]]`: what no runtime registers.
//!
//! Who their init is nobody has written down, but for a pid file. A unit's is the oldest process of its cgroup: systemd
//! ends what ExecStartPre left before it starts the main process, everything later is a child of that, and nobody but
//! root moves older processes into it. A cgroup is the unit's if it is where systemd makes units, below slices alone:
//! those are systemd's own, it gives nobody else leave to make cgroups in them (systemd's rules of delegation: services
//! and scopes only). And systemd must say that the unit runs: it has the invocation in /run/systemd/units.
//!
//! A pid file has a number and no start time. But its number was its writer's when it was written; so a process that
//! started after that is another one, and one that started before is the one that is meant.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use upcall_config::facts::Runtime;
use upcall_config::rule::{Declared, FoundBy};

use super::claim::{Claim, Init, Known};
use super::names::Nominee;
use crate::linux::cgroup::Cgroups;
use crate::linux::parse;
use crate::linux::procdir::ProcDir;
use crate::linux::secure::{self, Directory, OpenError};

/// Ticks a second in /proc/PID/stat: USER_HZ, which is 100 on every architecture that Debian has.
const TICKS: u64 = 100;

/// What the cgroups end with in which systemd alone makes others.
const SLICE: &[u8] = b".slice";

/// The longest pid file that is read.
const PID_FILE_MAX: u64 = 64;

/// What is needed to find them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admin<'a> {
    pub(super) declared: &'a [Declared],
    /// `None` where there are no cgroups that we could look into.
    pub(super) cgroups: Option<&'a Cgroups>,
    /// systemd's own notes about its units.
    pub(super) units: &'a Path,
}

/// Why no init can be named.
enum Unfound {
    /// This is not it.
    Another(String),
    /// It is here, and nothing can be said about who is in it: that is no reason to believe that nobody is.
    Untold(String),
}

impl Admin<'_> {
    /// Declared containers that a nominee may be; `refused` gets what is declared and cannot be proven.
    pub(super) fn claims(&self, nominee: &Nominee<'_>, refused: &mut Vec<String>) -> Vec<Claim> {
        let mut claims = Vec::new();
        for declared in self.declared {
            let claim = match declared.found_by() {
                FoundBy::Unit(unit) if unit.as_bytes() == nominee.component => {
                    self.unit(unit, nominee.root)
                }
                FoundBy::Cgroup(path) if path.as_bytes() == nominee.root => {
                    self.oldest(nominee.root, "declared")
                }
                FoundBy::PidFile(path) => match read(path) {
                    Ok(Some((init, true))) if is_in(&init, nominee.root) => Ok((init, "pid_file")),
                    Ok(Some((init, false))) if is_in(&init, nominee.root) => Err(format!(
                        "process {} is younger than {}",
                        init.pid(),
                        path.display()
                    )),
                    Ok(_) => continue,
                    Err(error) => Err(format!("{}: {error}", path.display())),
                }
                .map_err(Unfound::Another),
                FoundBy::Unit(_) | FoundBy::Cgroup(_) => continue,
            };
            let why = match claim {
                Ok((init, evidence)) => {
                    claims.push(claimed(declared, init, evidence));
                    continue;
                }
                Err(Unfound::Untold(why)) => {
                    claims.push(claimed(declared, Init::Untold, "declared"));
                    why
                }
                Err(Unfound::Another(why)) => why,
            };
            let why = format!("admin {}: {why}", declared.name());
            if !refused.contains(&why) {
                refused.push(why);
            }
        }
        claims
    }

    /// All that run, whatever cgroup they have.
    pub(super) fn all(&self) -> Vec<Claim> {
        let found = self.declared.iter().filter_map(|declared| {
            let (init, evidence) = match declared.found_by() {
                FoundBy::Cgroup(path) => self.oldest(path.as_bytes(), "declared").ok()?,
                FoundBy::PidFile(path) => match read(path) {
                    Ok(Some((init, true))) => (init, "pid_file"),
                    _ => return None,
                },
                FoundBy::Unit(unit) => {
                    let places = self.cgroups?.named(unit.as_bytes(), SLICE);
                    let mut found = places.iter().map(|place| self.unit(unit, place));
                    found.find_map(Result::ok)?
                }
            };
            Some(claimed(declared, init, evidence))
        });
        found.collect()
    }

    fn unit(&self, unit: &str, root: &[u8]) -> Result<(Init, &'static str), Unfound> {
        let mut above = root.split(|byte| *byte == b'/').rev().skip(1);
        if !above.all(|part| part.is_empty() || part.ends_with(SLICE)) {
            let why = "forged cgroup name: this is not where systemd makes units";
            return Err(Unfound::Another(why.to_owned()));
        }
        let notes = Directory::open(self.units).ok();
        let running = notes.and_then(|units| {
            let link = format!("invocation:{unit}");
            units.link(OsStr::new(&link)).ok()
        });
        if running.is_none() {
            let why = "systemd does not say that it is running";
            return Err(Unfound::Another(why.to_owned()));
        }
        self.oldest(root, "unit")
    }

    /// Of the processes in it and below it. What is there is its root's to make: more than is looked at, or cgroups of
    /// threads, which have no list.
    fn oldest(&self, root: &[u8], evidence: &'static str) -> Result<(Init, &'static str), Unfound> {
        let untold = |why: &str| Unfound::Untold(why.to_owned());
        let cgroups = self.cgroups;
        let cgroups = cgroups.ok_or_else(|| untold("no cgroups can be looked into"))?;
        let pids = cgroups.processes(root);
        let pids = pids.map_err(|errno| untold(&format!("its processes: {errno}")))?;
        let started = |pid: u32| {
            let stat = ProcDir::open(pid)
                .and_then(|directory| directory.stat())
                .ok()?;
            // Of those that started in one tick, the one whose parent is elsewhere.
            Some((stat.start, pids.contains(&stat.parent), pid))
        };
        let oldest = pids.iter().filter_map(|pid| started(*pid)).min();
        let (start, _, pid) = oldest.ok_or_else(|| untold("nothing runs in it"))?;
        Ok((Init::Started { pid, start }, evidence))
    }
}

fn claimed(declared: &Declared, init: Init, evidence: &'static str) -> Claim {
    Claim {
        runtime: Runtime::Admin,
        id: declared.name().as_bytes().to_vec(),
        init,
        owner: 0,
        evidence,
        known: Known::default(),
    }
}

/// Whether this cgroup is the process's own, in some hierarchy.
fn is_in(init: &Init, root: &[u8]) -> bool {
    let cgroups = ProcDir::open(init.pid()).and_then(|directory| directory.cgroups());
    cgroups.is_ok_and(|lines| lines.iter().any(|line| line.path == root))
}

/// The process that a pid file names, if there is one, and whether it was there already when the file was written.
fn read(path: &Path) -> Result<Option<(Init, bool)>, OpenError> {
    let file = match secure::open_file(path) {
        Err(error) if error.is_absent() => return Ok(None),
        file => file?,
    };
    let written = file.metadata()?.modified()?;
    let mut text = Vec::new();
    file.take(PID_FILE_MAX).read_to_end(&mut text)?;
    let pid = parse::number(text.trim_ascii());
    let stat = pid.and_then(|pid| {
        ProcDir::open(pid)
            .and_then(|directory| directory.stat())
            .ok()
    });
    let (Some(pid), Some(stat), Ok(now)) = (pid, stat, clock_gettime(ClockId::CLOCK_BOOTTIME))
    else {
        return Ok(None);
    };
    let started = Duration::from_millis(stat.start.saturating_mul(1000 / TICKS));
    let age = Duration::from(now).saturating_sub(started);
    // A file's time and a process's are each those of the tick before.
    let slack = Duration::from_millis(1000 / TICKS);
    let there = written.elapsed().unwrap_or_default() <= age + slack;
    let start = stat.start;
    Ok(Some((Init::Started { pid, start }, there)))
}
