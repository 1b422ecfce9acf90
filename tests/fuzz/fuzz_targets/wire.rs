//! Records of the wire, whatever their bytes: no panic, and what is read is written the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use upcall_helpers::wire::{Launch, Report, Request, Spooled, Verdict, reports};
use upcalld::identify::core::CoreWords;
use upcalld::identify::past::Past;

fuzz_target!(|data: &[u8]| {
    let descriptors = data.len() % 16;
    if let Ok(request) = Request::decode(data, descriptors) {
        let again = request
            .encode()
            .expect("what was read is within its limits");
        assert_eq!(Request::decode(&again, descriptors), Ok(request));
    }
    if let Ok(launch) = Launch::decode(data, descriptors) {
        let again = launch.encode().expect("what was read is within its limits");
        assert_eq!(Launch::decode(&again, descriptors), Ok(launch));
    }
    if let Ok(verdict) = Verdict::decode(data) {
        assert_eq!(
            Verdict::decode(&verdict.encode().expect("short")),
            Ok(verdict)
        );
    }
    if let Ok(report) = Report::decode(data) {
        assert_eq!(
            Report::decode(&report.encode().expect("within its limits")),
            Ok(report)
        );
    }
    if let Ok((spooled, _)) = Spooled::decode_first(data) {
        if let Ok(words) = CoreWords::new(spooled.argv.clone()) {
            drop(Past::read(&words, &spooled, b"boot"));
        }
        assert_eq!(
            Spooled::decode(&spooled.encode().expect("within its limits")),
            Ok(spooled)
        );
    }
    drop(reports(data));
});
