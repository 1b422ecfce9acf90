//! Words of the kernel: lines of /proc/keys, descriptions of keys, core_pattern; and what a program prints for a key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use upcall_helpers::keytype::payload;
use upcalld::hooks::pattern::Pattern;
use upcalld::linux::keys::{Authorisation, Described};

fuzz_target!(|data: &[u8]| {
    for line in data.split(|byte| *byte == b'\n') {
        let _ = Authorisation::parse(line);
    }
    if let Some(described) = Described::parse(data) {
        assert!(data.ends_with(&described.description) && data.starts_with(&described.kind));
    }
    for kind in [&b"dns_resolver"[..], b"id_resolver", b"cifs.spnego"] {
        if let Ok(payload) = payload(kind, b"uid:somebody", data) {
            assert!(!payload.is_empty() && payload.len() <= data.len() + 1);
            assert_eq!(
                payload.last() == Some(&0),
                kind != b"cifs.spnego" || data.trim_ascii_end().ends_with(b"\0")
            );
        }
    }
    if let Ok(text) = str::from_utf8(data) {
        // What stands in core_pattern is put back as it stood.
        assert_eq!(Pattern::parse(text).text(), text.trim_end_matches('\n'));
    }
});
