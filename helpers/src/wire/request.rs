//! What the shim tells the daemon: which hook the kernel called, with which words, and which descriptors it gave.

use super::FDS_MAX;
use super::field::{DecodeError, EncodeError, MessageKind, Reader, Writer, once};
use super::id::{ID_LENGTH, is_id};
use super::key::{self, KeyRequest};

const HOOK: u16 = 1;
const ARGV: u16 = 2;
const FDS: u16 = 3;
const STARTED: u16 = 4;
/// May be skipped: a daemon that does not know it draws an id itself.
const ID: u16 = 0x8001;

/// The most words the kernel gives a helper (core_pattern has 127 characters, so at most 63 words).
pub(super) const WORDS_MAX: usize = 64;

/// The longest word: `%E` is a path of at most `PATH_MAX` bytes, with room for a `--name=` before it.
pub(super) const WORD_MAX: usize = 4096 + 64;

/// The words of our core_pattern after the program's name and an optional `--hooks=DIR`: core(5) specifiers, in the
/// order in which shim and daemon find them. What a tenant can choose comes last, and the kernel splits the pattern
/// before it fills it in, so no tenant's text can move another word.
pub const CORE_WORDS: [&str; 16] = [
    "%P", "%I", "%p", "%i", "%u", "%g", "%d", "%s", "%t", "%c", "%C", "%F", "%h", "%e", "%f", "%E",
];

/// Where in [`CORE_WORDS`] the kernel says at which number it put the pidfd; empty where it knows no `%F`.
pub const CORE_PIDFD_WORD: usize = 11;

/// Which hook of the kernel started the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `kernel.core_pattern`, as a pipe.
    Core,
    /// /sbin/request-key.
    Key,
    /// `kernel.modprobe`.
    Module,
    /// Any other program that the kernel starts ([`crate::umh`]).
    Umh,
}

/// What one descriptor beside a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestFd {
    /// The read end of the kernel's pipe.
    Stdin,
    /// The pidfd that the kernel made (`%F`).
    Pidfd,
    /// An eventfd with one token; who holds the token may read the pipe.
    Claim,
}

impl RequestFd {
    fn code(self) -> u8 {
        match self {
            Self::Stdin => 1,
            Self::Pidfd => 2,
            Self::Claim => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Stdin, Self::Pidfd, Self::Claim]
            .into_iter()
            .find(|fd| fd.code() == code)
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The hook.
    pub hook: Hook,
    /// The words after the program's name, verbatim: bytes without NUL, at most 64 of at most 4,160 bytes. With
    /// [`Hook::Umh`] two come before them: what the program goes by, and its path, empty where there is none.
    pub argv: Vec<Vec<u8>>,
    /// What the descriptors are, in their order; each at most once.
    pub fds: Vec<RequestFd>,
    /// When the shim started, nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
    /// The upcall's id, which is its record's, whoever writes that: the daemon, or the next one from the spool.
    pub id: Option<[u8; ID_LENGTH]>,
    /// What only the process that the kernel started can see of a key; with [`Hook::Key`] only, and always then.
    pub key: Option<KeyRequest>,
}

impl Request {
    /// The record.
    ///
    /// # Errors
    /// A word is longer than the kernel can make it, or there are too many.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let hook = match self.hook {
            Hook::Core => 1,
            Hook::Key => 2,
            Hook::Module => 3,
            Hook::Umh => 4,
        };
        let fds: Vec<u8> = self.fds.iter().map(|fd| fd.code()).collect();
        let mut writer = Writer::new(MessageKind::Request);
        writer
            .u8(HOOK, hook)
            .list(ARGV, &self.argv, WORDS_MAX, WORD_MAX)
            .bytes(FDS, &fds, FDS_MAX)
            .u64(STARTED, self.started);
        if let Some(key) = &self.key {
            key.write(&mut writer);
        }
        if let Some(id) = &self.id {
            writer.bytes(ID, id, ID_LENGTH);
        }
        writer.finish()
    }

    /// Reads a record that came with `descriptors` descriptors.
    ///
    /// # Errors
    /// The record is not a request, or names other descriptors than came.
    pub fn decode(record: &[u8], descriptors: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(record, MessageKind::Request)?;
        let (mut hook, mut fds, mut started, mut id) = (None, None, None, None);
        let mut argv = Vec::new();
        let mut key = key::Raw::default();
        while let Some(field) = reader.next()? {
            match field.tag {
                HOOK => match field.u8()? {
                    1 => once(&mut hook, HOOK, Hook::Core)?,
                    2 => once(&mut hook, HOOK, Hook::Key)?,
                    3 => once(&mut hook, HOOK, Hook::Module)?,
                    4 => once(&mut hook, HOOK, Hook::Umh)?,
                    _ => return Err(DecodeError::Value(HOOK)),
                },
                ARGV => field.push(&mut argv, WORDS_MAX, WORD_MAX)?,
                FDS => once(&mut fds, FDS, decode_fds(field.bytes(FDS_MAX)?)?)?,
                STARTED => once(&mut started, STARTED, field.u64()?)?,
                ID => {
                    let value = field.bytes(ID_LENGTH)?.try_into().ok();
                    let value = value.filter(|id: &[u8; ID_LENGTH]| is_id(id));
                    once(&mut id, ID, value.ok_or(DecodeError::Value(ID))?)?;
                }
                _ => key.take(field)?,
            }
        }
        let fds = fds.unwrap_or_default();
        if fds.len() != descriptors {
            return Err(DecodeError::Descriptors);
        }
        let hook = hook.ok_or(DecodeError::Missing(HOOK))?;
        Ok(Self {
            hook,
            key: key.finish(hook == Hook::Key)?,
            argv,
            fds,
            started: started.ok_or(DecodeError::Missing(STARTED))?,
            id,
        })
    }
}

fn decode_fds(codes: &[u8]) -> Result<Vec<RequestFd>, DecodeError> {
    let mut fds = Vec::with_capacity(codes.len());
    for &code in codes {
        let fd = RequestFd::from_code(code).ok_or(DecodeError::Value(FDS))?;
        if fds.contains(&fd) {
            return Err(DecodeError::Value(FDS));
        }
        fds.push(fd);
    }
    Ok(fds)
}
