//! What is said to a receiver.

use super::*;

const FIELDS: [&[u8]; 9] = [
    b"id=r1",
    b"pid=7",
    b"uid=0",
    b"gid=0",
    b"signal=11",
    b"time=1800000000",
    b"limit=18446744073709551615",
    b"dumpable=1",
    b"comm=a=b\xff",
];

#[test]
fn systemd_gets_the_fields_that_it_cannot_do_without() {
    let messages = systemd::messages(&FIELDS, b"box").unwrap();
    let text = |message: &Vec<u8>| message.escape_ascii().to_string();
    let texts: Vec<String> = messages.iter().map(text).collect();
    assert_eq!(
        texts,
        [
            // What coredumpctl finds it by.
            "MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1",
            "PRIORITY=2",
            "COREDUMP_FORWARDED=1",
            "COREDUMP_PID=7",
            "COREDUMP_UID=0",
            "COREDUMP_GID=0",
            "COREDUMP_SIGNAL=11",
            "COREDUMP_TIMESTAMP=1800000000000000",
            "COREDUMP_RLIMIT=18446744073709551615",
            "COREDUMP_COMM=a=b\\xff",
            "COREDUMP_DUMPABLE=1",
            "COREDUMP_SIGNAL_NAME=SIGSEGV",
            "COREDUMP_HOSTNAME=box",
        ]
    );
    assert_eq!(systemd::messages(&FIELDS[..3], b""), Err(Errno::ENODATA));
}

#[test]
fn a_process_that_wanted_no_core_is_known_by_its_limit() {
    assert!(wanted_none(&[b"limit=0"]) && wanted_none(&[b"limit=4095"]));
    for other in [&b"limit=4096"[..], b"limit=", b"limit=-1", b"limits=0"] {
        assert!(!wanted_none(&[other]));
    }
    assert!(!wanted_none(&FIELDS));
}

#[test]
fn ours_is_one_record() {
    let delivery = Delivery {
        protocol: Protocol::Upcalld,
        timeout: Duration::from_secs(1),
        fields: &FIELDS[..2],
    };
    let messages = delivery.messages().unwrap();
    assert_eq!(messages, [b"version=1\0kind=core\0id=r1\0pid=7\0".to_vec()]);
}

#[test]
fn what_a_pipe_has_left_tells_whether_anything_was_taken() {
    let (read, write) = nix::unistd::pipe().unwrap();
    assert!(!has_ended(&read));
    nix::unistd::write(&write, b"\x7fELF and more").unwrap();
    assert!(begins(&read) && !is_drained(&read).unwrap());
    drop(write);
    assert!(has_ended(&read) && !is_drained(&read).unwrap());
    assert!(is_untouched(&read));
    // Four bytes of it are gone now.
    assert!(!is_untouched(&read));
    let mut rest = [0; 64];
    nix::unistd::read(&read, &mut rest).unwrap();
    assert!(is_drained(&read).unwrap());
    assert!(!begins(&read));
}
