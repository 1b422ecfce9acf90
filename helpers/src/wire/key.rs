//! What the shim tells the daemon about a key: the part of a request that only the process which the kernel started can
//! read, because it alone possesses the authorisation key.

use super::field::{DecodeError, Field, Writer, once};

const AUTHORISATION: u16 = 5;
const DESCRIBED: u16 = 6;
const CALLOUT: u16 = 7;
const THREAD_KEYRING: u16 = 8;

/// A line of /proc/keys without the tenant's text in it: far below this.
const LINE_MAX: usize = 512;
/// `type;uid;gid;permissions;` and a description of at most 4,095 bytes (security/keys/keyctl.c).
const DESCRIBED_MAX: usize = 4096 + 256;
/// Callout information is shorter than a page (security/keys/keyctl.c).
const CALLOUT_MAX: usize = 4096;

/// The words with which the kernel starts /sbin/request-key, after the program's name (security/keys/request_key.c,
/// `call_sbin_request_key`): numbers all but the first. A keyring that the requester does not have is 0.
pub const KEY_WORDS: [&str; 7] = [
    "operation",
    "key",
    "uid",
    "gid",
    "thread_keyring",
    "process_keyring",
    "session_keyring",
];

/// The key that is wanted, as the shim sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRequest {
    /// The authorisation key's line of /proc/keys, which names the requester: at most 512 bytes.
    pub authorisation: Vec<u8>,
    /// `type;uid;gid;permissions;description` (keyctl(2), `KEYCTL_DESCRIBE`): at most 4,352 bytes. Empty where the key
    /// had expired before it was looked at.
    pub described: Vec<u8>,
    /// The callout information, any bytes, at most 4,096.
    pub callout: Vec<u8>,
    /// The same as `described` of the requester's thread keyring, where root may see that: the kernel's own may be seen.
    pub thread_keyring: Option<Vec<u8>>,
}

impl KeyRequest {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer
            .bytes(AUTHORISATION, &self.authorisation, LINE_MAX)
            .bytes(DESCRIBED, &self.described, DESCRIBED_MAX)
            .bytes(CALLOUT, &self.callout, CALLOUT_MAX);
        if let Some(described) = &self.thread_keyring {
            writer.bytes(THREAD_KEYRING, described, DESCRIBED_MAX);
        }
    }
}

/// The fields as they come.
#[derive(Debug, Default)]
pub(super) struct Raw {
    authorisation: Option<Vec<u8>>,
    described: Option<Vec<u8>>,
    callout: Option<Vec<u8>>,
    thread_keyring: Option<Vec<u8>>,
}

impl Raw {
    pub(super) fn take(&mut self, field: Field<'_>) -> Result<(), DecodeError> {
        let tag = field.tag;
        let (slot, max) = match tag {
            AUTHORISATION => (&mut self.authorisation, LINE_MAX),
            DESCRIBED => (&mut self.described, DESCRIBED_MAX),
            CALLOUT => (&mut self.callout, CALLOUT_MAX),
            THREAD_KEYRING => (&mut self.thread_keyring, DESCRIBED_MAX),
            _ => return field.unknown(),
        };
        once(slot, tag, field.bytes(max)?.to_vec())
    }

    /// The key of a request for one; of another there is none.
    pub(super) fn finish(self, wanted: bool) -> Result<Option<KeyRequest>, DecodeError> {
        if !wanted {
            let stray = self.authorisation.is_some()
                || self.described.is_some()
                || self.callout.is_some()
                || self.thread_keyring.is_some();
            return if stray {
                Err(DecodeError::Tag(AUTHORISATION))
            } else {
                Ok(None)
            };
        }
        Ok(Some(KeyRequest {
            authorisation: self
                .authorisation
                .ok_or(DecodeError::Missing(AUTHORISATION))?,
            described: self.described.ok_or(DecodeError::Missing(DESCRIBED))?,
            callout: self.callout.ok_or(DecodeError::Missing(CALLOUT))?,
            thread_keyring: self.thread_keyring,
        }))
    }
}
