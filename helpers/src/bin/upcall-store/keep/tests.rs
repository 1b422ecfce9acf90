//! Cores that are kept, cut, fed, and come in crumbs.

use std::io::{Read, Write};
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
        max_size,
        keep_free: 0,
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
    (max_size, name): (u64, &str),
    takers: [fn(File) -> Vec<u8>; N],
) -> Seen {
    let directory = directory(name);
    let (mut feeds, mut readers) = (Vec::new(), Vec::new());
    for taker in takers {
        let (read, write) = pipe().unwrap();
        feeds.push(write);
        readers.push(std::thread::spawn(move || taker(File::from(read))));
    }
    let (mut write, job) = job(max_size, feeds, &directory);
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || {
        // A reader that has had enough closes the pipe.
        write.write_all(&bytes).unwrap_or(());
    });
    let mut told = None;
    run(job, &mut |kept| {
        told = Some(Kept { ..*kept });
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

fn noise(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 13 & 0xff).unwrap())
        .collect()
}

#[test]
fn everything_is_kept_and_everything_is_fed() {
    let core = noise(3_000_001);
    let seen = run_with(&core, (u64::MAX, "whole"), [eager, slow, dead]);
    assert_eq!(
        seen.kept,
        Kept {
            size: 3_000_001,
            stored: 3_000_001,
            truncated: false,
            error: None
        }
    );
    assert!(seen.stored == core);
    assert!(seen.fed[0] == core && seen.fed[1] == core && seen.fed[2] == core[..100]);
}

#[test]
fn a_copy_stops_at_its_size_and_the_takers_still_get_all() {
    let core = noise(1_000_000);
    let seen = run_with(&core, (300_000, "cut"), [eager, slow, dead]);
    let kept = seen.kept;
    assert_eq!(
        (kept.stored, kept.truncated, kept.error),
        (300_000, true, None)
    );
    assert!(seen.stored == core[..300_000]);
    assert!(seen.fed[0] == core && seen.fed[1] == core && seen.fed[2] == core[..100]);
}

#[test]
fn with_nowhere_to_keep_it_one_that_takes_nothing_does_not_keep_it_from_the_others() {
    let core = noise(1_000_000);
    let seen = run_with(&core, (0, "stuck"), [eager, stuck]);
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
    run(job, &mut |kept| told = Some(Kept { ..*kept }));
    assert!(writer.join().unwrap(), "the pipe was read to its end");
    let kept = told.unwrap();
    assert_eq!((kept.truncated, kept.error), (true, Some(Errno::ETIMEDOUT)));
    assert!(kept.stored > 1);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_copy_of_exactly_its_size_is_not_truncated() {
    let core = noise(4096);
    let Seen { kept, stored, .. } = run_with(&core, (4096, "exact"), []);
    assert_eq!(
        (kept.stored, kept.truncated, kept.error),
        (4096, false, None)
    );
    assert!(stored == core);
}
