//! Many requests, at once or one after the other.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::{number, request, sys};

/// The most requests, and how large the stack of each one's thread is.
const MAX: usize = 1000;
const STACK: usize = 256 << 10;

/// Asks one after the other; the words as in the command line.
pub(crate) fn time(words: &[Vec<u8>]) -> Result<String, Errno> {
    let [_, count, kind, description, callout] = words else {
        return Err(Errno::EINVAL);
    };
    let count: usize = number(count)
        .filter(|count| *count <= MAX)
        .ok_or(Errno::EINVAL)?;
    sys::join_session()?;
    let mut lines = Vec::new();
    for place in 0..count {
        let description = [description.as_slice(), place.to_string().as_bytes()].concat();
        let words = [kind.clone(), description, callout.clone()];
        let start = Instant::now();
        request(&words)?;
        lines.push(start.elapsed().as_nanos().to_string());
    }
    Ok(lines.join("\n"))
}

/// Asks at once; the words as in the command line.
pub(crate) fn ask(words: &[Vec<u8>]) -> Result<String, Errno> {
    let [_, count, go, kind, description, callout] = words else {
        return Err(Errno::EINVAL);
    };
    let count: usize = number(count)
        .filter(|count| *count <= MAX)
        .ok_or(Errno::EINVAL)?;
    // One session keyring for all: each would cost another key of the user's quota.
    sys::join_session()?;
    let all = Arc::new(Barrier::new(count + 1));
    let threads = (0..count).map(|place| {
        let words = [
            kind.clone(),
            [description.as_slice(), place.to_string().as_bytes()].concat(),
            callout.clone(),
        ];
        let all = Arc::clone(&all);
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn(move || {
            all.wait();
            let start = Instant::now();
            let said = request(&words).unwrap_or_else(|errno| format!("no {errno:?}"));
            (said, start.elapsed())
        })
    });
    let threads: Vec<_> = threads
        .collect::<Result<_, _>>()
        .map_err(|_| Errno::EAGAIN)?;
    let go = Path::new(OsStr::from_bytes(go));
    // A fifo has an end when somebody has opened it to write, and gone.
    std::fs::read(go).map_err(|_| Errno::EIO)?;
    all.wait();
    let (mut counts, mut longest) = (BTreeMap::<String, usize>::new(), Duration::ZERO);
    for thread in threads {
        let (said, took) = thread.join().map_err(|_| Errno::EIO)?;
        *counts.entry(said).or_default() += 1;
        longest = longest.max(took);
    }
    let mut text = format!("longest {} ms", longest.as_millis());
    for (said, count) in counts {
        let _ = write!(text, "\n{count} {said}");
    }
    Ok(text)
}
