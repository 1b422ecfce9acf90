//! Paths of cgroups, which tenants name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use upcalld::resolve::names::{nominees, pod};

fuzz_target!(|data: &[u8]| {
    for nominee in nominees(data) {
        assert!(
            data.starts_with(nominee.root),
            "a container's root is a part of the path"
        );
        assert!(nominee.root.ends_with(nominee.component));
        assert!(!nominee.component.contains(&b'/') && !nominee.component.is_empty());
    }
    drop(pod(data));
});
