//! Who made the kernel start a usermode helper. The kernel tells the helper nothing, but two of its functions know:
//! `call_usermodehelper_exec` runs in the thread that wants one, `call_usermodehelper_exec_async` in the process that
//! becomes it, and both get the same `struct subprocess_info` (kernel/umh.c). A kprobe event on each, in an instance of
//! tracefs that is ours alone, joins the one to the other, exactly, also where two ask for the same.
//!
//! Nothing of the structure is looked into, so no offset of it need be known. Both events are in the ring before the
//! helper's first instruction: so it is read when a helper asks, and at no other time. What nobody asks about is
//! written over by the kernel.

mod events;
mod tracefs;

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::libc;

use super::{ringpage, sys};
use events::{Event, Layout, State};
use tracefs::{at, invalid};

pub use events::Asker;
pub use tracefs::{TraceError, Tracefs};

/// What of the instance is kept for each processor, in KiB: some hundred requests, the newest.
const BUFFER_KIB: &str = "16";

/// Has the kernel look for a file system of this name; where it has none, it asks for the module `fs-NAME`. Changes
/// nothing; needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// As fsopen(2): `ENODEV` where the module has brought none.
pub fn want_file_system(name: &std::ffi::CStr) -> Result<(), Errno> {
    sys::open_file_system(name).map(drop)
}

/// The watching, which begins where it is wanted.
#[derive(Debug)]
pub struct Watch {
    name: String,
    tracefs: Mutex<Option<Result<Tracefs, TraceError>>>,
    requests: OnceLock<Result<Requests, TraceError>>,
}

/// The two events.
#[derive(Debug)]
pub struct Requests {
    tracefs: Tracefs,
    name: String,
    layout: Layout,
    state: Mutex<State>,
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

impl Drop for Requests {
    fn drop(&mut self) {
        self.end();
    }
}
