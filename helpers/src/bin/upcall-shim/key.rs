//! The key hook: /sbin/request-key, or a line of request-key.conf(5) that ends in `-- PROGRAM WORDS…`.
//!
//! The requester cannot be killed while the kernel waits for us, so every wait here ends: with an answer, or with a
//! refusal that holds for a second. Only where nobody listens at all the key goes to what stood before us, if the hook's
//! file does not refuse that too; a daemon that is late or has just ended is no leave to do more than it would have.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use upcall_helpers::clock::monotonic;
use upcall_helpers::hookfile::HookFile;
use upcall_helpers::seqpacket;
use upcall_helpers::sys::keys;
use upcall_helpers::wire::{Answered, Event, Hook, ID_LENGTH, KEY_WORDS, Report, Request, Verdict};

use crate::link::{self, Answer};
use crate::{FAILURE, SUCCESS, evidence, hook, run};

/// How long a refusal of ours holds, in seconds of the kernel's: long enough for the requester to see its error, of which
/// nothing is left to him where it has expired before we have ended (security/keys/request_key.c, `call_sbin_request_key`).
pub(crate) const SHORT: u32 = 2;

/// A key that we have the authority over.
pub(crate) struct Key {
    pub(crate) serial: i32,
    /// `type;uid;gid;permissions;description`.
    pub(crate) described: Vec<u8>,
    /// The upcall's id.
    pub(crate) id: [u8; ID_LENGTH],
}

/// Answers one key. `request_key`: what the kernel wanted to start, where it starts us in any case.
pub(crate) fn serve(mut words: Vec<Vec<u8>>, request_key: Option<&[u8]>) -> u8 {
    let started = monotonic();
    let hook = match request_key {
        None => hook::file(&mut words, "key"),
        Some(_) => hook::standard("key"),
    };
    let mut previous = match words.iter().position(|word| word == b"--") {
        Some(at) => words.split_off(at).split_off(1),
        None => Vec::new(),
    };
    if previous.is_empty() {
        let program = request_key.unwrap_or(hook.program.as_os_str().as_bytes());
        previous.push(program.to_vec());
        previous.extend(words.iter().cloned());
    }
    let numbers = numbers(&words);
    let authority = numbers.and_then(|(serial, _)| keys::assume_authority(serial).ok());
    let (Some((serial, thread_keyring)), Some(authority)) = (numbers, authority) else {
        // Nothing that the kernel waits for: somebody tries out what stood before us, by our name.
        return run::become_previous(&previous);
    };
    let mut key = Key {
        serial,
        described: Vec::new(),
        id: hook::new_id(),
    };
    // From here on it is ours to answer, whatever a tenant does to the key meanwhile.
    // Half of our time is the daemon's.
    let half = u64::try_from(hook.deadline.as_nanos() / 2).unwrap_or(u64::MAX);
    let until = started.saturating_add(half);
    let gathered = evidence::gather(serial, authority, thread_keyring, until);
    key.described.clone_from(&gathered.described);
    let request = Request {
        hook: Hook::Key,
        argv: words,
        fds: Vec::new(),
        started,
        id: Some(key.id),
        key: Some(gathered),
    };
    match link::ask(&hook, &request, &[]) {
        Ok(answer) => key.obey(answer, &hook, &previous),
        Err(Errno::ENOENT | Errno::ECONNREFUSED) if !hook.refuse => {
            run::previous(&key, &previous, hook.pass_deadline, |_| {});
            SUCCESS
        }
        Err(Errno::EAGAIN | Errno::EINPROGRESS) => key.refused(Errno::ETIMEDOUT),
        Err(_) => key.refused(Errno::EKEYREJECTED),
    }
}

/// The key and the requester's thread keyring, where these are the kernel's words.
fn numbers(words: &[Vec<u8>]) -> Option<(i32, Option<i32>)> {
    let number = |word: Option<&Vec<u8>>| -> Option<i32> {
        word.and_then(|word| str::from_utf8(word).ok())
            .and_then(|word| word.parse().ok())
    };
    if words.len() != KEY_WORDS.len() {
        return None;
    }
    let serial = number(words.get(1)).filter(|serial| *serial > 0)?;
    Some((serial, number(words.get(4))))
}

impl Key {
    /// Does what the daemon said, and tells it what came of it.
    fn obey(&self, answer: Answer, hook: &HookFile, previous: &[Vec<u8>]) -> u8 {
        let Answer {
            verdict,
            fds,
            socket,
        } = answer;
        let tell = |report: &[u8]| {
            use std::os::fd::AsFd;
            // A daemon that has gone finds in the open record what the keeper wrote.
            let _ = seqpacket::send(socket.as_fd(), report, &[]);
        };
        let (how, errno) = match verdict {
            Verdict::Deny { errno, ttl } => self.reject(seconds(ttl), errno),
            Verdict::Answer { payload, ttl } => self.instantiate(&payload, ttl),
            Verdict::Pass { deadline, .. } => {
                let deadline = Duration::from_millis(deadline.into());
                run::previous(self, previous, deadline, tell)
            }
            Verdict::RunHere {
                launch,
                deadline,
                prints,
            } => {
                let deadline = Duration::from_millis(deadline.into());
                match run::here(self, &launch, fds, deadline, tell) {
                    Ok(printed) => self.end(prints, &printed),
                    Err(errno) => self.reject(SHORT, errno as u32),
                }
            }
            Verdict::Fallback if !hook.refuse => {
                run::previous(self, previous, hook.pass_deadline, tell)
            }
            Verdict::Fallback | Verdict::Done => self.reject(SHORT, Errno::EKEYREJECTED as u32),
        };
        self.report(Event::Answered { how, errno }, tell);
        match how {
            Answered::Instantiated | Answered::ByHelper => SUCCESS,
            Answered::Rejected | Answered::Failed => FAILURE,
        }
    }

    /// A helper has ended well: either it printed the payload, or it has answered, or nobody has.
    fn end(&self, prints: Option<u32>, printed: &[u8]) -> (Answered, u32) {
        if self.is_answered() {
            return (Answered::ByHelper, 0);
        }
        let Some(ttl) = prints else {
            return self.reject(SHORT, Errno::EKEYREJECTED as u32);
        };
        let mut fields = self.described.splitn(5, |byte| *byte == b';');
        let kind = fields.next().unwrap_or_default();
        let description = fields.nth(3).unwrap_or_default();
        match upcall_helpers::keytype::payload(kind, description, printed) {
            Ok(payload) => self.instantiate(&payload, ttl),
            Err(_) => self.reject(SHORT, Errno::EBADMSG as u32),
        }
    }

    /// Whether somebody has answered it: then its authorisation key is gone or revoked, and cannot be assumed again.
    pub(crate) fn is_answered(&self) -> bool {
        keys::assume_authority(self.serial).is_err()
    }

    /// Gives it its payload, good for `ttl` milliseconds; 0 is for ever.
    fn instantiate(&self, payload: &[u8], ttl: u32) -> (Answered, u32) {
        let timed = match ttl {
            0 => Ok(()),
            ttl => keys::set_timeout(self.serial, seconds(ttl)),
        };
        match timed.and_then(|()| keys::instantiate(self.serial, payload)) {
            Ok(()) => (Answered::Instantiated, 0),
            Err(errno) => {
                let _ = keys::reject(self.serial, SHORT, errno as u32);
                (Answered::Rejected, errno as u32)
            }
        }
    }

    /// Refuses it; somebody may have been faster.
    pub(crate) fn reject(&self, seconds: u32, errno: u32) -> (Answered, u32) {
        // An error that says "there is none" would be kept as that, and for others too.
        let errno = match errno {
            0 => Errno::EKEYREJECTED as u32,
            errno if errno == Errno::ENOKEY as u32 => Errno::EKEYREJECTED as u32,
            errno => errno,
        };
        match keys::reject(self.serial, seconds, errno) {
            Ok(()) => (Answered::Rejected, errno),
            Err(_) if self.is_answered() => (Answered::ByHelper, 0),
            Err(errno) => (Answered::Failed, errno as u32),
        }
    }

    fn refused(&self, errno: Errno) -> u8 {
        self.reject(SHORT, errno as u32);
        FAILURE
    }

    /// Tells the daemon one thing.
    pub(crate) fn report(&self, event: Event, tell: impl FnOnce(&[u8])) {
        let report = Report {
            id: self.id.to_vec(),
            slot: 0,
            time: monotonic(),
            event,
        };
        if let Ok(report) = report.encode() {
            tell(&report);
        }
    }
}

/// Whole seconds, which is all that keys have. One more than are wanted: the kernel counts the clock's own, and the first of
/// them may end at once (security/keys/key.c, `key_reject_and_link`; security/keys/permission.c, `key_validate`).
fn seconds(milliseconds: u32) -> u32 {
    milliseconds.div_ceil(1000).max(1).saturating_add(1)
}
