//! Cores that are kept, cut, fed, and come in crumbs.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use nix::unistd::pipe;

use upcall_helpers::patience::PATIENCE;

use super::*;

fn job(max_size: u64, feeds: Vec<OwnedFd>, directory: &std::path::Path) -> (File, Job) {
    let (read, write) = pipe().unwrap();
    let job = Job {
        pipe: read,
        directory: OwnedFd::from(File::open(directory).unwrap()),
        feeds,
        name: Some("x.core".to_owned()),
        format: Format::Plain,
        max_size,
        keep_free: 0,
        reader: None,
        tokens: None,
        patience: PATIENCE,
    };
    (File::from(write), job)
}

fn directory(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("upcall-store-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// What a test saw.
struct Seen {
    kept: Kept,
    stored: Vec<u8>,
    fed: Vec<Vec<u8>>,
}

/// Runs the job while `bytes` are written to its pipe, and each of `takers` is given the pipe that it is to read.
fn run_with<const N: usize>(
    bytes: &[u8],
    (max_size, format, name): (u64, Format, &str),
    takers: [fn(File) -> Vec<u8>; N],
) -> Seen {
    let directory = directory(name);
    let (mut feeds, mut readers) = (Vec::new(), Vec::new());
    for taker in takers {
        let (read, write) = pipe().unwrap();
        feeds.push(write);
        readers.push(std::thread::spawn(move || taker(File::from(read))));
    }
    let (mut write, mut job) = job(max_size, feeds, &directory);
    job.format = format;
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || {
        // A reader that has had enough closes the pipe.
        write.write_all(&bytes).unwrap_or(());
    });
    let mut told = None;
    run(job, &mut |kept| {
        told = Some(kept.clone());
    });
    writer.join().unwrap();
    let fed = readers.into_iter().map(|reader| reader.join().unwrap());
    let fed = fed.collect();
    let path = directory.join("x.core");
    let stored = std::fs::read(&path).unwrap_or_default();
    if let Ok(meta) = path.metadata() {
        assert_eq!(meta.mode() & 0o777, 0o600, "root's alone");
    }
    std::fs::remove_dir_all(&directory).unwrap();
    Seen {
        kept: told.unwrap(),
        stored,
        fed,
    }
}

/// A taker that reads all.
fn eager(mut pipe: File) -> Vec<u8> {
    let mut all = Vec::new();
    pipe.read_to_end(&mut all).unwrap();
    all
}

/// One that takes a little now and then at first.
fn slow(mut pipe: File) -> Vec<u8> {
    let mut all = vec![0; 1000];
    for part in all.chunks_mut(100) {
        pipe.read_exact(part).unwrap();
        poll(&mut [], PollTimeout::from(30_u8)).unwrap_or(0);
    }
    all.extend(eager(pipe));
    all
}

/// One that goes after a little.
fn dead(mut pipe: File) -> Vec<u8> {
    let mut all = vec![0; 100];
    pipe.read_exact(&mut all).unwrap();
    all
}

/// One that takes nothing for longer than others wait for it.
fn stuck(pipe: File) -> Vec<u8> {
    poll(&mut [], PollTimeout::from(7000_u16)).unwrap_or(0);
    eager(pipe)
}

/// What nothing makes smaller (xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// As cores are: much of it zero, in places that are no multiple of anything.
fn core(length: usize) -> Vec<u8> {
    let mut core = noise(length);
    core[length / 9..length / 9 + length / 3].fill(0);
    core[length - length / 5..].fill(0);
    core
}

/// All that a zstd file says, frame after frame.
fn unpacked(mut packed: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !packed.is_empty() {
        let length = zstd_safe::find_frame_compressed_size(packed).unwrap();
        let mut part = vec![0; CHUNK];
        let unpacked = zstd_safe::decompress(part.as_mut_slice(), &packed[..length]);
        all.extend(&part[..unpacked.unwrap()]);
        packed = &packed[length..];
    }
    all
}

#[test]
fn everything_is_kept_and_everything_is_fed() {
    let core = core(9_000_001);
    for (format, name) in [(Format::Plain, "plain"), (Format::Zstd(1), "zstd")] {
        let seen = run_with(&core, (u64::MAX, format, name), [eager, slow, dead]);
        let kept = &seen.kept;
        assert_eq!((kept.size, kept.error), (9_000_001, None), "{name}");
        assert!(!kept.truncated);
        // What is zero takes no room.
        assert!(kept.stored < 4_200_000 + 2 * 4096 * 3, "{name}: {kept:?}");
        if format == Format::Plain {
            assert!(seen.stored == core);
        } else {
            assert_eq!(kept.stored, u64::try_from(seen.stored.len()).unwrap());
            assert!(unpacked(&seen.stored) == core);
        }
        assert!(seen.fed[0] == core && seen.fed[1] == core && seen.fed[2] == core[..100]);
    }
}

#[test]
fn a_copy_stops_at_its_size_and_the_takers_still_get_all() {
    let core = core(5_000_000);
    for (format, name) in [(Format::Plain, "cut"), (Format::Zstd(3), "cut-zstd")] {
        let seen = run_with(&core, (1_300_000, format, name), [eager, slow, dead]);
        let kept = seen.kept;
        assert_eq!(
            (kept.size, kept.truncated, kept.error),
            (1_300_000, true, None),
            "{name}"
        );
        let stored = match format {
            Format::Plain => seen.stored,
            Format::Zstd(_) => unpacked(&seen.stored),
        };
        assert!(stored == core[..1_300_000], "{name}");
        assert!(seen.fed[0] == core && seen.fed[1] == core && seen.fed[2] == core[..100]);
    }
}

#[test]
fn a_full_disk_cuts_the_copy_where_it_is_whole_and_the_takers_still_get_all() {
    let core = noise(5_000_000);
    for format in [Format::Plain, Format::Zstd(1)] {
        let file = tempfile();
        let mut copy = Copy::new(file, format).unwrap();
        let mut room = 2_500_000;
        let mut grant = |bytes: u64| {
            room = u64::checked_sub(room, bytes).ok_or(Errno::ENOSPC)?;
            Ok(())
        };
        let mut result = Ok(());
        for part in core.chunks(CHUNK) {
            if result.is_ok() {
                result = copy.append(part, &mut grant);
            }
        }
        assert_eq!(result, Err(Errno::ENOSPC));
        let mut stored = Vec::new();
        let mut file = copy.file();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut stored).unwrap();
        if format != Format::Plain {
            stored = unpacked(&stored);
        }
        assert_eq!(copy.end(), u64::try_from(stored.len()).unwrap());
        assert!(stored.len() >= CHUNK && stored == core[..stored.len()]);
    }
}

fn tempfile() -> File {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR;
    File::from(nix::fcntl::open("/tmp", flags, Mode::S_IRUSR).unwrap())
}

#[test]
fn with_nowhere_to_keep_it_one_that_takes_nothing_does_not_keep_it_from_the_others() {
    let core = noise(4_000_000);
    let seen = run_with(&core, (0, Format::Plain, "stuck"), [eager, stuck]);
    assert!(seen.fed[0] == core);
    let part = seen.fed[1].len();
    assert!(part < core.len() && seen.fed[1] == core[..part]);
}

#[test]
fn what_is_there_for_the_takers_alone_gets_no_name() {
    let directory = directory("spool");
    let (read, feed) = pipe().unwrap();
    let (mut write, mut job) = job(u64::MAX, vec![feed], &directory);
    job.name = None;
    write.write_all(b"core").unwrap();
    drop(write);
    run(job, &mut |_| {});
    assert_eq!(eager(File::from(read)), b"core");
    // And it fails where there is something.
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn a_core_that_comes_in_crumbs_is_not_waited_for_without_end() {
    let directory = directory("crumbs");
    let (mut write, mut job) = job(u64::MAX, vec![], &directory);
    job.patience = Duration::from_millis(200);
    let writer = std::thread::spawn(move || {
        // Always something within the patience, for much longer than that.
        for _ in 0..500 {
            if write.write_all(b".").is_err() {
                return true;
            }
            poll(&mut [], PollTimeout::from(20_u8)).unwrap_or(0);
        }
        false
    });
    let mut told = None;
    run(job, &mut |kept| told = Some(kept.clone()));
    assert!(writer.join().unwrap(), "the pipe was read to its end");
    let kept = told.unwrap();
    assert_eq!((kept.truncated, kept.error), (true, Some(Errno::ETIMEDOUT)));
    assert!(kept.stored > 1);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_copy_of_exactly_its_size_is_not_truncated() {
    let core = noise(4096);
    let Seen { kept, stored, .. } = run_with(&core, (4096, Format::Plain, "exact"), []);
    assert_eq!(
        (kept.stored, kept.truncated, kept.error),
        (4096, false, None)
    );
    assert!(stored == core);
}

#[test]
fn a_core_that_ends_before_its_headers_say_is_truncated() {
    // An ELF header, one program header, and a segment of 2 MiB behind a page.
    let mut core = noise((2 << 20) + 4096);
    core[..120].fill(0);
    let order = if cfg!(target_endian = "little") { 1 } else { 2 };
    core[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, order]);
    core[16..18].copy_from_slice(&4_u16.to_ne_bytes());
    core[32..40].copy_from_slice(&64_u64.to_ne_bytes());
    core[54..56].copy_from_slice(&56_u16.to_ne_bytes());
    core[56..58].copy_from_slice(&1_u16.to_ne_bytes());
    core[72..80].copy_from_slice(&4096_u64.to_ne_bytes());
    core[96..104].copy_from_slice(&(2_u64 << 20).to_ne_bytes());
    for (format, name) in [(Format::Plain, "early"), (Format::Zstd(1), "early-zstd")] {
        for (length, error) in [
            (core.len(), None),
            (core.len() - 1, Some(Errno::ENODATA)),
            (80, Some(Errno::ENODATA)),
            // Nothing at all is an empty core, not a part of one.
            (0, None),
        ] {
            let kept = run_with(&core[..length], (u64::MAX, format, name), []).kept;
            assert_eq!((kept.truncated, kept.error), (error.is_some(), error));
            assert_eq!(kept.size, u64::try_from(length).unwrap());
        }
    }
}

#[test]
fn a_core_that_keeps_coming_is_waited_for_and_one_that_stops_is_not() {
    for stops in [false, true] {
        let directory = directory("steady");
        let (mut write, mut job) = job(u64::MAX, vec![], &directory);
        job.patience = Duration::from_millis(300);
        let writer = std::thread::spawn(move || {
            let (start, part) = (Instant::now(), vec![7; 1 << 18]);
            // Ten megabytes in a second, for five times the patience: as the beginning of a hundred gigabytes.
            while start.elapsed() < Duration::from_millis(1500) {
                write.write_all(&part).unwrap();
                poll(&mut [], PollTimeout::from(25_u8)).unwrap_or(0);
            }
            let stopped = Instant::now();
            while stops && write.write_all(b".").is_ok() {
                // What comes now is no progress.
                poll(&mut [], PollTimeout::from(1000_u16)).unwrap_or(0);
            }
            stopped.elapsed()
        });
        let mut told = None;
        run(job, &mut |kept| told = Some(kept.clone()));
        let waited = writer.join().unwrap();
        let kept = told.unwrap();
        let error = stops.then_some(Errno::ETIMEDOUT);
        assert_eq!((kept.truncated, kept.error), (stops, error));
        assert!(kept.size > 4 << 20, "{kept:?}");
        assert!(waited < Duration::from_secs(5), "{waited:?}");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn nobody_is_waited_for_where_nobody_is_to_be_given_anything() {
    // No room for a copy, no takers, and a dump that stands still.
    let directory = directory("nobody");
    let (write, mut job) = job(u64::MAX, Vec::new(), &directory);
    job.keep_free = u64::MAX;
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut error = None;
        run(job, &mut |kept| error = kept.error);
        done.send(error).unwrap();
    });
    let error = ended.recv_timeout(Duration::from_secs(5));
    assert_eq!(error, Ok(Some(Errno::ENOSPC)));
    drop(write);
    std::fs::remove_dir_all(&directory).unwrap();
}
