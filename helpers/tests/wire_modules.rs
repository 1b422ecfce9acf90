//! The record of the module hook: what is written is read again, a released one stays readable, and it brings no key.

#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has failed, and says where"
)]

mod golden;

use upcall_helpers::wire::{Hook, Request};

#[test]
fn a_request_for_a_module_is_read_again() {
    let request = Request {
        hook: Hook::Module,
        argv: [b"-q".as_slice(), b"--", b"fs-\xff\n"]
            .map(<[u8]>::to_vec)
            .to_vec(),
        fds: Vec::new(),
        started: 7,
        id: Some(*b"k3m9q0tz"),
        key: None,
    };
    let record = request.encode().unwrap();
    let released = golden::released("request-module", &record);
    assert_eq!(Request::decode(&released, 0).unwrap(), request);
    assert!(Request::decode(&released, 1).is_err());
}
