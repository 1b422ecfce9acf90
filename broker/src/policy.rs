//! The rules: loaded whole, replaced whole, and the last good ones kept where new ones are not.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::bail;
use upcall_config::Directories;
use upcall_config::diagnostic::Diagnostic;
use upcall_config::file::{Loaded, load};
use upcall_config::rule::Policy;
use upcall_config::settings::Settings;

use crate::linux::memfd;

/// What is loaded, and from where.
#[derive(Debug)]
pub struct Policies {
    directories: Directories,
    current: Mutex<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    policy: Arc<Policy>,
    settings: Settings,
    files: usize,
    /// When, in microseconds since the epoch.
    loaded: u64,
    /// How the files were then.
    stamps: Vec<Stamp>,
}

/// One file on disk: another one, or the same with another text, has another stamp.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// What is loaded, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Rules.
    pub rules: usize,
    /// Files they came from.
    pub files: usize,
    /// When, in microseconds since the epoch.
    pub loaded: u64,
    /// Whether the files on disk are still those.
    pub unchanged: bool,
}

/// Reads and checks rules and settings, the host's programs they name included.
pub fn check(directories: &Directories) -> Loaded {
    with_programs(load(directories))
}

/// Adds what is wrong with the host's programs that the rules name.
pub fn with_programs(mut loaded: Loaded) -> Loaded {
    if let Some(policy) = &loaded.policy {
        let more: Vec<Diagnostic> = policy
            .host_programs()
            .iter()
            .filter_map(check_program)
            .collect();
        loaded.diagnostics.extend(more);
        if loaded.errors() > 0 {
            loaded.policy = None;
        }
    }
    loaded
}

/// A host's program that a rule names: there, and static where it runs inside a container.
fn check_program(program: &upcall_config::rule::HostProgram) -> Option<Diagnostic> {
    let mut file = match std::fs::File::open(program.path()) {
        Ok(file) => file,
        Err(error) => return Some(program.is_missing(&error.to_string())),
    };
    if program.program() != upcall_config::plan::Program::HostElf {
        return None;
    }
    let dynamic = memfd::needs_loader(&mut file).unwrap_or(true);
    dynamic.then(|| program.is_dynamic(b""))
}

/// All files that rules and settings could come from.
fn stamps(directories: &Directories) -> Vec<Stamp> {
    let stamp = |path: PathBuf| {
        let meta = path.symlink_metadata().ok()?;
        Some(Stamp {
            path,
            inode: meta.ino(),
            size: meta.size(),
            // Not the time of the last write, which anybody can set back.
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    };
    let mut stamps: Vec<Stamp> = Vec::new();
    for directory in &directories.paths {
        stamps.extend(stamp(directory.join("upcalld.toml")));
        let rules = std::fs::read_dir(directory.join("rules.d"));
        let rules = rules.into_iter().flatten().flatten();
        let rules = rules.filter(|entry| entry.file_name().as_encoded_bytes().ends_with(b".toml"));
        stamps.extend(rules.filter_map(|entry| stamp(entry.path())));
    }
    stamps.sort_unstable();
    stamps
}

impl Policies {
    /// Loads for the first time.
    ///
    /// # Errors
    /// The rules have mistakes, all of which the error shows: there are no former ones to keep.
    pub fn load(directories: Directories) -> anyhow::Result<Self> {
        // Before the files are read: what changes meanwhile has changed since.
        let stamps = stamps(&directories);
        let loaded = check(&directories);
        let shown: String = loaded
            .diagnostics
            .iter()
            .map(|d| d.render(false) + "\n\n")
            .collect();
        let Some(policy) = &loaded.policy else {
            bail!(
                "the rules have mistakes, and there are no former ones to keep\n\n{shown}\
                 help: upcallctl check; until they are good, the shim keeps cores in the spool"
            );
        };
        if !shown.is_empty() {
            tracing::warn!("{shown}");
        }
        let current = Current::new(Arc::clone(policy), &loaded, stamps);
        Ok(Self {
            directories,
            current: Mutex::new(current),
        })
    }

    /// What is loaded.
    pub fn current(&self) -> (Arc<Policy>, Settings) {
        let current = self.lock();
        (Arc::clone(&current.policy), current.settings.clone())
    }

    /// What is loaded, for people.
    pub fn summary(&self) -> Summary {
        let current = self.lock();
        Summary {
            rules: current.policy.rules().len(),
            files: current.files,
            loaded: current.loaded,
            unchanged: current.stamps == stamps(&self.directories),
        }
    }

    /// Loads again. The rules are replaced only if there is no mistake in any file; settings take effect at the next
    /// start.
    pub fn reload(&self) -> (Loaded, Option<Arc<Policy>>) {
        let stamps = stamps(&self.directories);
        let loaded = check(&self.directories);
        let policy = loaded.policy.clone();
        if let Some(policy) = &policy {
            *self.lock() = Current::new(Arc::clone(policy), &loaded, stamps);
        }
        (loaded, policy)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn new(policy: Arc<Policy>, loaded: &Loaded, stamps: Vec<Stamp>) -> Self {
        Self {
            policy,
            settings: loaded.settings.clone(),
            files: loaded.files.len(),
            loaded: crate::store::records::now_micros(),
            stamps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPS: &str = "[[rule]]\nupcall = \"core\"\nstore = {}\n";

    #[test]
    fn the_last_good_rules_stay_and_a_change_on_disk_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let rules = directory.path().join("rules.d");
        std::fs::create_dir(&rules).unwrap();
        let file = rules.join("50-x.toml");
        std::fs::write(&file, KEEPS).unwrap();
        let owner = nix::unistd::Uid::effective().as_raw();
        let policies =
            Policies::load(Directories::single(directory.path()).owned_by(owner)).unwrap();
        let first = policies.summary();
        assert_eq!((first.rules, first.files, first.unchanged), (1, 1, true));

        std::fs::write(&file, "nonsense = 1\n").unwrap();
        assert!(!policies.summary().unchanged);
        let (loaded, policy) = policies.reload();
        assert!(policy.is_none() && loaded.errors() == 1);
        assert_eq!(policies.summary().loaded, first.loaded);
        assert!(!policies.summary().unchanged);

        std::fs::write(&file, KEEPS.repeat(2)).unwrap();
        let (_, policy) = policies.reload();
        assert!(policy.is_some() && policies.summary().unchanged);
        assert_eq!(policies.summary().rules, 2);
        std::fs::write(rules.join("60-y.toml"), "").unwrap();
        assert!(!policies.summary().unchanged);
    }

    #[test]
    fn rules_with_mistakes_are_all_shown_at_the_first_start() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("upcalld.toml"), "[stroe]\nx = 1\n").unwrap();
        let owner = nix::unistd::Uid::effective().as_raw();
        let error =
            Policies::load(Directories::single(directory.path()).owned_by(owner)).unwrap_err();
        assert!(
            error.to_string().contains("unknown key `stroe`"),
            "{error:#}"
        );
    }
}
