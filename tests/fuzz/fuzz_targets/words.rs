//! Words of the kernel: lines of /proc/keys, descriptions of keys, core_pattern.
#![no_main]

use libfuzzer_sys::fuzz_target;
use upcalld::hooks::pattern::Pattern;
use upcalld::linux::keys::{Authorisation, Described};

fuzz_target!(|data: &[u8]| {
    for line in data.split(|byte| *byte == b'\n') {
        let _ = Authorisation::parse(line);
    }
    if let Some(described) = Described::parse(data) {
        assert!(data.ends_with(&described.description) && data.starts_with(&described.kind));
    }
    if let Ok(text) = str::from_utf8(data) {
        // What stands in core_pattern is put back as it stood.
        assert_eq!(Pattern::parse(text).text(), text.trim_end_matches('\n'));
    }
});
