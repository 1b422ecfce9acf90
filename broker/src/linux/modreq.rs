//! Who made the kernel start a usermode helper. The kernel tells the helper nothing, but two of its functions know:
//! `call_usermodehelper_exec` runs in the thread that wants one, `call_usermodehelper_exec_async` in the process that
//! becomes it, and both get the same `struct subprocess_info` (kernel/umh.c). A kprobe event on each, in an instance of
//! tracefs that is ours alone, joins the one to the other, exactly, also where two ask for the same.
//!
//! Nothing of the structure is looked into, so no offset of it need be known. Both events are in the ring before the
//! helper's first instruction: so it is read when a helper asks, and at no other time. What nobody asks about is
//! written over by the kernel.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::libc;

use super::{ringpage, sys};

/// What of the instance is kept for each processor, in KiB: some hundred requests, the newest.
const BUFFER_KIB: &str = "16";

/// Events that are remembered after they were read.
const REMEMBERED: usize = 4096;

/// A helper starts this soon after it was asked for, and asks this soon after it was started, in nanoseconds; what is
/// older was another's, with the same number.
const FRESH: u64 = 5_000_000_000;

/// `UMH_WAIT_PROC` (linux/umh.h): whoever asked waits for the helper's end.
const WAIT_PROC: u32 = 2;

/// The longest file of tracefs that is read.
const FILE_MAX: usize = 16 * 1024;

/// Has the kernel look for a file system of this name; where it has none, it asks for the module `fs-NAME`. Changes
/// nothing; needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// As fsopen(2): `ENODEV` where the module has brought none.
pub fn want_file_system(name: &std::ffi::CStr) -> Result<(), Errno> {
    sys::open_file_system(name).map(drop)
}

/// tracefs, mounted where nobody sees it.
#[derive(Debug)]
pub struct Tracefs {
    path: PathBuf,
    /// What the path leads through.
    _mount: OwnedFd,
}

/// Why it cannot be known this way.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {}", .errno.desc())]
pub struct TraceError {
    /// At which step.
    pub step: String,
    /// With which error: `EPERM` under the kernel's lockdown, `ENOENT` without kprobes.
    pub errno: Errno,
}

/// The watching, which begins where it is wanted.
#[derive(Debug)]
pub struct Watch {
    name: String,
    tracefs: Mutex<Option<Result<Tracefs, TraceError>>>,
    requests: OnceLock<Result<Requests, TraceError>>,
}

/// Who asked for a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The thread's number.
    pub thread: u32,
    /// Whether it waits until the helper has ended.
    pub waits: bool,
}

/// The two events.
#[derive(Debug)]
pub struct Requests {
    tracefs: Tracefs,
    name: String,
    layout: Layout,
    state: Mutex<State>,
}

/// Where in an event what is.
#[derive(Debug, Clone, Copy)]
struct Layout {
    page: usize,
    kind: usize,
    thread: usize,
    asked: Event,
    begun: Event,
    wait: usize,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    id: u16,
    sub: usize,
}

#[derive(Debug, Default)]
struct State {
    /// One for each processor; none when it is over.
    rings: Vec<File>,
    seen: VecDeque<Seen>,
    lost: u64,
    buffer: Vec<u8>,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    time: u64,
    thread: u32,
    sub: u64,
    /// How whoever asked waits; `None`: this is the helper.
    wait: Option<u32>,
}

impl Tracefs {
    /// Mounts it; needs `CAP_SYS_ADMIN`, and using it does not.
    ///
    /// # Errors
    /// As fsopen(2): `ENODEV` on a kernel without it.
    pub fn mount() -> Result<Self, TraceError> {
        use std::os::fd::AsRawFd;
        let mount = sys::detached_mount(c"tracefs", &[]).map_err(|errno| TraceError {
            step: "tracefs".to_owned(),
            errno,
        })?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Ok(Self {
            path,
            _mount: mount,
        })
    }

    fn read(&self, name: &str) -> Result<String, TraceError> {
        let mut bytes = vec![0; FILE_MAX];
        // In one go: some files have nothing more for a second read (`show_header`, kernel/trace/trace_events.c).
        let file = File::open(self.path.join(name));
        let length = file
            .and_then(|mut file| file.read(&mut bytes))
            .map_err(at(name))?;
        bytes.truncate(length);
        String::from_utf8(bytes).map_err(|_| invalid(name))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), TraceError> {
        // Without O_TRUNC, which would remove everybody's kprobes.
        let file = File::options().append(true).open(self.path.join(name));
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(at(name))
    }

    /// Removes what is there under a name; what is not, is not missed.
    fn clear(&self, name: &str) {
        let instance = format!("instances/{name}");
        drop(self.write(&format!("{instance}/events/{name}/enable"), "0\n"));
        drop(std::fs::remove_dir(self.path.join(instance)));
        for event in ["asked", "begun"] {
            drop(self.write("kprobe_events", &format!("-:{name}/{event}\n")));
        }
    }
}

impl Watch {
    /// Not begun yet; the name is as for [`Requests::watch`].
    pub fn new(tracefs: Result<Tracefs, TraceError>, name: String) -> Self {
        Self {
            name,
            tracefs: Mutex::new(Some(tracefs)),
            requests: OnceLock::new(),
        }
    }

    /// Begins, if it has not: takes some ten milliseconds.
    pub fn begin(&self) {
        let tracefs = self
            .tracefs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(tracefs) = tracefs {
            let requests = tracefs.and_then(|tracefs| Requests::watch(tracefs, &self.name));
            drop(self.requests.set(requests));
        }
    }

    /// Ends for good, whoever still holds this.
    pub fn end(&self) {
        drop(
            self.tracefs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if let Some(Ok(requests)) = self.requests.get() {
            requests.end();
        }
    }

    /// What is watched; `None`: it has not begun.
    pub fn requests(&self) -> Option<Result<&Requests, &TraceError>> {
        self.requests.get().map(Result::as_ref)
    }
}

fn at(step: &str) -> impl Fn(std::io::Error) -> TraceError {
    move |error| TraceError {
        step: step.to_owned(),
        errno: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
    }
}

impl Requests {
    /// Begins to watch, under this name: letters, digits and `_`, no longer than 40. What is left there of a former one
    /// is removed.
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn watch(tracefs: Tracefs, name: &str) -> Result<Self, TraceError> {
        tracefs.clear(name);
        let mut requests = Self {
            tracefs,
            name: name.to_owned(),
            layout: Layout {
                page: 0,
                kind: 0,
                thread: 0,
                asked: Event { id: 0, sub: 0 },
                begun: Event { id: 0, sub: 0 },
                wait: 0,
            },
            state: Mutex::default(),
        };
        // From here on, dropping it clears what is half made.
        requests.begin()?;
        Ok(requests)
    }

    fn begin(&mut self) -> Result<(), TraceError> {
        let (tracefs, name) = (&self.tracefs, &self.name);
        let instance = format!("instances/{name}");
        std::fs::create_dir(tracefs.path.join(&instance)).map_err(at(&instance))?;
        tracefs.write(&format!("{instance}/buffer_size_kb"), BUFFER_KIB)?;
        // One clock for all processors, and the one that the shim's time is of.
        tracefs.write(&format!("{instance}/trace_clock"), "mono")?;
        let asked = "call_usermodehelper_exec sub=$arg1:x64 wait=$arg2:s32";
        let begun = "call_usermodehelper_exec_async sub=$arg1:x64";
        for (event, what) in [("asked", asked), ("begun", begun)] {
            tracefs.write("kprobe_events", &format!("p:{name}/{event} {what}\n"))?;
        }
        let page = tracefs.read("events/header_page")?;
        let field = |event: &str, field: &str| {
            let file = format!("events/{name}/{event}/format");
            let format = tracefs.read(&file)?;
            let offset = ringpage::offset(&format, field);
            offset.ok_or_else(|| invalid(&file))
        };
        let event = |event: &str| {
            let file = format!("events/{name}/{event}/id");
            let id = tracefs.read(&file)?.trim().parse();
            Ok::<_, TraceError>(Event {
                id: id.map_err(|_| invalid(&file))?,
                sub: field(event, "sub")?,
            })
        };
        self.layout = Layout {
            page: ringpage::size(&page).ok_or_else(|| invalid("events/header_page"))?,
            kind: field("asked", "common_type")?,
            thread: field("asked", "common_pid")?,
            asked: event("asked")?,
            begun: event("begun")?,
            wait: field("asked", "wait")?,
        };
        let rings = &mut self
            .state
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .rings;
        let directory = format!("{instance}/per_cpu");
        let entries = std::fs::read_dir(tracefs.path.join(&directory)).map_err(at(&directory))?;
        for entry in entries.flatten() {
            let mut options = File::options();
            let options = options.read(true).custom_flags(libc::O_NONBLOCK);
            let ring = options.open(entry.path().join("trace_pipe_raw"));
            rings.push(ring.map_err(at(&directory))?);
        }
        self.tracefs
            .write(&format!("{instance}/events/{name}/enable"), "1\n")
    }

    /// Who asked for the helper that has this pid and ran at this time (nanoseconds of `CLOCK_MONOTONIC`); `None` where
    /// the kernel did not say so, or it was lost.
    pub fn asker(&self, helper: u32, time: u64) -> Option<Asker> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.buffer.resize(self.layout.page, 0);
        let rings = std::mem::take(&mut state.rings);
        for ring in &rings {
            state.drain(ring, self.layout);
        }
        state.rings = rings;
        state.asker(helper, time)
    }

    /// Watches no more, and leaves nothing behind.
    fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // An instance with open files stays.
        state.rings.clear();
        self.tracefs.clear(&self.name);
    }

    /// How often events were written over before they were read, since the beginning.
    pub fn lost(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lost
    }
}

fn invalid(file: &str) -> TraceError {
    TraceError {
        step: file.to_owned(),
        errno: Errno::EINVAL,
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    /// Takes everything that is in a ring now: at most as many pages as can be there, and as many again.
    fn drain(&mut self, mut ring: &File, layout: Layout) {
        for _ in 0..64 {
            let length = match ring.read(&mut self.buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return, // EAGAIN: nothing more
            };
            let page = ringpage::page(self.buffer.get(..length).unwrap_or_default());
            self.lost += u64::from(page.lost);
            for (time, event) in page.events {
                self.seen.extend(layout.seen(time, event));
            }
            let over = self.seen.len().saturating_sub(REMEMBERED);
            self.seen.drain(..over);
        }
    }

    /// The newest start of this pid, and the newest request before it for the same.
    fn asker(&self, helper: u32, time: u64) -> Option<Asker> {
        let last = |before: u64, of: &dyn Fn(&Seen) -> bool| {
            let fresh = |event: &&Seen| {
                let age = before.checked_sub(event.time);
                of(event) && age.is_some_and(|age| age < FRESH)
            };
            let seen = self.seen.iter().filter(fresh);
            seen.max_by_key(|event| event.time).copied()
        };
        let begun = last(time, &|event| {
            event.wait.is_none() && event.thread == helper
        })?;
        let asked = last(begun.time, &|event| {
            event.wait.is_some() && event.sub == begun.sub
        })?;
        // That was another start's: our request was overwritten, and its memory had been used before.
        let between = |event: &Seen| {
            event.wait.is_none()
                && event.sub == begun.sub
                && event.thread != begun.thread
                && (asked.time..begun.time).contains(&event.time)
        };
        if self.seen.iter().any(between) {
            return None;
        }
        Some(Asker {
            thread: asked.thread,
            waits: asked.wait? & WAIT_PROC != 0,
        })
    }
}

impl Layout {
    fn seen(self, time: u64, event: &[u8]) -> Option<Seen> {
        let kind = event.get(self.kind..self.kind.checked_add(2)?)?;
        let kind = u16::from_ne_bytes(kind.try_into().ok()?);
        let sub = |of: Event| ringpage::long(event, of.sub);
        let (sub, wait) = if kind == self.asked.id {
            (sub(self.asked)?, Some(ringpage::word(event, self.wait)?))
        } else if kind == self.begun.id {
            (sub(self.begun)?, None)
        } else {
            return None;
        };
        Some(Seen {
            time,
            thread: ringpage::word(event, self.thread)?,
            sub,
            wait,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(time: u64, thread: u32, sub: u64, wait: Option<u32>) -> Seen {
        Seen {
            time,
            thread,
            sub,
            wait,
        }
    }

    #[test]
    fn two_who_ask_for_the_same_are_told_apart_and_memory_is_used_again() {
        let state = State {
            // In the order in which two processors' rings are read.
            seen: VecDeque::from([
                seen(10, 100, 0xa, Some(6)),
                seen(30, 101, 0xa, Some(5)),
                seen(12, 200, 0xb, Some(6)),
                seen(20, 1000, 0xa, None),
                seen(21, 1001, 0xb, None),
                seen(40, 1002, 0xa, None),
            ]),
            ..State::default()
        };
        let asker = |thread, waits| Some(Asker { thread, waits });
        assert_eq!(state.asker(1000, 50), asker(100, true));
        assert_eq!(state.asker(1001, 50), asker(200, true));
        assert_eq!(state.asker(1002, 50), asker(101, false));
        assert_eq!(state.asker(7, 50), None);
    }

    #[test]
    fn a_start_whose_request_was_overwritten_is_not_its_predecessors() {
        let state = State {
            seen: VecDeque::from([
                seen(10, 100, 0xa, Some(5)),
                seen(20, 1000, 0xa, None),
                seen(40, 1002, 0xa, None),
            ]),
            ..State::default()
        };
        let first = Some(Asker {
            thread: 100,
            waits: false,
        });
        assert_eq!(state.asker(1000, 50), first);
        assert_eq!(state.asker(1002, 50), None);
    }

    #[test]
    fn a_start_whose_request_was_lost_has_nobodys() {
        let state = State {
            seen: VecDeque::from([
                seen(10, 100, 0xa, Some(6)),
                seen(20 + FRESH, 1000, 0xa, None),
            ]),
            ..State::default()
        };
        assert_eq!(state.asker(1000, 21 + FRESH), None);
    }
}
