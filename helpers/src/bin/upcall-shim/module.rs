//! The module hook: `kernel.modprobe`, started as `modprobe -q -- ALIAS` (kernel/module/kmod.c, `call_modprobe`).
//!
//! Whoever made the kernel want the module waits, and so, behind fifty of them, does the whole host: the answer comes
//! within 50 milliseconds (`deadline_ms` in the hook's file) or it is a refusal. What goes on is the host's own modprobe
//! with the kernel's words and environment, in this very process. Only where nobody listens at all the hook's file
//! decides.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::stat;
use upcall_helpers::clock::monotonic;
use upcall_helpers::seqpacket;
use upcall_helpers::wire::{Event, Hook, Report, Request, Stage, Verdict};

use crate::{FAILURE, hook, link, run};

/// Answers one request for a module.
pub(crate) fn serve(mut words: Vec<Vec<u8>>) -> u8 {
    let started = monotonic();
    let hook = hook::file(&mut words, "module");
    if is_own(&hook.program) {
        return FAILURE; // it would start itself without end
    }
    let mut previous = vec![hook.program.as_os_str().as_bytes().to_vec()];
    previous.extend(words.iter().cloned());
    if !matches!(words.as_slice(), [quiet, end, _] if quiet == b"-q" && end == b"--") {
        // Somebody tries out what stood before us, by our name.
        return run::become_previous(&previous);
    }
    let id = hook::new_id();
    let request = Request {
        hook: Hook::Module,
        argv: words,
        fds: Vec::new(),
        started,
        id: Some(id),
        key: None,
    };
    let answer = match link::ask(&hook, &request, &[]) {
        Ok(answer) => answer,
        Err(Errno::ENOENT | Errno::ECONNREFUSED) if !hook.refuse => {
            return run::become_previous(&previous);
        }
        // Late, or it has ended meanwhile: that is no leave to do more than it would have.
        Err(_) => return FAILURE,
    };
    let Verdict::Pass { .. } = answer.verdict else {
        return FAILURE;
    };
    let tell = |event: Event| {
        let time = monotonic();
        let report = Report {
            id: id.to_vec(),
            slot: 0,
            time,
            event,
        };
        let report = report.encode().unwrap_or_default();
        seqpacket::send(answer.socket.as_fd(), &report, &[])
    };
    // One that cannot be told has given up on us; the requester need not.
    let pid = std::process::id();
    let _ = tell(Event::Started { pid });
    let status = run::become_previous(&previous);
    let errno = Errno::last() as u32;
    let stage = Stage::Exec;
    let _ = tell(Event::Failed { stage, errno });
    status
}

/// Whether this is our own program.
fn is_own(program: &Path) -> bool {
    let file = |path: &Path| stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    let own = file(Path::new("/proc/self/exe"));
    own.is_ok() && own == file(program)
}
