//! The wire from outside: what is written is read again, released records stay readable, and no bytes can hurt.
//!
//! `helpers/tests/golden/NAME.hex` are records as this layout's first version wrote them. They are never rewritten: a
//! program that is older or newer than its peer must read them. A new kind of record gets a new file
//! (`UPDATE_GOLDEN=1 cargo test -p upcall-helpers`). `later-NAME.hex` are what a later version might write, made by hand.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, and says where"
)]

mod golden;

use std::path::PathBuf;

use upcall_helpers::wire::{
    CORE_WORDS, DecodeError, Enter, Event, Exec, FdRole, Hook, Launch, NamespaceId, Place,
    RECORD_MAX, RLIMITS, Report, Request, RequestFd, Rlimit, Seen, Spooled, Stage, Task, Verdict,
    WaitStatus, Why, reports,
};

fn request() -> Request {
    Request {
        hook: Hook::Core,
        argv: CORE_WORDS
            .iter()
            .map(|word| word.replace('%', "\u{ff}").into_bytes())
            .collect(),
        fds: vec![RequestFd::Stdin, RequestFd::Claim, RequestFd::Pidfd],
        started: 0x0102_0304_0506_0708,
        id: None,
        key: None,
    }
}

fn request_with_id() -> Request {
    Request {
        id: Some(*b"k3m9q0tz"),
        ..request()
    }
}

fn spooled() -> Spooled {
    Spooled {
        id: *b"k3m9q0tz",
        argv: request().argv,
        started: 7,
        time: 1_700_000_000_123_456,
        why: Why::Late,
        boot: b"0f0e0d0c-0000-4000-8000-000000000000".to_vec(),
        process: Seen {
            proven: true,
            stat: b"7 (a) S 1".to_vec(),
            status: b"Name:\ta\n".to_vec(),
            cgroup: b"0::/x\n".to_vec(),
            exe: b"/bin/a".to_vec(),
            namespaces: [1, 2, 3, 4, 5, 6, 7, 0],
        },
    }
}

fn enter() -> Launch {
    let mut namespaces = [NamespaceId::default(); 8];
    for (number, namespace) in (1..).zip(&mut namespaces) {
        *namespace = NamespaceId {
            dev: 4,
            ino: 4_026_531_840 + number,
        };
    }
    Launch {
        id: b"k3m9q0tz".to_vec(),
        slot: 0,
        fds: vec![
            FdRole::Leader,
            FdRole::Cgroup,
            FdRole::CgroupV1,
            FdRole::CgroupV1,
            FdRole::FreezerV1,
            FdRole::MemoryV1,
            FdRole::Stdin,
            FdRole::Claim,
            FdRole::Record,
            FdRole::Program,
        ],
        task: Task::Enter(Box::new(Enter {
            place: Place::Container,
            argv: vec![
                b"/on-crash".to_vec(),
                b"7".to_vec(),
                Vec::new(),
                vec![0xff, b' '],
            ],
            env: vec![b"PATH=/bin".to_vec()],
            leader: 4711,
            join: 0x7c02_0000,
            namespaces,
            uid: 33,
            gid: 34,
            groups: vec![35, 4_294_967_294],
            capabilities: 0x2000_04eb,
            label: b"apparmor\0docker-default".to_vec(),
            limits: [Rlimit {
                soft: 1,
                hard: u64::MAX,
            }; RLIMITS],
            cgroups_v1: vec![b"/lxc/web".to_vec(), b"/".to_vec()],
            origin: None,
            ready: false,
            in_all: false,
            memory: Some(1 << 28),
            progress: 30_000,
            output: 4096,
            key: None,
            files: Vec::new(),
            reader: [0; 2],
        })),
    }
}

/// A launch of our own program, as the process that crashed.
fn place() -> Launch {
    let mut launch = enter();
    launch.fds = vec![FdRole::Origin, FdRole::Cgroup, FdRole::Stdin];
    if let Task::Enter(enter) = &mut launch.task {
        (enter.place, enter.cgroups_v1) = (Place::User, Vec::new());
        (enter.origin, enter.ready) = (Some([4712, 4713]), true);
    }
    launch
}

fn exec() -> Launch {
    Launch {
        id: b"a".to_vec(),
        slot: 1,
        fds: vec![FdRole::Number(0), FdRole::Number(15), FdRole::Hold],
        task: Task::Exec(Exec {
            argv: vec![b"/bin/true".to_vec()],
            env: Vec::new(),
            reports: true,
        }),
    }
}

fn events() -> Vec<(&'static str, Event)> {
    vec![
        ("report-started", Event::Started { pid: 77 }),
        (
            "report-failed",
            Event::Failed {
                stage: Stage::Join,
                errno: 3,
            },
        ),
        (
            "report-ended",
            Event::Ended {
                status: WaitStatus::Signaled(11),
                timed_out: true,
                fed: 1 << 40,
                output: b"said\x1b".to_vec(),
            },
        ),
        (
            "report-stored",
            Event::Stored {
                size: 5,
                stored: 4,
                truncated: true,
                errno: 28,
            },
        ),
        (
            "report-gone",
            Event::Gone {
                status: WaitStatus::Exited(3),
            },
        ),
    ]
}

fn report(event: Event) -> Report {
    Report {
        id: b"k3m9q0tz".to_vec(),
        slot: 2,
        time: 9,
        event,
    }
}

/// Every kind of record there is, by the name of its file.
fn records() -> Vec<(&'static str, Vec<u8>)> {
    let mut records = vec![
        ("request-core", request().encode().unwrap()),
        ("request-core-id", request_with_id().encode().unwrap()),
        ("spooled", spooled().encode().unwrap()),
        ("verdict-done", Verdict::Done.encode().unwrap()),
        (
            "verdict-deny",
            Verdict::Deny {
                errno: 13,
                ttl: 1000,
            }
            .encode()
            .unwrap(),
        ),
        ("verdict-fallback", Verdict::Fallback.encode().unwrap()),
        ("launch-enter", enter().encode().unwrap()),
        ("launch-place", place().encode().unwrap()),
        ("launch-exec", exec().encode().unwrap()),
    ];
    records.extend(
        events()
            .into_iter()
            .map(|(name, event)| (name, report(event).encode().unwrap())),
    );
    records
}

/// Reads a record as whatever it is; says which kinds it could be.
fn read(record: &[u8]) -> Vec<String> {
    let mut kinds = Vec::new();
    for descriptors in 0..=12 {
        if let Ok(request) = Request::decode(record, descriptors) {
            kinds.push(format!("{request:?}"));
        }
        if let Ok(launch) = Launch::decode(record, descriptors) {
            kinds.push(format!("{launch:?}"));
        }
    }
    if let Ok(verdict) = Verdict::decode(record) {
        kinds.push(format!("{verdict:?}"));
    }
    if let Ok(report) = Report::decode(record) {
        kinds.push(format!("{report:?}"));
    }
    if let Ok(spooled) = Spooled::decode(record) {
        kinds.push(format!("{spooled:?}"));
    }
    drop(reports(record));
    kinds
}

#[test]
fn what_is_written_is_read_again() {
    let record = request().encode().unwrap();
    assert_eq!(Request::decode(&record, 3), Ok(request()));
    let record = request_with_id().encode().unwrap();
    assert_eq!(Request::decode(&record, 3), Ok(request_with_id()));
    let mut file = spooled().encode().unwrap();
    assert_eq!(Spooled::decode(&file), Ok(spooled()));
    file.extend(b"behind it");
    assert_eq!(
        Spooled::decode_first(&file),
        Ok((spooled(), &b"behind it"[..]))
    );
    for launch in [enter(), place(), exec()] {
        let record = launch.encode().unwrap();
        assert_eq!(Launch::decode(&record, launch.fds.len()), Ok(launch));
    }
    for verdict in [
        Verdict::Done,
        Verdict::Deny { errno: 1, ttl: 2 },
        Verdict::Fallback,
    ] {
        assert_eq!(Verdict::decode(&verdict.encode().unwrap()), Ok(verdict));
    }
    let mut file = Vec::new();
    for (_, event) in events() {
        let record = report(event.clone()).encode().unwrap();
        assert_eq!(Report::decode(&record), Ok(report(event)));
        file.extend(record);
    }
    let all: Vec<Report> = events()
        .into_iter()
        .map(|(_, event)| report(event))
        .collect();
    assert_eq!(reports(&file), all);
    file.truncate(file.len() - 1);
    assert_eq!(
        reports(&file),
        all[..all.len() - 1],
        "a report that was cut off is none"
    );
}

#[test]
fn released_records_stay_readable_and_are_still_written_so() {
    for (name, record) in records() {
        let golden = golden::released(name, &record);
        assert_eq!(
            read(&golden).len(),
            1,
            "{name} is exactly one kind of record"
        );
    }
}

#[test]
fn a_record_that_is_cut_off_anywhere_is_refused() {
    for (name, record) in records() {
        for length in 0..record.len() {
            assert_eq!(
                read(&record[..length]),
                Vec::<String>::new(),
                "{name} cut at {length}"
            );
        }
        let mut longer = record.clone();
        longer.push(0);
        assert_eq!(
            read(&longer),
            Vec::<String>::new(),
            "{name} with a byte too many"
        );
    }
}

#[test]
fn descriptors_must_be_those_that_the_record_names() {
    let record = request().encode().unwrap();
    for descriptors in [0, 1, 2, 4, 253] {
        assert_eq!(
            Request::decode(&record, descriptors),
            Err(DecodeError::Descriptors)
        );
    }
    let record = exec().encode().unwrap();
    assert_eq!(Launch::decode(&record, 4), Err(DecodeError::Descriptors));
    let mut twice = request();
    twice.fds = vec![RequestFd::Stdin, RequestFd::Stdin];
    assert!(
        Request::decode(&twice.encode().unwrap(), 2).is_err(),
        "two of one kind"
    );
    let mut many = request();
    many.fds = vec![RequestFd::Stdin; 33];
    assert!(many.encode().is_err(), "more than there may be");
}

#[test]
fn over_long_values_are_neither_written_nor_read() {
    let mut long = request();
    long.argv = vec![vec![b'x'; 4161]];
    assert!(long.encode().is_err());
    long.argv = vec![vec![]; 65];
    assert!(long.encode().is_err());
    let mut launch = enter();
    if let Task::Enter(enter) = &mut launch.task {
        enter.argv = vec![vec![b'x'; 4096]; 40];
    }
    assert!(launch.encode().is_err(), "over {RECORD_MAX} bytes");
    if let Task::Enter(enter) = &mut launch.task {
        enter.argv = vec![b"a\0b".to_vec()];
    }
    assert!(
        Launch::decode(&launch.encode().unwrap(), 9).is_err(),
        "a word with a NUL"
    );
}

#[test]
fn an_id_that_is_none_is_refused() {
    for wrong in [*b"../../et", *b"K3M9Q0TZ", *b"k3m9q0t\0"] {
        let mut request = request();
        request.id = Some(wrong);
        assert!(Request::decode(&request.encode().unwrap(), 3).is_err());
        let mut spooled = spooled();
        spooled.id = wrong;
        assert!(Spooled::decode(&spooled.encode().unwrap()).is_err());
    }
}

/// Puts a field into a record, at its place in the order of tags.
fn with_field(record: &[u8], tag: u16, value: &[u8]) -> Vec<u8> {
    let mut result = record.to_vec();
    result.extend(tag.to_le_bytes());
    result.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
    result.extend(value);
    let length = u32::try_from(result.len()).unwrap();
    result[8..12].copy_from_slice(&length.to_le_bytes());
    result
}

#[test]
fn a_later_versions_field_is_skipped_only_where_it_may_be() {
    let record = request().encode().unwrap();
    let optional = with_field(&record, 0x8701, b"from the future");
    assert_eq!(Request::decode(&optional, 3), Ok(request()));
    let needed = with_field(&record, 0x0701, b"");
    assert_eq!(Request::decode(&needed, 3), Err(DecodeError::Tag(0x0701)));
    let mut newer = record.clone();
    newer[4] = 2;
    assert_eq!(Request::decode(&newer, 3), Err(DecodeError::Version(2)));
    let repeated = with_field(&record, 4, &[0; 8]);
    assert_eq!(
        Request::decode(&repeated, 3),
        Err(DecodeError::Tag(4)),
        "a field twice"
    );
    let backwards = with_field(&record, 1, &[1]);
    assert_eq!(
        Request::decode(&backwards, 3),
        Err(DecodeError::Tag(1)),
        "out of order"
    );
}

/// A record that a golden file has.
fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.hex"));
    golden::unhex(&std::fs::read_to_string(path).unwrap())
}

#[test]
fn an_older_shims_request_has_no_id_and_is_read() {
    assert_eq!(Request::decode(&golden("request-core"), 3), Ok(request()));
    let with_id = Request::decode(&golden("request-core-id"), 3);
    assert_eq!(with_id, Ok(request_with_id()));
}

/// `later-NAME.hex` are NAME's records with a field behind them that this version does not know.
#[test]
fn a_later_peers_records_are_read_as_far_as_they_are_known() {
    let later = |name: &str| golden(&format!("later-{name}"));
    let request = Request::decode(&later("request-core-id"), 3);
    assert_eq!(request, Ok(request_with_id()));
    for (name, verdict) in [
        ("verdict-done", Verdict::Done),
        (
            "verdict-deny",
            Verdict::Deny {
                errno: 13,
                ttl: 1000,
            },
        ),
        ("verdict-fallback", Verdict::Fallback),
    ] {
        assert_eq!(Verdict::decode(&later(name)), Ok(verdict), "{name}");
    }
    assert_eq!(Spooled::decode(&later("spooled")), Ok(spooled()));
}

#[test]
fn every_kind_of_record_may_grow() {
    for (name, record) in records() {
        let optional = with_field(&record, 0xff01, b"from the future");
        assert_eq!(read(&optional), read(&record), "{name}");
        let needed = with_field(&record, 0x7f01, b"from the future");
        assert_eq!(read(&needed), Vec::<String>::new(), "{name}");
    }
}

/// Every byte of every record, changed in every bit: refused or read as something, but never worse.
#[test]
fn no_changed_bit_hurts() {
    let mut read_as_something = 0;
    for (_, record) in records() {
        for place in 0..record.len() {
            for bit in 0..8 {
                let mut changed = record.clone();
                changed[place] ^= 1 << bit;
                read_as_something += usize::from(!read(&changed).is_empty());
            }
        }
    }
    assert!(
        read_as_something > 100,
        "values may change, and then records are others"
    );
}
