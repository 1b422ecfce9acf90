//! `pass` where no program stood before: systemd-coredump's socket, a file's name.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use upcall_e2e::command::{command, until};
use upcall_e2e::container::waits;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::hooks::pattern::Pattern;
use upcalld::store::record::{Outcome, Record};

use crate::scene::Scene;

/// A user of the host's.
const USER: u32 = 4242;

/// A process of the host's or of nobody's, ended when dropped.
struct Process(Child);

impl Process {
    fn start(sandbox: &Sandbox, name: &str, words: &[&str], uid: u32, at: &Path) -> Result<Self> {
        let mut process = command(sandbox.path("bin/crash-me"));
        process.arg0(name).args(words).uid(uid).gid(uid);
        Ok(Self(process.current_dir(at).stdin(Stdio::null()).spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A daemon for which /run/systemd is the sandbox's.
fn daemon(sandbox: &Sandbox, pattern: &str) -> Result<Daemon> {
    const THERE: &str = "mount --bind \"$1\" /run/systemd && shift && exec \"$@\"";
    let systemd = sandbox.path("systemd");
    std::fs::create_dir(&systemd)?;
    let before = Pattern::parse(pattern);
    sandbox.hook(|hook| hook.previous = before)?;
    let words = [
        "unshare",
        "--mount",
        "--propagation=slave",
        "sh",
        "-c",
        THERE,
        "sh",
    ];
    let mut words = words.map(str::to_owned).to_vec();
    words.push(systemd.display().to_string());
    Daemon::start_below(sandbox, &words)
}

fn dumped(sandbox: &Sandbox, daemon: &Daemon, dump: &CoreDump, pid: u32) -> Result<Record> {
    dump.dump(sandbox)?;
    daemon.records().of(pid)
}

#[test]
fn where_systemds_kernel_socket_stood_its_other_one_gets_the_core() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    let daemon = daemon(&sandbox, "@@/run/systemd/coredump-kernel")?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    // Nobody is there any more: it is kept instead.
    let dump = CoreDump::of(container.init())?.word("%c", u64::MAX.to_string());
    let record = dumped(&sandbox, &daemon, &dump, container.init())?;
    assert_eq!(record.outcome, Outcome::Partial, "{record:?}");
    assert_eq!(record.reason.as_deref(), Some("socket_missing"));
    assert!(upcall_e2e::cores::kept(&sandbox.state(), &record.id)? == dump.core());

    let socket = sandbox.path("systemd/coredump").display().to_string();
    let out = sandbox.path("got");
    let words = [
        format!("--at={socket}"),
        format!("--out={}", out.display()),
        "--how=take".into(),
    ];
    let words = words.each_ref().map(String::as_str);
    let receiver = Process::start(&sandbox, "receiver", &words, 0, Path::new("/"))?;
    let here = out.with_extension("here");
    until(Duration::from_secs(5), "a receiver", || {
        here.exists().then_some(())
    })?;
    let victim = container.victim(&[])?;
    // What a file could not be written of is systemd's to decide about, as it would have been.
    let dump = CoreDump::of(victim)?.bytes(5 << 20).word("%d", "2");
    let record = dumped(&sandbox, &daemon, &dump, victim)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert!(std::fs::read(&out)? == dump.core());
    let fields = std::fs::read_to_string(out.with_extension("fields"))?;
    // The host's numbers: it is the host that gets it.
    let pid = format!("COREDUMP_PID={victim}");
    for field in [
        &pid,
        "COREDUMP_UID=300000",
        "COREDUMP_DUMPABLE=2",
        "COREDUMP_SIGNAL=11",
    ] {
        assert!(
            fields.lines().any(|line| line == field),
            "{field}: {fields}"
        );
    }
    assert_eq!(action(&record, "deliver")?.uid, Some(0));
    drop((receiver, container));
    daemon.stop(&sandbox)
}

#[test]
fn a_socket_of_anothers_in_systemds_place_gets_nothing() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    let daemon = daemon(&sandbox, "@@/run/systemd/coredump-kernel")?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    chown(sandbox.path("systemd"), Some(USER), None)?;
    let socket = sandbox.path("systemd/coredump").display().to_string();
    let out = sandbox.path("systemd/got");
    let words = [
        format!("--at={socket}"),
        format!("--out={}", out.display()),
        "--how=take".into(),
    ];
    let words = words.each_ref().map(String::as_str);
    let receiver = Process::start(&sandbox, "receiver", &words, USER, Path::new("/"))?;
    let here = out.with_extension("here");
    until(Duration::from_secs(5), "a receiver", || {
        here.exists().then_some(())
    })?;
    let dump = CoreDump::of(container.init())?.word("%c", u64::MAX.to_string());
    let record = dumped(&sandbox, &daemon, &dump, container.init())?;
    assert_eq!(
        record.reason.as_deref(),
        Some("socket_refused"),
        "{record:?}"
    );
    assert!(upcall_e2e::cores::kept(&sandbox.state(), &record.id)? == dump.core());
    assert!(!out.exists() && !out.with_extension("fields").exists());
    drop((receiver, container));
    daemon.stop(&sandbox)
}

#[test]
fn of_every_other_socket_a_copy_is_kept() -> Result<()> {
    needs!(Root, Runc);
    for pattern in ["@@/run/other.sock", "@/run/systemd/journal/socket"] {
        let scene = Scene::new("")?;
        let before = Pattern::parse(pattern);
        scene.sandbox.hook(|hook| hook.previous = before)?;
        let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
        let dump = CoreDump::of(container.init())?.word("%c", u64::MAX.to_string());
        let (record, _) = scene.dump(&dump)?;
        assert!(scene.kept(&record)? == dump.core(), "{pattern}: {record:?}");
        drop(container);
        scene.end()?;
    }
    Ok(())
}

#[test]
fn a_file_pattern_of_the_hosts_is_its_users_file() -> Result<()> {
    needs!(Root);
    let scene = Scene::new("")?;
    let directory = scene.sandbox.path("work");
    std::fs::create_dir(&directory)?;
    chown(&directory, Some(USER), Some(USER))?;
    let process = Process::start(&scene.sandbox, "crash-me", &["--wait"], USER, &directory)?;
    let pid = process.0.id();
    until(Duration::from_secs(5), "a process", || {
        waits(pid).then_some(())
    })?;
    let dump = CoreDump::of(pid)?.word("%c", u64::MAX.to_string());
    let absolute = format!("{}/all-%P.%s", directory.display());
    for (pattern, file, comm) in [
        ("core.%e.%p", format!("core.a!..!b.{pid}"), "a/../b"),
        (&absolute, format!("all-{pid}.11"), "x"),
        // A directory that is not there.
        ("%e/core", String::new(), "work"),
    ] {
        let before = Pattern::parse(pattern);
        scene.sandbox.hook(|hook| hook.previous = before)?;
        let (record, _) = scene.dump(&dump.clone().word("%e", comm))?;
        if file.is_empty() {
            assert_eq!(record.reason.as_deref(), Some("file_refused"), "{record:?}");
            assert!(scene.kept(&record)? == dump.core());
            continue;
        }
        assert_eq!(record.outcome, Outcome::Done, "{record:?}");
        let path = directory.join(&file);
        let found = std::fs::read(&path).with_context(|| format!("{file}: {record:?}"))?;
        assert!(found == dump.core(), "{file}");
        let owner = std::os::unix::fs::MetadataExt::uid(&path.metadata()?);
        assert_eq!((owner, action(&record, "file")?.uid), (USER, Some(USER)));
    }
    drop(process);
    scene.end()
}

#[test]
fn a_program_that_stood_there_goes_on_where_upcalld_is_killed() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    let before = sandbox.path("before");
    let has = sandbox.path("has");
    let text = format!("#!/bin/sh\n: > {0}; sleep 2; cat > {0}\n", has.display());
    std::fs::write(&before, text)?;
    std::fs::set_permissions(&before, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let pattern = Pattern::parse(&format!("|{}", before.display()));
    sandbox.hook(|hook| hook.previous = pattern)?;
    let daemon = Daemon::start(&sandbox)?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let started = dump.start(&sandbox)?;
    until(Duration::from_secs(5), "its start", || {
        has.exists().then_some(())
    })?;
    daemon.kill()?;
    let daemon = Daemon::start(&sandbox)?;
    let record = daemon.records().of(container.init())?;
    assert_eq!(record.outcome, Outcome::Partial, "{record:?}");
    assert!(
        record
            .message
            .is_some_and(|message| message.contains("has the core"))
    );
    let core = || Some(std::fs::read(&has).ok()?).filter(|core| *core == dump.core());
    until(Duration::from_secs(10), "the core", core)?;
    started.wait()?;
    daemon.stop(&sandbox)
}
