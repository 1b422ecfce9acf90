//! Attacks on the socket that only the kernel is to connect to: who gets there, who is believed, and what nonsense costs.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use upcall_e2e::command::{at_most, command, until};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::hooks::pattern::kernel_socket;
use upcalld::store::record::Outcome;

use crate::scene::{Scene, run_rule};

fn socket(sandbox: &Sandbox) -> PathBuf {
    kernel_socket(&sandbox.sockets(), &sandbox.hooks())
}

/// The kernel's first question (struct coredump_req).
fn question() -> Vec<u8> {
    let sizes = [16_u32.to_ne_bytes(), 16_u32.to_ne_bytes()].concat();
    [sizes, 15_u64.to_ne_bytes().to_vec()].concat()
}

fn descriptors(daemon: &Daemon) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count())
}

/// What is answered until the end, which has to come soon.
fn answered(mut stream: &UnixStream) -> Result<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // Closed with something of ours unread.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        read => drop(read?),
    }
    Ok(answer)
}

#[test]
fn nobody_but_root_gets_to_it() -> Result<()> {
    needs!(CoreSocket, Root);
    let scene = Scene::new("")?;
    let path = socket(&scene.sandbox);
    let directory = path.parent().map(std::fs::metadata).transpose()?;
    let mode = directory.map(|directory| directory.permissions().mode() & 0o777);
    assert_eq!(mode, Some(0o700));
    let program = scene.sandbox.path("bin/hostile");
    scene.sandbox.program("crash-me", &program)?;
    let mut nobody = command(program);
    nobody.arg("connect").arg(&path);
    nobody.uid(65_534).gid(65_534).current_dir("/");
    let said = String::from_utf8_lossy(&nobody.output()?.stdout).into_owned();
    assert_eq!(said, "Err(EACCES)\n");
    scene.end()
}

#[test]
fn who_does_not_dump_core_is_not_the_kernel() -> Result<()> {
    needs!(CoreSocket, Root);
    let scene = Scene::new("")?;
    let mut asks = UnixStream::connect(socket(&scene.sandbox))?;
    // It may be refused before it has asked.
    drop(asks.write_all(&question()));
    assert!(answered(&asks)?.is_empty());
    // A core as `@` has it, and one who says nothing at all.
    let mut writes = UnixStream::connect(socket(&scene.sandbox))?;
    drop(writes.write_all(b"\x7fELF and more"));
    assert!(answered(&writes)?.is_empty());
    let silent = UnixStream::connect(socket(&scene.sandbox))?;
    let start = Instant::now();
    assert!(answered(&silent)?.is_empty());
    assert!(start.elapsed() < at_most(Duration::from_secs(1)));
    scene
        .daemon
        .logs("not the kernel, which connects for what dumps core")?;
    assert!(scene.daemon.records().all().is_empty());
    scene.end()
}

#[test]
fn a_flood_of_connections_holds_up_nobody() -> Result<()> {
    needs!(CoreSocket, Root, Runc);
    let scene = Scene::new(&run_rule(r#""/probe""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let good = CoreDump::of(container.init())?;
    assert_eq!(scene.dump(&good)?.0.outcome, Outcome::Done);
    let before = until(Duration::from_secs(5), "quiet", || {
        descriptors(&scene.daemon).ok()
    })?;
    let mut flood = Vec::new();
    for number in 0..900 {
        let mut stream = UnixStream::connect(socket(&scene.sandbox))?;
        if number % 2 == 0 {
            drop(stream.write_all(&question()));
        }
        flood.push(stream);
    }
    let start = Instant::now();
    assert_eq!(scene.dump(&good)?.0.outcome, Outcome::Done);
    assert!(
        start.elapsed() < at_most(Duration::from_secs(2)),
        "{:?}",
        start.elapsed()
    );
    // They are closed at our end while they still hold theirs.
    until(Duration::from_secs(10), "the flood's end", || {
        (descriptors(&scene.daemon).ok()? <= before + 4).then_some(())
    })?;
    drop(flood);
    drop(container);
    scene.end()
}
