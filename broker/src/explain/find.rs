//! Containers by the name that an admin gives: looked for in the runtimes' state, and compared with what is alive.

use std::os::unix::ffi::OsStrExt;

use upcall_config::text::escape;

use crate::resolve::Resolver;
use crate::resolve::leader::Leader;
use crate::resolve::oci::State;

/// How many containers are looked through at most.
const SCAN_MAX: usize = 10_000;

/// The shortest part of an id that names a container.
const PREFIX_MIN: usize = 4;

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which runtime has it.
    pub runtime: String,
    /// Its id, escaped.
    pub id: String,
    /// The name people gave it, escaped.
    pub name: Option<String>,
    /// Its init.
    pub leader: u32,
}

/// Why there is no one container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// There is none.
    #[error("no runtime's state has a container {0}")]
    None(String),
    /// There is one that is not running.
    #[error("{0} is not running: {1}")]
    NotRunning(String, String),
    /// There are several.
    #[error("{name} is not one container's alone: {first} and {second}")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// One.
        first: String,
        /// Another.
        second: String,
    },
}

/// Finds the running container with this name or id, or whose id alone starts so.
///
/// # Errors
/// See [`FindError`].
pub fn container(resolver: &Resolver, name: &str) -> Result<Found, FindError> {
    let all = all(resolver);
    let exact = |(state, known): &&(State, Option<String>)| {
        state.id == name || known.as_deref() == Some(name)
    };
    let prefix = |(state, _): &&(State, Option<String>)| {
        name.len() >= PREFIX_MIN && state.id.starts_with(name)
    };
    let mut matching: Vec<_> = all.iter().filter(exact).collect();
    if matching.is_empty() {
        matching = all.iter().filter(prefix).collect();
    }
    let shown = |(state, known): &(State, Option<String>)| {
        let id = escape(state.id.as_bytes());
        let known = known.as_ref().map_or(String::new(), |known| {
            format!(" {}", escape(known.as_bytes()))
        });
        format!("{}{known} {id}", state.runtime)
    };
    let (mut running, mut stopped) = (Vec::new(), None);
    for one in matching {
        match Leader::open(one.0.pid, one.0.start) {
            Ok(leader) => running.push((one, leader.process.pid())),
            Err(error) => stopped = Some(FindError::NotRunning(shown(one), error.to_string())),
        }
    }
    match running.as_slice() {
        [] => Err(stopped.unwrap_or_else(|| FindError::None(name.to_owned()))),
        [(one, leader)] => {
            let (state, known) = one;
            Ok(Found {
                runtime: state.runtime.to_string(),
                id: escape(state.id.as_bytes()),
                name: known.as_ref().map(|known| escape(known.as_bytes())),
                leader: *leader,
            })
        }
        [(first, _), (second, _), ..] => Err(FindError::Ambiguous {
            name: name.to_owned(),
            first: shown(first),
            second: shown(second),
        }),
    }
}

/// All containers that the runtimes' state has, with podman's names.
fn all(resolver: &Resolver) -> Vec<(State, Option<String>)> {
    let mut all = Vec::new();
    for root in resolver.roots() {
        let Ok(entries) = std::fs::read_dir(&root.path) else {
            continue;
        };
        for entry in entries.flatten().take(SCAN_MAX) {
            if let Ok(state) = root.get(entry.file_name().as_bytes()) {
                let name = resolver.podman().names(&state.id).name;
                all.push((state, name));
            }
        }
    }
    all
}
