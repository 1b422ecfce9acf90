//! The record of any other program of the kernel's: what is written is read again, and a released one stays readable.

#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has failed, and says where"
)]

mod golden;

use upcall_helpers::wire::{Hook, Request};

#[test]
fn a_request_for_a_helper_is_read_again() {
    let request = Request {
        hook: Hook::Umh,
        argv: [b"release_agent".as_slice(), b"", b"/docker/3f9c/\xff\n"]
            .map(<[u8]>::to_vec)
            .to_vec(),
        fds: Vec::new(),
        started: 7,
        id: Some(*b"k3m9q0tz"),
        key: None,
    };
    let record = request.encode().unwrap();
    let released = golden::released("request-umh", &record);
    assert_eq!(Request::decode(&released, 0).unwrap(), request);
    assert!(Request::decode(&released, 1).is_err());
}
