//! The module hook: `kernel.modprobe`, started as `modprobe -q -- ALIAS` (kernel/module/kmod.c, `call_modprobe`).
//!
//! Whoever made the kernel want the module waits, and so, behind fifty of them, does the whole host: the answer comes
//! within 50 milliseconds (`deadline_ms` in the hook's file) or it is a refusal. What goes on is the host's own modprobe.
//! Only where nobody listens at all the hook's file decides.

use std::os::unix::ffi::OsStrExt;

use upcall_helpers::clock::monotonic;
use upcall_helpers::wire::{Hook, Request};

use crate::becoming::{self, Wanted};
use crate::{FAILURE, hook, run};

/// Answers one request for a module. `modprobe`: what the kernel wanted to start, where it starts us in any case.
pub(crate) fn serve(mut words: Vec<Vec<u8>>, modprobe: Option<&[u8]>) -> u8 {
    let started = monotonic();
    let hook = match modprobe {
        None => hook::file(&mut words, "module"),
        Some(_) => hook::standard("module"),
    };
    let program = modprobe.unwrap_or(hook.program.as_os_str().as_bytes());
    if becoming::is_own(program) {
        return FAILURE;
    }
    let mut argv = vec![program.to_vec()];
    argv.extend(words.iter().cloned());
    if !are_the_kernels(&words) {
        // Somebody tries out what stood before us, by our name.
        return run::become_previous(&argv);
    }
    let id = hook::new_id();
    becoming::ask(&Wanted {
        alone: !hook.refuse,
        always: false,
        hook: &hook,
        id,
        request: Request {
            hook: Hook::Module,
            argv: words,
            fds: Vec::new(),
            started,
            id: Some(id),
            key: None,
        },
        argv,
    })
}

/// Whether the kernel asks for a module with these words.
pub(crate) fn are_the_kernels(words: &[Vec<u8>]) -> bool {
    matches!(words, [quiet, end, _] if quiet == b"-q" && end == b"--")
}
