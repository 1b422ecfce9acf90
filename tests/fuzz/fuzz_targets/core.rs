//! A core, and a file that is said to have been mapped in it: both a tenant's bytes.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use upcalld::corefile::{Files, Mapped, Stream, read};

/// Half of the bytes, for every path.
struct One(Vec<u8>);

impl Files for One {
    fn open(&mut self, _: &[u8]) -> Option<Box<dyn Mapped>> {
        Some(Box::new(Cursor::new(self.0.clone())))
    }
}

fuzz_target!(|data: &[u8]| {
    let (core, file) = data.split_at(data.len().min(4096));
    let _ = read(&mut Stream(core), &mut One(file.to_vec()));
    if let Ok(crash) = read(&mut Stream(data), &mut One(Vec::new())) {
        assert!(crash.frames.len() <= 256 && crash.modules.len() <= 4096);
    }
});
