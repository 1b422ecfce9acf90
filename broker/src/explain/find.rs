//! Containers by the name that an admin gives: looked for in the runtimes' state, and compared with what is alive.

use upcall_config::facts::Runtime;
use upcall_config::rule::Declared;
use upcall_config::text::escape;

use crate::linux::pidref::PidRef;
use crate::resolve::Resolver;
use crate::resolve::claim::{Claim, Names};
use crate::resolve::leader::Leader;

/// The shortest part of an id that names a container.
const PREFIX_MIN: usize = 4;

/// One container.
#[derive(Debug)]
pub struct Found {
    /// Which runtime has it.
    pub runtime: String,
    /// Its id, escaped.
    pub id: String,
    /// The name people gave it, escaped.
    pub name: Option<String>,
    /// Its init, held.
    pub leader: PidRef,
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
pub fn container(
    resolver: &Resolver,
    declared: &[Declared],
    name: &str,
) -> Result<Found, FindError> {
    let all = resolver.all(declared);
    let asked = name.as_bytes();
    let exact = |(claim, names): &&(Claim, Names)| {
        claim.id == asked || names.name.as_deref() == Some(asked)
    };
    let prefix =
        |(claim, _): &&(Claim, Names)| name.len() >= PREFIX_MIN && claim.id.starts_with(asked);
    let mut matching: Vec<_> = all.iter().filter(exact).collect();
    if matching.is_empty() {
        matching = all.iter().filter(prefix).collect();
    }
    let shown = |(claim, names): &(Claim, Names)| {
        let known = names.name.as_ref().filter(|name| **name != claim.id);
        let known = known.map_or(String::new(), |known| format!(" {}", escape(known)));
        format!("{}{known} {}", claim.runtime, escape(&claim.id))
    };
    let known = declared.iter().find(|declared| declared.name() == name);
    let (mut running, mut stopped) = (
        Vec::new(),
        known.map(|known| {
            let shown = format!("{} {}", Runtime::Admin, known.name());
            let why = "its [[container]] leads to no live process";
            FindError::NotRunning(shown, why.to_owned())
        }),
    );
    for one in matching {
        match Leader::open(&one.0.init, resolver.host()) {
            Ok(leader) => running.push((one, leader.process)),
            Err(error) => stopped = Some(FindError::NotRunning(shown(one), error.to_string())),
        }
    }
    if let [(first, _), (second, _), ..] = running.as_slice() {
        return Err(FindError::Ambiguous {
            name: name.to_owned(),
            first: shown(first),
            second: shown(second),
        });
    }
    let Some(((claim, names), leader)) = running.pop() else {
        return Err(stopped.unwrap_or_else(|| FindError::None(name.to_owned())));
    };
    Ok(Found {
        runtime: claim.runtime.to_string(),
        id: escape(&claim.id),
        name: names.name.as_deref().map(escape),
        leader,
    })
}
