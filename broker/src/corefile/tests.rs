//! Cores of the kernel's, cores that were cut off, and cores that were made up.

use std::path::Path;

use serde_json::json;

use super::*;

/// A core of `tests/core/crash.c`.
fn core() -> Vec<u8> {
    let packed = include_bytes!("../../tests/core/crash.core.zst");
    zstd::stream::decode_all(&packed[..]).unwrap()
}

fn crash(core: &[u8]) -> Result<Crash, CoreError> {
    Core::read(&mut Stream(core)).map(|core| core.crash)
}

#[test]
fn a_core_of_the_kernels_says_who_crashed_and_how() {
    let crash = crash(&core()).unwrap();
    assert_eq!((crash.machine.as_str(), crash.signal), ("x86_64", Some(11)));
    assert_eq!(
        (crash.code_name.as_deref(), crash.address),
        (Some("MAPERR"), Some(0x18))
    );
    assert_eq!(crash.command.as_deref(), Some("./crash --demo"));
    assert_eq!(
        (crash.comm.as_deref(), crash.threads.len()),
        (Some("crash"), 1)
    );
    let [module] = crash.modules.as_slice() else {
        panic!("{crash:?}");
    };
    assert_eq!(
        (module.path.as_str(), module.start),
        ("/srv/demo/crash", 0x40_0000)
    );
    let id = module.build_id.as_deref().unwrap();
    assert_eq!(id.len(), 40, "{id}");
    let frame = crash.frames.first().unwrap();
    assert_eq!((frame.address, frame.offset), (0x40_010c, Some(0x10c)));
    assert_eq!(
        (frame.build_id.as_deref(), crash.unread),
        (Some(id), vec![])
    );
}

#[test]
fn a_file_can_be_passed_over_and_a_stream_has_to_be_read() {
    let file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut &file, &core()).unwrap();
    std::io::Seek::rewind(&mut &file).unwrap();
    let mut file = file;
    let by_file = Core::read(&mut file).unwrap();
    assert_eq!(by_file.crash, crash(&core()).unwrap());
}

#[test]
fn a_core_that_was_cut_off_says_what_it_can() {
    let core = core();
    let mut readable = 0;
    for length in (0..core.len()).step_by(251) {
        if let Ok(crash) = crash(&core[..length]) {
            assert_eq!(crash.signal, Some(11));
            assert!(!crash.unread.is_empty() || length > core.len() / 2);
            readable += 1;
        }
    }
    assert!(readable > 100, "{readable}");
}

#[test]
fn no_byte_of_a_core_makes_it_harmful() {
    let core = core();
    let head = 6000.min(core.len());
    for place in 0..head {
        for value in [0, 0xff, 0x80] {
            let mut changed = core[..head].to_vec();
            changed[place] = value;
            // No panic, no endless loop, no memory without end: the worst is an answer that is wrong.
            drop(crash(&changed));
        }
    }
}

/// The program whose core it is, for every path.
struct Program(Vec<u8>);

impl Files for Program {
    fn open(&mut self, _: &[u8]) -> Option<Box<dyn Mapped>> {
        Some(Box::new(std::io::Cursor::new(self.0.clone())))
    }
}

fn walked(core: &[u8], program: &[u8]) -> Crash {
    let mut core = Core::read(&mut Stream(core)).unwrap();
    core.walk(&mut Program(program.to_vec()));
    core.crash
}

#[test]
fn functions_that_had_not_returned_are_named_by_the_same_build_only() {
    let (core, program) = (core(), include_bytes!("../../tests/core/crash"));
    let crash = walked(&core, program);
    // Behind the last one are the program's words, which are no function.
    let names = crash
        .frames
        .iter()
        .take(4)
        .map(|frame| frame.symbol.as_deref());
    let names: Vec<_> = names.collect::<Option<_>>().unwrap();
    assert_eq!(names, ["nothing", "cart_total", "checkout", "_start"]);
    assert_eq!(crash.frames[0].symbol_offset, Some(0));
    let mut other = program.to_vec();
    other[0x1a0] ^= 1;
    let crash = walked(&core, &other);
    assert_eq!(crash.frames.len(), 1);
    assert!(crash.unread[0].contains("another build"), "{crash:?}");
}

#[test]
fn no_byte_of_a_file_makes_it_harmful() {
    let (core, program) = (core(), include_bytes!("../../tests/core/crash"));
    let page = core.windows(program.len()).position(|part| part == program);
    let page = page.unwrap();
    for place in 4..program.len() {
        for value in [0, 0xff, 0x80] {
            // The tenant changes it before it crashes, so that the core agrees.
            let (mut core, mut program) = (core.clone(), program.to_vec());
            core[page + place] = value;
            program[place] = value;
            assert!(walked(&core, &program).frames.len() <= 256);
        }
    }
}

/// A header of a 64-bit core of x86-64 with so many segments of so many bytes, at 64.
fn header(count: u16, each: u16) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(64, 0);
    header[16] = 4;
    header[18] = 62;
    header[32] = 64;
    header[54..56].copy_from_slice(&each.to_le_bytes());
    header[56..58].copy_from_slice(&count.to_le_bytes());
    header
}

fn segment(kind: u32, offset: u64, start: u64, size: u64) -> Vec<u8> {
    let mut segment = kind.to_le_bytes().to_vec();
    segment.extend([0; 4]);
    for word in [offset, start, 0, size, size, 0] {
        segment.extend(word.to_le_bytes());
    }
    segment
}

#[test]
fn what_is_made_up_costs_little() {
    let endless = |offset, size| {
        let segments = [
            segment(4, offset, 0, size),
            segment(1, u64::MAX, u64::MAX, u64::MAX),
        ];
        [header(2, 56), segments.concat()].concat()
    };
    for core in [
        endless(176, u64::MAX),
        endless(u64::MAX, 8),
        endless(0, u64::MAX),
    ] {
        assert!(crash(&core).is_err());
    }
    // A note of 4 GiB.
    let note = [
        5_u32.to_le_bytes(),
        u32::MAX.to_le_bytes(),
        1_u32.to_le_bytes(),
    ]
    .concat();
    let core = [header(1, 56), segment(4, 120, 0, 1 << 40), note].concat();
    assert!(crash(&core).is_err());
    for (count, each) in [(1, 0), (1, 55), (1, 257), (0, 56)] {
        assert!(crash(&[header(count, each), vec![0; 600]].concat()).is_err());
    }
    for not in [&b""[..], b"#!/bin/sh\n", &[0; 100], b"\x7fELF\x02\x02"] {
        assert!(crash(not).is_err());
    }
}

#[test]
fn more_segments_than_the_header_can_count_are_counted_by_where_the_notes_begin() {
    // 70,000 and the notes; the last one is looked for.
    let count = 70_001_u64;
    let notes_at = 64 + 56 * count;
    let mut prstatus = vec![0; 336];
    prstatus[12] = 6;
    prstatus[32] = 99;
    let stack = 0x7000_0000_u64;
    prstatus[112 + 19 * 8..][..8].copy_from_slice(&stack.to_le_bytes());
    let words = [5_u32, 336, 1].map(u32::to_le_bytes).concat();
    let note = [words, b"CORE\0\0\0\0".to_vec(), prstatus].concat();
    let length = note.len() as u64;
    let mut core = [header(0xffff, 56), segment(4, notes_at, 0, length)].concat();
    for place in 1..count {
        core.extend(segment(1, notes_at + length, place << 12, 0));
    }
    core.extend(note);
    let crash = crash(&core).unwrap();
    assert_eq!(
        (crash.signal, crash.threads.as_slice()),
        (Some(6), &[99][..])
    );
    let more = [header(0xffff, 56), segment(4, u64::MAX / 2, 0, 8)].concat();
    assert!(matches!(
        self::crash(&more),
        Err(CoreError::TooMany("segments"))
    ));
}

#[test]
fn the_schema_in_docs_is_current() {
    let settings = schemars::generate::SchemaSettings::draft2020_12();
    let mut crash = settings
        .into_generator()
        .into_root_schema_for::<Crash>()
        .to_value();
    let mut definitions = crash["$defs"].take();
    crash.as_object_mut().unwrap().remove("$defs");
    crash.as_object_mut().unwrap().remove("$schema");
    definitions["Crash"] = crash;
    for object in definitions.as_object_mut().unwrap().values_mut() {
        let names: Vec<_> = object["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        object["required"] = json!(names);
    }
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "upcalld: a core",
        "description": "What upcallctl cores info --json prints. Fields and words may be added within a version, and \
                        readers ignore what they do not know. Text that a tenant chose is escaped.",
        "type": "object",
        "properties": {
            "schema": { "const": "upcalld.core" },
            "version": { "const": 1 },
            "record": { "$ref": "record.schema.json" },
            "state": { "description": "What became of it.", "$ref": "cores.schema.json#/$defs/Word" },
            "crash": {
                "description": "What the core says; null where it is not here or cannot be read.",
                "anyOf": [{ "$ref": "#/$defs/Crash" }, { "type": "null" }],
            },
            "unread": { "description": "Why it cannot be read.", "type": ["string", "null"] },
        },
        "required": ["schema", "version", "record", "state", "crash", "unread"],
        "$defs": definitions,
    });
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/core.schema.json");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == text,
        "{} is not current; UPDATE_DOCS=1 cargo test -p upcalld writes it anew",
        path.display()
    );
}
