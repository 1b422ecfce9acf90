//! Any other program that the kernel starts by itself: where we are in its place, one by one, or where the kernel starts us
//! for all of them (`CONFIG_STATIC_USERMODEHELPER`) with the program that it wanted as `argv[0]`.
//!
//! Who can make the kernel start what is not always the host: a container that is let set a release agent names any
//! program of the host's. So without a daemon only what the kernel is known to start goes on, with the words that it is
//! known to have. What switches a machine off goes on unless it is refused.

use std::os::unix::ffi::OsStrExt;

use upcall_helpers::clock::monotonic;
use upcall_helpers::hookfile::HookFile;
use upcall_helpers::umh::{Look, POWEROFF, look};
use upcall_helpers::wire::{Hook, KEY_WORDS, Request};

use crate::becoming::{self, Wanted};
use crate::{FAILURE, hook, key, module};

/// The names that we stand in for, and what each then goes by.
const LINKS: [(&[u8], &str); 5] = [
    (b"release_agent", "release_agent"),
    (b"uevent_helper", "uevent_helper"),
    (b"bridge-stp", "/sbin/bridge-stp"),
    (b"nfsdcltrack", "/sbin/nfsdcltrack"),
    (b"nfs_cache_getent", "/sbin/nfs_cache_getent"),
];

/// What the kernel splits and starts for an orderly end of the machine (kernel/reboot.c).
const POWEROFF_SETTING: &str = "/proc/sys/kernel/poweroff_cmd";

/// Where the kernel keeps what it starts for modules.
const MODPROBE_SETTING: &str = "/proc/sys/kernel/modprobe";

/// What a link of this name goes by; `None`: it is none of ours.
pub(crate) fn link(name: &[u8]) -> Option<&'static str> {
    let mut links = LINKS.iter();
    links
        .find(|(link, _)| *link == name)
        .map(|(_, goes_by)| *goes_by)
}

/// In the place of one program: the hook's file says what stood there before.
pub(crate) fn serve_link(goes_by: &str, mut words: Vec<Vec<u8>>) -> u8 {
    let name = goes_by.rsplit('/').next().unwrap_or(goes_by);
    let hook = hook::file(&mut words, name);
    let program = hook.program.as_os_str().as_bytes().to_vec();
    if becoming::is_own(&program) {
        return FAILURE;
    }
    ask(&hook, goes_by.as_bytes(), &program, words)
}

/// For all programs: `program` is the one that the kernel wanted.
pub(crate) fn serve_any(program: &[u8], words: Vec<Vec<u8>>) -> u8 {
    let umh = || hook::standard("umh");
    // We ourselves, whom somebody has named who may name any program: that is asked about, and nothing is to become.
    if !program.starts_with(b"/") || becoming::is_own(program) {
        return ask(&umh(), program, b"", words);
    }
    let is_key = words.len() == KEY_WORDS.len() && words.first().is_some_and(|w| w == b"create");
    if program == b"/sbin/request-key" && is_key {
        return key::serve(words, Some(program));
    }
    if module::are_the_kernels(&words) && setting(MODPROBE_SETTING) == [program] {
        return module::serve(words, Some(program));
    }
    let asked: Vec<&[u8]> = std::iter::once(program)
        .chain(words.iter().map(Vec::as_slice))
        .collect();
    if setting(POWEROFF_SETTING) == asked {
        return ask(&umh(), POWEROFF.as_bytes(), program, words);
    }
    ask(&umh(), program, program, words)
}

fn ask(hook: &HookFile, goes_by: &[u8], program: &[u8], words: Vec<Vec<u8>>) -> u8 {
    let started = monotonic();
    let known = match look(goes_by, program, &words) {
        Look::Known(known) => Some(known),
        Look::Odd | Look::Unknown => None,
    };
    let id = hook::new_id();
    let first = [goes_by.to_vec(), program.to_vec()];
    let argv = std::iter::once(program.to_vec()).chain(words.iter().cloned());
    becoming::ask(&Wanted {
        alone: known.is_some() && !hook.refuse,
        always: known.is_some_and(|known| known.fail_open),
        hook,
        id,
        argv: argv.collect(),
        request: Request {
            hook: Hook::Umh,
            argv: first.into_iter().chain(words).collect(),
            fds: Vec::new(),
            started,
            id: Some(id),
            key: None,
        },
    })
}

/// The words of one of the kernel's settings.
fn setting(path: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read(path).unwrap_or_default();
    let words = text.split(u8::is_ascii_whitespace);
    words
        .filter(|word| !word.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}
