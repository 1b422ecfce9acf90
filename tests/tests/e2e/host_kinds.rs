//! Processes of every kind that dump differently: each kept core opens in gdb and shows the right crash.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::Result;
use upcall_e2e::command::{at_most, until};
use upcall_e2e::container::{Container, runs};
use upcall_e2e::gdb::Crash;
use upcall_e2e::hook;
use upcall_e2e::programs::build_32_bit;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcalld::store::record::{Outcome, Record};

use super::{MODE, needs};
use crate::host_scene::HostScene;

const STORE: &str =
    "[[rule]]\nupcall = \"core\"\nmatch.container = {}\nstore = { ignore_limit = true }\n";

/// A program whose function `the_crash` crashes.
const SOURCE: &str = "void the_crash(void) { *(volatile int *)0 = 1; }\n\
                      void _start(void) { the_crash(); for (;;); }\n";

/// Where crash-me crashes.
const CRASH: &str = "crash_me::sys::crash";

/// What gdb finds in a core that was kept whole, and which the record says the same of.
fn whole(scene: &HostScene, container: &Container, record: &Record) -> Result<Crash> {
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let found = record.container.as_ref().map(|found| found.leader_pid);
    assert_eq!(found, Some(container.init()));
    assert_eq!(action(record, "store")?.truncated, Some(false));
    let comm = record.process.comm.clone().unwrap_or_default();
    let program = container.root().inside(&format!("/{comm}"));
    let crash = Crash::open(&program, &scene.unpacked(record)?)?;
    assert_eq!(crash.signal, "SIGSEGV", "{}", crash.said);
    assert!(
        crash.command.starts_with(&format!("/{comm}")),
        "{}",
        crash.said
    );
    Ok(crash)
}

/// One that crashes in the way these words say, and what gdb finds.
fn crash_of(scene: &HostScene, container: &Container, words: &[&str]) -> Result<(Record, Crash)> {
    let victim = container.victim(words)?;
    container.crash(victim)?;
    let record = scene.record(victim)?;
    let crash = whole(scene, container, &record)?;
    assert_eq!(
        crash.functions.first().map(String::as_str),
        Some(CRASH),
        "{}",
        crash.said
    );
    Ok((record, crash))
}

#[test]
fn threads_and_a_containers_init_open_in_gdb() -> Result<()> {
    needs!(HostHooks, Root, Runc, Gdb);
    let scene = HostScene::by(MODE, STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let (record, crash) = crash_of(&scene, &container, &["--threads=5"])?;
    assert_eq!(record.process.tid, record.process.pid);
    assert_eq!(crash.threads.len(), 6, "{}", crash.said);
    // It is the first of them that crashed, and then another.
    assert_eq!(Some(&crash.thread), crash.threads.iter().min());
    let (record, crash) = crash_of(&scene, &container, &["--threads=5", "--in-thread"])?;
    assert_ne!(record.process.tid, record.process.pid);
    assert_eq!(crash.threads.len(), 7, "{}", crash.said);
    assert_ne!(Some(&crash.thread), crash.threads.iter().min());
    // The init, whose namespaces end with it.
    container.crash(container.init())?;
    let record = scene.record(container.init())?;
    let crash = whole(&scene, &container, &record)?;
    assert_eq!(crash.functions.first().map(String::as_str), Some(CRASH));
    assert_eq!((crash.command.as_str(), crash.thread), ("/init", 1));
    drop(container);
    scene.end()
}

#[test]
fn gdb_finds_the_files_of_a_container_that_still_runs_and_only_those() -> Result<()> {
    needs!(HostHooks, Root, Runc, Gdb);
    let scene = HostScene::by(MODE, STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let (record, _) = crash_of(&scene, &container, &[])?;
    let debug = || -> Result<String> {
        let mut ctl = scene.sandbox.ctl();
        ctl.args(["cores", "debug", &record.id, "--", "-batch"]);
        let output = ctl
            .args(["-ex", "backtrace", "-ex", "info files"])
            .output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
        Ok(said)
    };
    let said = debug()?;
    let from = format!("files from  runc/{}, its root", container.id());
    assert!(said.contains(&from) && said.contains(CRASH), "{said}");
    drop(container);
    let said = debug()?;
    assert!(
        said.contains("files from  nowhere: ") && !said.contains(CRASH),
        "{said}"
    );
    scene.end()
}

#[test]
fn a_huge_core_with_little_in_it_takes_little_room_and_opens_in_gdb() -> Result<()> {
    needs!(HostHooks, Root, Runc, Gdb);
    for compress in ["none", "zstd"] {
        let store = format!("store = {{ compress = \"{compress}\", ");
        let scene = HostScene::by(MODE, &STORE.replace("store = { ", &store))?;
        let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
        let victim = container.victim(&["--sparse-gib=4"])?;
        let start = Instant::now();
        container.crash(victim)?;
        until(Duration::from_secs(30), "its end", || {
            (!runs(victim)).then_some(())
        })?;
        let record = scene.record(victim)?;
        let store = action(&record, "store")?;
        let file = scene.file(&record)?.metadata()?;
        let (size, on_disk) = (store.size_bytes.unwrap_or(0), file.blocks() * 512);
        assert!(
            size > 4 << 30 && store.truncated == Some(false),
            "{store:?}"
        );
        assert!(on_disk < 32 << 20, "{compress}: {on_disk} bytes on disk");
        assert!(start.elapsed() < at_most(Duration::from_secs(30)));
        // The other would have to be unpacked into memory.
        if compress == "none" {
            assert_eq!(file.len(), size);
            let crash = whole(&scene, &container, &record)?;
            assert_eq!(crash.functions.first().map(String::as_str), Some(CRASH));
        }
        drop(container);
        scene.end()?;
    }
    Ok(())
}

#[test]
fn a_32_bit_program_opens_in_gdb() -> Result<()> {
    needs!(HostHooks, Root, Runc, Gdb, Gcc32);
    let scene = HostScene::by(MODE, STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    build_32_bit(SOURCE, &container.root().inside("/crash-32"))?;
    container.exec(&["/bin/sh", "-c", "/crash-32; [ $? = 139 ]"])?;
    let named = |record: &Record| record.process.comm.as_deref() == Some("crash-32");
    let record = scene.daemon.records().wait("crash-32", named)?;
    let crash = whole(&scene, &container, &record)?;
    assert_eq!(crash.functions, ["the_crash", "_start"], "{}", crash.said);
    drop(container);
    scene.end()
}

#[test]
fn more_mappings_than_an_elf_header_can_count_open_in_gdb() -> Result<()> {
    needs!(HostHooks, Root, Runc, Gdb);
    let scene = HostScene::by(MODE, STORE)?;
    hook::max_map_count(&scene.hook, "80000")?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let (record, _) = crash_of(&scene, &container, &["--mappings=70000"])?;
    let mut header = [0; 64];
    File::open(scene.unpacked(&record)?)?.read_exact(&mut header)?;
    // PN_XNUM (elf(5)) at e_phnum: the true number is in the first section header.
    assert_eq!(header.get(56..58), Some([0xff, 0xff].as_slice()));
    drop(container);
    scene.end()
}
