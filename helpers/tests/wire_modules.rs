//! The records of the module hook and of other programs of the kernel's: what is written is read again, a released one
//! stays readable, and it brings no key.

#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has failed, and says where"
)]

mod golden;

use upcall_helpers::wire::{Hook, Request};

fn is_read_again(name: &str, hook: Hook, words: [&[u8]; 3]) {
    let request = Request {
        hook,
        argv: words.map(<[u8]>::to_vec).to_vec(),
        fds: Vec::new(),
        started: 7,
        id: Some(*b"k3m9q0tz"),
        key: None,
    };
    let record = request.encode().unwrap();
    let released = golden::released(name, &record);
    assert_eq!(Request::decode(&released, 0).unwrap(), request);
    assert!(Request::decode(&released, 1).is_err());
}

#[test]
fn a_request_for_a_module_is_read_again() {
    is_read_again("request-module", Hook::Module, [b"-q", b"--", b"fs-\xff\n"]);
}

#[test]
fn a_request_for_a_helper_is_read_again() {
    let words: [&[u8]; 3] = [b"release_agent", b"", b"/docker/3f9c/\xff\n"];
    is_read_again("request-umh", Hook::Umh, words);
}
