//! What /proc says about a process, some of it in a tenant's own words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use upcalld::linux::parse::{IdMap, Stat, Status, cgroups, field, limits};

fuzz_target!(|data: &[u8]| {
    drop(Status::parse(data));
    let _ = Stat::parse(data);
    let _ = limits(data);
    let _ = field(data, b"Uid");
    if let Some(lines) = cgroups(data) {
        assert!(lines.iter().all(|line| line.path.first() == Some(&b'/')));
    }
    if let Some(map) = IdMap::parse(data) {
        for outside in [0, 1, 65_534, u32::MAX] {
            if let Some(inside) = map.inside(outside) {
                // Overlapping lines, which no kernel writes, may lead elsewhere; there and back is always possible.
                assert!(map.outside(inside).is_some());
            }
        }
    }
});
