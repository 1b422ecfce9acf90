//! What happens when somebody ends a test or the demo from outside, and leases: the harness's only unsafe.

#![expect(
    unsafe_code,
    reason = "signal handlers, leases, descriptors, limits; the harness's other modules are without"
)]

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Signals by which people and programs end what runs in front of them.
const ENDS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static SETTLED: AtomicBool = AtomicBool::new(false);

/// Files that are to say again what they said, in this order.
type Saved = Vec<(&'static CStr, Vec<u8>)>;

static SAVED: OnceLock<Saved> = OnceLock::new();

/// From here on SIGINT, SIGTERM and SIGHUP do not end this process; [`interrupted`] tells of them.
///
/// # Errors
/// As sigaction(2).
pub fn note_interrupts() -> Result<(), Errno> {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    handle(note)
}

/// Whether one of them came.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed) && !SETTLED.load(Ordering::Relaxed)
}

/// Whether one of them came; from here on none is told of, so that what has to be cleared away can be waited for.
pub fn settle() -> bool {
    SETTLED.store(true, Ordering::Relaxed);
    INTERRUPTED.load(Ordering::Relaxed)
}

/// From here on SIGINT, SIGTERM and SIGHUP write these files before they end this process.
///
/// # Errors
/// As sigaction(2).
pub(crate) fn write_at_the_end(saved: Saved) -> Result<(), Errno> {
    extern "C" fn write(signal: libc::c_int) {
        for (path, text) in SAVED.get().into_iter().flatten() {
            rewrite(path, text);
        }
        end_by(signal);
    }
    drop(SAVED.set(saved));
    handle(write)
}

fn handle(handler: extern "C" fn(libc::c_int)) -> Result<(), Errno> {
    let handler = SigHandler::Handler(handler);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    for signal in ENDS {
        // SAFETY: both handlers do only what signal-safety(7) allows: atomics, open, write, close, signal, raise.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Writes a file by system calls alone.
fn rewrite(path: &CStr, text: &[u8]) {
    // SAFETY: open reads a path that ends in NUL.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    // SAFETY: write reads as many bytes as the slice has; a bad descriptor is refused.
    unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
    // SAFETY: close takes a number, and this one is nobody else's.
    unsafe { libc::close(fd) };
}

/// Ends this process as the signal would have.
fn end_by(signal: libc::c_int) {
    // SAFETY: signal with SIG_DFL installs no code.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: raise takes a number.
    unsafe { libc::raise(signal) };
}

/// include/uapi/asm-generic/fcntl.h; libc has none.
const F_SETSIG: libc::c_int = 10;

/// A lease on a file (fcntl(2), `F_SETLEASE`): whoever opens it, to execute it also, waits until this is dropped, for as
/// long as fs.lease-break-time (45 s) allows.
#[derive(Debug)]
pub struct Lease(File);

impl Lease {
    /// Takes it: nobody else has the file open.
    ///
    /// # Errors
    /// As open(2), fcntl(2).
    pub fn take(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // Its signal when somebody waits: one that nobody minds. SIGIO would end this process.
        control(&file, F_SETSIG, libc::SIGURG)?;
        control(&file, libc::F_SETLEASE, libc::F_WRLCK)?;
        Ok(Self(file))
    }

    /// Whether somebody waits: the lease is then not what it was.
    pub fn waited_for(&self) -> bool {
        control(&self.0, libc::F_GETLEASE, 0).is_ok_and(|kind| kind != libc::F_WRLCK)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = control(&self.0, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn control(file: &File, what: libc::c_int, number: libc::c_int) -> Result<libc::c_int, Errno> {
    // SAFETY: these commands of fcntl take a number.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), what, number) })
}

/// Sets how many descriptors a process may have, at once; returns how many it might have had. The soft limit, which is
/// what counts and what may be raised again.
///
/// # Errors
/// As prlimit(2).
pub fn limit_descriptors(pid: u32, limit: u64) -> Result<u64, Errno> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let mut former = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let none = std::ptr::null();
    // SAFETY: prlimit sets nothing from a null pointer, and writes one rlimit, which lives here.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, none, &raw mut former) };
    Errno::result(result)?;
    let limit = libc::rlimit {
        rlim_cur: limit,
        ..former
    };
    let none = std::ptr::null_mut();
    // SAFETY: prlimit reads one rlimit, which lives here, and writes none to a null pointer.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, none) };
    Errno::result(result)?;
    Ok(former.rlim_cur)
}

/// The next connection: accept4(2).
///
/// # Errors
/// As accept4(2).
pub fn accept(listener: &OwnedFd) -> Result<OwnedFd, Errno> {
    let fd = nix::sys::socket::accept4(
        listener.as_raw_fd(),
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    )?;
    // SAFETY: the kernel has just made it, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
