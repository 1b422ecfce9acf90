//! A core, and a file that is said to have been mapped in it: both a tenant's bytes.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use upcall_helpers::promise::Promise;
use upcalld::corefile::{Core, Files, Mapped, Stream};

/// The same file for every path.
struct One(Vec<u8>);

impl Files for One {
    fn open(&mut self, _: &[u8]) -> Option<Box<dyn Mapped>> {
        Some(Box::new(Cursor::new(self.0.clone())))
    }
}

/// Where the file begins: the first four bytes say it.
fn parts(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (at, rest) = data.split_first_chunk::<4>()?;
    let at = usize::try_from(u32::from_le_bytes(*at)).ok()?;
    rest.split_at_checked(at)
}

/// What the core has of the file is what the file is now: one that is not the same is not looked at.
fn agreeing(core: &[u8], file: &[u8]) -> Vec<u8> {
    let mut core = core.to_vec();
    let behind = core.get_mut(64..).unwrap_or_default();
    if let Some(at) = behind.windows(4).position(|word| word == b"\x7fELF") {
        let page = behind[at..].iter_mut().take(4096);
        page.zip(file).for_each(|(known, now)| *known = *now);
    }
    core
}

/// What a core promises is the same in whatever parts it comes.
fn promised(core: &[u8]) {
    let mut whole = Promise::default();
    whole.see(core);
    for length in [1, 7, 64] {
        let mut parts = Promise::default();
        core.chunks(length).for_each(|part| parts.see(part));
        assert_eq!(
            (parts.length(), parts.is_settled()),
            (whole.length(), whole.is_settled())
        );
    }
}

fuzz_target!(|data: &[u8]| {
    let (core, file) = parts(data).unwrap_or((data, &[]));
    promised(core);
    if let Ok(mut core) = Core::read(&mut Stream(&*agreeing(core, file))) {
        core.walk(&mut One(file.to_vec()));
        let crash = core.crash;
        assert!(crash.frames.len() <= 256 && crash.modules.len() <= 4096);
        let mut names = crash
            .frames
            .iter()
            .filter_map(|frame| frame.symbol.as_ref());
        assert!(names.all(|name| name.len() <= 4 * 256));
    }
});
