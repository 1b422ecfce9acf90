//! Attacks by exchange: what a core is about to be written to or delivered at becomes something else, again and again.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use upcall_e2e::container::Container;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;

use crate::scene::Scene;

/// How many cores go where something is exchanged.
const ROUNDS: usize = 40;

/// Somebody who exchanges two things of his without end.
struct Racer {
    over: Arc<AtomicBool>,
    exchanges: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    fn between(one: &Path, other: &Path) -> Result<Self> {
        let name = |path: &Path| CString::new(path.as_os_str().as_bytes());
        let (one, other) = (name(one)?, name(other)?);
        let (over, exchanges) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stop, count) = (Arc::clone(&over), Arc::clone(&exchanges));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let flags = RenameFlags::RENAME_EXCHANGE;
                if renameat2(AT_FDCWD, &*one, AT_FDCWD, &*other, flags).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self {
            over,
            exchanges,
            thread: Some(thread),
        })
    }

    /// How often he did.
    fn end(mut self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .context("a thread")?
            .join()
            .ok()
            .context("the racer")?;
        Ok(self.exchanges.load(Ordering::Relaxed))
    }
}

/// A place where root's files are, which nobody else may write, and what is in it now.
fn places(directory: &Path) -> Result<Vec<(String, u64, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory)?.flatten() {
        let meta = entry.metadata()?;
        let bytes = std::fs::read(entry.path())?;
        all.push((
            entry.file_name().to_string_lossy().into_owned(),
            meta.ino(),
            bytes,
        ));
    }
    all.sort();
    Ok(all)
}

/// A directory of root's below a container's root, with a file named as a core would be and one that is not.
fn roots_own(container: &Container, core: &str) -> Result<std::path::PathBuf> {
    let directory = container.root().inside("/roots");
    std::fs::create_dir(&directory)?;
    for name in [core, "shadow"] {
        std::fs::write(directory.join(name), "root's own")?;
    }
    let meta = container.root().path().join("etc").metadata()?;
    for path in [
        directory.clone(),
        directory.join(core),
        directory.join("shadow"),
    ] {
        chown(&path, Some(meta.uid()), Some(meta.gid()))?;
    }
    Ok(directory)
}

#[test]
fn a_directory_that_is_exchanged_while_its_core_is_written_leads_nowhere() -> Result<()> {
    // CVE-2019-11482, CVE-2015-3142, CVE-2026-54228: looked at by name, and written by name.
    needs!(Root, Runc);
    let rule = "[[rule]]\nupcall = \"core\"\nfile = { path = \"/race/target/core\" }\n";
    let scene = Scene::new(rule)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let roots = roots_own(&container, "core")?;
    let before = places(&roots)?;
    let race = container.root().inside("/race");
    std::fs::create_dir_all(race.join("target"))?;
    for path in [race.clone(), race.join("target")] {
        chown(&path, Some(301_000), Some(301_000))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?;
    }
    symlink("/roots", race.join("link"))?;
    let process = container.victim_by(1000, &["/crash-me", "--wait"])?;
    let dump = CoreDump::of(process)?
        .bytes(3000)
        .word("%c", u64::MAX.to_string());
    let racer = Racer::between(&race.join("target"), &race.join("link"))?;
    for _ in 0..ROUNDS {
        scene.dump(&dump)?;
        assert_eq!(places(&roots)?, before);
    }
    assert!(racer.end()? > 100);
    // And a link in the place of the file itself.
    drop(std::fs::remove_file(race.join("link")));
    let target = race.join("target");
    let target = if target.is_symlink() {
        race.join("link")
    } else {
        target
    };
    symlink("/roots/core", target.join("other"))?;
    std::fs::write(target.join("core"), "")?;
    let racer = Racer::between(&target.join("core"), &target.join("other"))?;
    for _ in 0..ROUNDS {
        scene.dump(&dump)?;
        drop(std::fs::write(target.join("core"), ""));
        assert_eq!(places(&roots)?, before);
    }
    racer.end()?;
    drop(container);
    scene.end()
}
