//! What only the process that the kernel started can see of a key: it possesses the authorisation key, and nobody else
//! does, not even root (security/keys/permission.c).

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use upcall_helpers::clock::monotonic;
use upcall_helpers::sys::keys;
use upcall_helpers::wire::KeyRequest;

/// /proc/keys is read up to here, and no longer than we may take: whoever has thousands of ids can fill it.
const KEYS_MAX: usize = 64 << 20;

/// Gathers what is known about this key, whose authorisation key was assumed. `thread_keyring` as the kernel says it.
/// `until`: nanoseconds of `CLOCK_MONOTONIC` after which nobody is looked for any more.
///
/// What cannot be read is empty, and the daemon says what that means: whoever asked may let his key expire meanwhile
/// (security/keys/keyctl.c, `keyctl_set_timeout`, does not wait until it is answered).
pub(crate) fn gather(
    key: i32,
    authorisation: i32,
    thread_keyring: Option<i32>,
    until: u64,
) -> KeyRequest {
    let authorisation = line_of(authorisation, until).unwrap_or_default();
    // Half of it would be another key to the rules.
    let seen = keys::describe(key).and_then(|described| Ok((described, keys::callout()?)));
    let (described, callout) = seen.unwrap_or_default();
    KeyRequest {
        authorisation,
        described,
        callout,
        thread_keyring: thread_keyring
            .filter(|keyring| *keyring > 0)
            .and_then(|keyring| keys::describe(keyring).ok()),
    }
}

/// A key's line in /proc/keys (keyrings(7)): its serial number comes first, in eight hexadecimal digits.
fn line_of(key: i32, until: u64) -> Result<Vec<u8>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = open("/proc/keys", flags, Mode::empty())?;
    let wanted = format!("{key:08x} ").into_bytes();
    let (mut text, mut total) = (Vec::new(), 0);
    let mut part = vec![0; 64 * 1024];
    while total < KEYS_MAX && monotonic() < until {
        let length = nix::unistd::read(&file, &mut part)?;
        if length == 0 {
            break;
        }
        total += length;
        text.extend_from_slice(part.get(..length).unwrap_or_default());
        // Whole lines only; the rest waits for its end.
        let end = text.iter().rposition(|byte| *byte == b'\n');
        let rest = text.split_off(end.map_or(0, |end| end + 1));
        let mut lines = text.split(|byte| *byte == b'\n');
        if let Some(line) = lines.find(|line| line.starts_with(&wanted)) {
            return Ok(line.to_vec());
        }
        text = rest;
    }
    Err(Errno::ENOENT)
}
