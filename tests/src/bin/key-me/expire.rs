//! A requester that takes its key back while it is being answered.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use crate::{number, request, sys};

/// Asks as the first thread, and the second lets the key expire as soon as it is there: at the next full second of the
/// clock, which is `lead` milliseconds away when it is asked. So many keys of ours make /proc/keys slow to look through.
#[expect(clippy::disallowed_methods, reason = "until the clock is there")]
pub(crate) fn ask(words: &[Vec<u8>]) -> Result<String, Errno> {
    let [_, filling, lead, asked @ ..] = words else {
        return Err(Errno::EINVAL);
    };
    let filling: u32 = number(filling).ok_or(Errno::EINVAL)?;
    let lead: u64 = number(lead).filter(|ms| *ms < 1000).ok_or(Errno::EINVAL)?;
    sys::join_session()?;
    for place in 0..filling {
        let name = std::ffi::CString::new(place.to_string()).map_err(|_| Errno::EINVAL)?;
        sys::add_user_key(&name, b"x")?;
    }
    let [kind, description] = [0, 1].map(|at| {
        let word = asked.get(at).cloned().unwrap_or_default();
        std::ffi::CString::new(word).unwrap_or_default()
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let into: u64 = now.map_err(|_| Errno::EINVAL)?.subsec_millis().into();
    std::thread::sleep(Duration::from_millis((1999 - lead - into) % 1000));
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| expire(&kind, &description, &answered));
        let said = request(asked);
        answered.store(true, Ordering::Relaxed);
        said
    })
}

fn expire(kind: &CStr, description: &CStr, answered: &AtomicBool) {
    while !answered.load(Ordering::Relaxed) {
        if let Ok(key) = sys::search(kind, description) {
            let _ = sys::expire_in_a_second(key);
            return;
        }
    }
}
