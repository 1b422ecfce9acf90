//! The process that asked for a key.
//!
//! The kernel starts the shim while the thread that asked waits for it, uninterruptibly (security/keys/request_key.c,
//! `call_sbin_request_key`): it cannot end or change while the shim lives. Who it is only the authorisation key says,
//! which only the shim can see; so the shim is asked for after the last read, and the thread's own pidfd as well.

use nix::errno::Errno;
use upcall_config::facts::ProcessFacts;
use upcall_config::keytype::{self, Caller};
use upcall_config::upcall::Upcall;

use super::{Evidence, Lost, Origin};
use crate::intake::key::KeyCall;
use crate::linux::keys::{Authorisation, Described};
use crate::linux::namespace::NsSet;
use crate::linux::pidref::PidRef;
use crate::linux::procdir::ProcDir;
use upcall_config::keytype::KeyUpcall;

/// The key, as rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What the kernel said; the caller of a forged request is the user that it comes from.
    pub upcall: KeyUpcall,
    /// Whether it claims to be one that only the kernel makes, and is not.
    pub forged: bool,
    /// Whether nobody could see any more what it was: whoever asked has let it expire.
    pub expired: bool,
}

impl Wanted {
    /// Whether it is for the rules to say what becomes of it.
    pub fn is_for_rules(&self) -> bool {
        !self.forged && !self.expired
    }

    /// As rules look at it.
    pub fn upcall(&self) -> Upcall {
        Upcall::Key(self.upcall.clone())
    }
}

/// What is wanted. What the shim could not read is unknown, and an unknown type only what a rule denies.
pub fn wanted(call: &KeyCall) -> Wanted {
    let described = Described::parse(&call.key.described);
    let expired = described.is_none();
    let (kind, description) =
        described.map_or_else(Default::default, |key| (key.kind, key.description));
    // A keyring of the kernel's is root's, and its name begins with a point, which no user's can.
    let keyring = call.key.thread_keyring.as_deref();
    let keyring = keyring.and_then(Described::parse);
    let keyring = keyring.filter(|keyring| keyring.uid == 0 && keyring.kind == b"keyring");
    let caller = keytype::caller(&kind, keyring.as_ref().map(|k| k.description.as_slice()));
    Wanted {
        forged: caller.is_none(),
        expired,
        upcall: KeyUpcall {
            serial: call.serial,
            kind,
            description,
            callout: Some(call.key.callout.clone()),
            caller: caller.unwrap_or(Caller::User),
        },
    }
}

/// Holds and reads the process whose thread asked.
///
/// # Errors
/// [`Lost`] where it is not said who that is, or the shim has ended and it may be another's number by now.
pub fn identify(call: &KeyCall) -> Result<Origin, Box<Lost>> {
    let authorisation = Authorisation::parse(&call.key.authorisation);
    let thread = authorisation.map(|authorisation| authorisation.thread);
    let lost = |why: &str| {
        Box::new(Lost {
            why: why.to_owned(),
            facts: ProcessFacts {
                pid: thread,
                tid: thread,
                ..ProcessFacts::default()
            },
        })
    };
    let authorisation = authorisation
        .ok_or_else(|| lost("the shim found no authorisation key that says who asked"))?;
    if authorisation.key != call.serial {
        return Err(lost("the authorisation key is for another key"));
    }
    let shim = call.process.as_ref();
    let shim = shim.ok_or_else(|| lost("the shim had ended when its request was read"))?;
    if authorisation.thread == 0 {
        return Err(lost(
            "it is in a pid namespace that is not below the host's",
        ));
    }
    let origin = read(authorisation.thread, Evidence::AuthKey)
        .map_err(|errno| lost(&format!("reading it: {errno}")))?;
    // The last word: while the shim lives its requester waits, and what was read was its own.
    let verified = origin.process.verify().and_then(|()| shim.verify());
    verified.map_err(|_| lost("it or the shim was gone while it was looked at"))?;
    Ok(origin)
}

/// The thread's own ids and namespaces, which may be others than its process's.
pub(super) fn read(thread: u32, evidence: Evidence) -> Result<Origin, Errno> {
    let directory = ProcDir::open(thread)?;
    let status = directory.status()?;
    let pid = *status.pids.first().ok_or(Errno::EBADMSG)?;
    let process = PidRef::open(pid)?;
    let namespaces = if pid == thread {
        NsSet::of(&process, &directory)?
    } else {
        NsSet::of_directory(&directory)?
    };
    let mut comm = directory.read("comm")?;
    comm.truncate(comm.len().saturating_sub(1)); // the kernel's newline
    Ok(Origin {
        process,
        tid: thread,
        evidence,
        stat: directory.stat()?,
        cgroups: directory.cgroups()?,
        exe: directory.exe().ok(),
        comm: Some(comm),
        status,
        namespaces,
        directory,
    })
}

/// The process with this number as if one of its threads had asked.
///
/// # Errors
/// `ESRCH` and the like where there is none.
pub fn look(pid: u32) -> Result<Origin, Errno> {
    read(pid, Evidence::AuthKey)
}
