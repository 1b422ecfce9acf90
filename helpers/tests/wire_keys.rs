//! The records of the key hook: what is written is read again, released ones stay readable, and no cut hurts.

#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has failed, and says where"
)]

mod golden;

use upcall_helpers::wire::{
    Answered, DecodeError, Enter, Event, FdRole, Hook, KEY_WORDS, KeyRequest, KeyWork, Launch,
    NamespaceId, PAYLOAD_MAX, Place, RLIMITS, Report, Request, RequestFd, Rlimit, Task, Verdict,
};

fn request() -> Request {
    Request {
        hook: Hook::Key,
        argv: KEY_WORDS
            .iter()
            .map(|word| word.as_bytes().to_vec())
            .collect(),
        fds: Vec::new(),
        started: 7,
        id: Some(*b"k3m9q0tz"),
        key: Some(KeyRequest {
            authorisation: b"1b22c7d1 I--Q--- 1 perm 1b010000 0 0 .request_ key:7 pid:9 ci:1"
                .to_vec(),
            described: b"user;0;0;3f010000;a;b".to_vec(),
            callout: (0..=255).collect(),
            thread_keyring: Some(b"keyring;0;0;1f030000;.dns_resolver".to_vec()),
        }),
    }
}

fn beside() -> Launch {
    Launch {
        id: b"k3m9q0tz".to_vec(),
        slot: 0,
        fds: vec![FdRole::Leader, FdRole::Cgroup, FdRole::Stdin],
        task: Task::Enter(Box::new(Enter {
            place: Place::Beside,
            argv: vec![b"/sbin/key.dns_resolver".to_vec(), b"7".to_vec()],
            env: Vec::new(),
            leader: 4711,
            join: 0x4000_0000,
            namespaces: [NamespaceId::default(); 8],
            uid: 61_184,
            gid: 61_184,
            groups: Vec::new(),
            capabilities: 0,
            label: Vec::new(),
            limits: [Rlimit { soft: 1, hard: 1 }; RLIMITS],
            cgroups_v1: Vec::new(),
            memory: None,
            progress: 10_000,
            output: 4096,
            key: Some(KeyWork {
                serial: 7,
                authority: true,
            }),
            files: vec![b"/etc/resolv.conf".to_vec()],
            reader: [300_000, 300_001],
            origin: None,
            ready: false,
            in_all: true,
        })),
    }
}

fn verdicts() -> [(&'static str, Verdict); 5] {
    [
        (
            "verdict-pass",
            Verdict::Pass {
                deadline: 9,
                capabilities: u64::MAX,
            },
        ),
        (
            "verdict-pass-limited",
            Verdict::Pass {
                deadline: 0,
                capabilities: 1 << 16,
            },
        ),
        (
            "verdict-answer",
            Verdict::Answer {
                payload: b"a\0b".to_vec(),
                ttl: 5000,
            },
        ),
        (
            "verdict-run-here",
            Verdict::RunHere {
                launch: beside().encode().unwrap(),
                deadline: 10_000,
                prints: None,
            },
        ),
        (
            "verdict-run-here-prints",
            Verdict::RunHere {
                launch: b"x".to_vec(),
                deadline: 10_000,
                prints: Some(5000),
            },
        ),
    ]
}

fn answered() -> Report {
    Report {
        id: b"k3m9q0tz".to_vec(),
        slot: 0,
        time: 9,
        event: Event::Answered {
            how: Answered::Rejected,
            errno: 110,
        },
    }
}

#[test]
fn what_is_released_is_read_again() {
    let read = |name: &str, record: Vec<u8>| golden::released(name, &record);
    let record = read("request-key", request().encode().unwrap());
    assert_eq!(Request::decode(&record, 0), Ok(request()));
    let record = read("launch-beside", beside().encode().unwrap());
    assert_eq!(Launch::decode(&record, 3), Ok(beside()));
    let record = read("report-answered", answered().encode().unwrap());
    assert_eq!(Report::decode(&record), Ok(answered()));
    for (name, verdict) in verdicts() {
        let record = read(name, verdict.encode().unwrap());
        assert_eq!(Verdict::decode(&record), Ok(verdict), "{name}");
    }
}

#[test]
fn what_is_cut_off_is_refused() {
    for length in 0..request().encode().unwrap().len() {
        let record = request().encode().unwrap();
        assert!(Request::decode(record.get(..length).unwrap(), 0).is_err());
    }
    for (name, verdict) in verdicts() {
        let record = verdict.encode().unwrap();
        for length in 0..record.len() {
            assert!(
                Verdict::decode(record.get(..length).unwrap()).is_err(),
                "{name}"
            );
        }
    }
}

#[test]
fn a_key_goes_with_its_hook_and_with_no_other() {
    let core = Request {
        hook: Hook::Core,
        fds: vec![RequestFd::Stdin],
        ..request()
    };
    let decoded = Request::decode(&core.encode().unwrap(), 1);
    assert!(matches!(decoded, Err(DecodeError::Tag(_))), "{decoded:?}");
    let without = Request {
        key: None,
        ..request()
    };
    let decoded = Request::decode(&without.encode().unwrap(), 0);
    assert!(
        matches!(decoded, Err(DecodeError::Missing(_))),
        "{decoded:?}"
    );
}

#[test]
fn what_is_over_its_limit_is_not_sent() {
    let answer = |length| Verdict::Answer {
        payload: vec![0; length],
        ttl: 0,
    };
    assert!(answer(PAYLOAD_MAX).encode().is_ok());
    assert!(answer(PAYLOAD_MAX + 1).encode().is_err());
    let mut long = request();
    long.key = Some(KeyRequest {
        callout: vec![0; 4097],
        ..KeyRequest::default()
    });
    assert!(long.encode().is_err());
}
