//! What every hook begins with: its file, and an id for the upcall.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use upcall_helpers::hookfile::HookFile;
use upcall_helpers::sys;
use upcall_helpers::wire::{ID_LENGTH, id};

/// Where `install` puts the hooks' files unless the hook itself says otherwise.
const HOOKS: &[u8] = b"/etc/upcalld/hooks";

/// Takes `--hooks=DIR` off the front of the kernel's words, and reads the file of this hook there.
pub(crate) fn file(words: &mut Vec<Vec<u8>>, kind: &str) -> HookFile {
    let option = words
        .first()
        .and_then(|word| word.strip_prefix(b"--hooks="))
        // A network interface may be called `--hooks=x`, but has no slash in its name.
        .filter(|directory| directory.starts_with(b"/"))
        .map(<[u8]>::to_vec);
    if option.is_some() {
        words.remove(0);
    }
    let directory = option.as_deref().unwrap_or(HOOKS);
    HookFile::read(Path::new(OsStr::from_bytes(directory)), kind)
}

/// The file of this hook, where the kernel's words are all its own: it starts us for everything, and the daemon is the one
/// that was installed for that.
pub(crate) fn standard(kind: &str) -> HookFile {
    let read = |kind| HookFile::read(Path::new(OsStr::from_bytes(HOOKS)), kind);
    let umh = read("umh");
    if kind == "umh" {
        return umh;
    }
    HookFile {
        socket: umh.socket,
        ..read(kind)
    }
}

/// An id that nobody else has.
pub(crate) fn new_id() -> [u8; ID_LENGTH] {
    id(sys::random().unwrap_or_default())
}
