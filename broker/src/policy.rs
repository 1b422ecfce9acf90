//! The rules: loaded whole, replaced whole, and the last good ones kept where new ones are not.

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
}

/// Reads and checks rules and settings, the host's programs they name included.
pub fn check(directories: &Directories) -> Loaded {
    let mut loaded = load(directories);
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

impl Policies {
    /// Loads for the first time.
    ///
    /// # Errors
    /// The rules have mistakes, all of which the error shows: there are no former ones to keep.
    pub fn load(directories: Directories) -> anyhow::Result<Self> {
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
        let current = Current::new(Arc::clone(policy), &loaded);
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
        }
    }

    /// Loads again. The rules are replaced only if there is no mistake in any file; settings take effect at the next
    /// start.
    pub fn reload(&self) -> (Loaded, Option<Arc<Policy>>) {
        let loaded = check(&self.directories);
        let policy = loaded.policy.clone();
        if let Some(policy) = &policy {
            *self.lock() = Current::new(Arc::clone(policy), &loaded);
        }
        (loaded, policy)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn new(policy: Arc<Policy>, loaded: &Loaded) -> Self {
        Self {
            policy,
            settings: loaded.settings.clone(),
            files: loaded.files.len(),
            loaded: crate::store::records::now_micros(),
        }
    }
}
