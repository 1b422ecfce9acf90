//! What the kernel says in its own binary form: process events, pages of a trace's ring buffer and the files that describe
//! them, questions about a core dump.
#![no_main]

use libfuzzer_sys::fuzz_target;
use upcalld::linux::connector::Event;
use upcalld::linux::coresock::{Answer, asked, said};
use upcalld::linux::ringpage;

/// What the kernel knows of `struct coredump_ack`'s mask (linux/coredump.h).
const KNOWN: u64 = 0xf;

fuzz_target!(|data: &[u8]| {
    let _ = Event::parse(data);
    let page = ringpage::page(data);
    let bytes: usize = page.events.iter().map(|(_, event)| event.len()).sum();
    assert!(bytes <= data.len(), "no byte is two events'");
    if let Ok(text) = str::from_utf8(data) {
        for name in ["data", "pid", "common_pid", "__probe_ip"] {
            if let Some(at) = ringpage::offset(text, name) {
                let _ = (ringpage::long(data, at), ringpage::word(data, at));
            }
        }
        let _ = ringpage::size(text);
    }
    if let Some(takes) = asked(data) {
        for answer in [Answer::Write, Answer::Hold, Answer::Reject] {
            let [.., a, b, c, d, e, f, g, h] = said(takes, answer);
            let mask = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
            assert!(mask != 0 && mask & !KNOWN == 0, "{answer:?}: {mask:x}");
            assert!(
                answer == Answer::Hold || mask & !takes == 0,
                "{answer:?}: {mask:x} of {takes:x}"
            );
        }
    }
});
