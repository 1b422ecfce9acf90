//! What the shim asks about in order to become it: the program that loads a module, or any other that the kernel starts.

use upcall_config::upcall::{Kind, Upcall};
use upcall_helpers::umh::{self, Look};
use upcall_helpers::wire::{Hook, ID_LENGTH, Request};

use super::shim::IntakeError;
use crate::linux::pidref::PidRef;
use crate::linux::seqpacket::Connection;

/// A helper that the kernel wants.
#[derive(Debug)]
pub struct HelperCall {
    /// Which, and what for.
    pub wanted: Wanted,
    /// The upcall's id, as the shim has drawn it.
    pub id: Option<[u8; ID_LENGTH]>,
    /// When the shim started: nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
    /// The shim's process, and when it started in clock ticks since boot: while it lives, the requester of what is waited
    /// for waits. `None`: it had ended when its request was read.
    pub process: Option<(PidRef, u64)>,
    /// Where the verdict goes.
    pub shim: Connection,
}

/// What the kernel wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A module, by what it is asked for by: `fs-ext4`, `net-pf-10-proto-132`; a tenant's text in part.
    Module(Vec<u8>),
    /// Any other program.
    Other(Helper),
}

/// A program that the kernel starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    /// What it goes by: `/sbin/bridge-stp`, `release_agent`.
    pub name: Vec<u8>,
    /// Its path; empty where nothing is to be started.
    pub program: Vec<u8>,
    /// The kernel's words after that.
    pub words: Vec<Vec<u8>>,
}

impl Helper {
    /// What is known about it.
    pub fn look(&self) -> Look {
        umh::look(&self.name, &self.program, &self.words)
    }

    /// Whether whoever caused it waits for its end.
    pub fn is_waited_for(&self) -> bool {
        matches!(self.look(), Look::Known(known) if known.waited_for)
    }

    /// Whether it is to run unless a rule refuses it.
    pub fn fails_open(&self) -> bool {
        matches!(self.look(), Look::Known(known) if known.fail_open)
    }

    /// The path of the cgroup that has lost its last process, which is what a release agent is told (cgroups(7)).
    pub fn emptied(&self) -> Option<&[u8]> {
        let agent = matches!(self.look(), Look::Known(known) if known.told_of_cgroup);
        self.words.first().map(Vec::as_slice).filter(|_| agent)
    }
}

impl Wanted {
    /// As rules look at it.
    pub fn upcall(&self) -> Upcall {
        match self {
            Self::Module(alias) => Upcall::Module(alias.clone()),
            Self::Other(helper) => Upcall::Umh(helper.name.clone()),
        }
    }

    /// The kind of its upcalls.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Module(_) => Kind::Module,
            Self::Other(_) => Kind::Umh,
        }
    }

    /// What refusals are told apart by.
    pub fn about(&self) -> &[u8] {
        match self {
            Self::Module(alias) => alias,
            Self::Other(helper) => &helper.name,
        }
    }

    /// The other program.
    pub fn other(&self) -> Option<&Helper> {
        match self {
            Self::Module(_) => None,
            Self::Other(helper) => Some(helper),
        }
    }
}

/// Takes the kernel's words out of a request.
pub(super) fn call(
    request: Request,
    process: Option<(PidRef, u64)>,
    shim: Connection,
) -> Result<HelperCall, IntakeError> {
    let incomplete = || IntakeError::Incomplete("the kernel's words");
    let wanted = if request.hook == Hook::Module {
        let words = <[Vec<u8>; 3]>::try_from(request.argv);
        let [quiet, end, alias] = words.map_err(|_| incomplete())?;
        if quiet != b"-q" || end != b"--" {
            return Err(incomplete());
        }
        Wanted::Module(alias)
    } else {
        let mut words = request.argv.into_iter();
        let (Some(name), Some(program)) = (words.next(), words.next()) else {
            return Err(incomplete());
        };
        let words = words.collect();
        Wanted::Other(Helper {
            name,
            program,
            words,
        })
    };
    Ok(HelperCall {
        wanted,
        id: request.id,
        started: request.started,
        process,
        shim,
    })
}

#[cfg(test)]
mod tests {
    use upcall_config::decide::{Verdict, decide};
    use upcall_config::facts::Facts;

    use super::*;

    #[test]
    fn the_shipped_rules_name_all_that_is_known() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/defaults");
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory).unwrap());
        let directories = upcall_config::Directories::single(directory).owned_by(owner);
        let loaded = crate::policy::check(&directories);
        let policy = loaded.policy.unwrap();
        for known in umh::KNOWN {
            let upcall = Upcall::Umh(known.name.as_bytes().to_vec());
            let decision = decide(&policy, &upcall, &Facts::default(), "r");
            assert!(
                matches!(decision.verdict, Verdict::Do(_)) && decision.rule.is_some(),
                "{}",
                known.name
            );
        }
    }
}
