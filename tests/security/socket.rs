//! Attacks on the daemon's socket: who may speak there, and what is done about nonsense.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use upcall_e2e::command::{command, pause, until};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_helpers::wire::{CORE_WORDS, Hook, Request, RequestFd};
use upcalld::store::record::Outcome;

use crate::scene::{Scene, run_rule};

/// A connection to a sandbox's daemon.
pub(crate) fn connected(sandbox: &Sandbox) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(
        socket.as_raw_fd(),
        &UnixAddr::new(&sandbox.sockets().join("upcall.sock"))?,
    )?;
    Ok(socket)
}

pub(crate) fn send(socket: &OwnedFd, bytes: &[u8], fds: &[RawFd]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

/// A request of a shim's for this process.
fn request(pid: u32, fds: Vec<RequestFd>) -> Result<Vec<u8>> {
    let word = |specifier: &&str| match *specifier {
        "%P" | "%I" | "%p" | "%i" => pid.to_string().into_bytes(),
        "%F" => b"3".to_vec(),
        _ => b"1".to_vec(),
    };
    let request = Request {
        hook: Hook::Core,
        argv: CORE_WORDS.iter().map(word).collect(),
        fds,
        started: 0,
        id: None,
        key: None,
    };
    Ok(request.encode()?)
}

fn descriptors(daemon: &Daemon) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count())
}

#[test]
fn nobody_but_root_can_connect() -> Result<()> {
    needs!(Root);
    let scene = Scene::new("")?;
    let path = scene.sandbox.sockets().join("upcall.sock");
    let mut nobody = command(scene.sandbox.path("bin/hostile"));
    scene
        .sandbox
        .program("crash-me", &scene.sandbox.path("bin/hostile"))?;
    nobody
        .arg("connect")
        .arg(&path)
        .uid(65_534)
        .gid(65_534)
        .current_dir("/");
    let said = String::from_utf8_lossy(&nobody.output()?.stdout).into_owned();
    assert_eq!(said, "Err(EACCES)\n");
    scene.end()
}

#[test]
fn root_who_is_not_the_kernels_child_is_not_believed() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    sandbox.rules(&run_rule(r#""/probe""#, ""))?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    // Even our own shim, started by hand: it does as if nobody were there.
    let dump = CoreDump::of(container.init())?;
    let ended = dump.dump(&sandbox)?;
    assert_eq!((ended.code, ended.taken), (0, true));
    daemon.logs("was not started by the kernel")?;
    let mut spool = std::fs::read_dir(sandbox.spool())?.flatten();
    assert!(spool.any(|entry| entry.path().extension() == Some("core".as_ref())));
    assert!(daemon.records().all().is_empty());
    daemon.stop(&sandbox)
}

#[test]
fn nonsense_costs_a_line_in_the_log_and_nothing_else() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/probe""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let good = CoreDump::of(container.init())?;
    assert_eq!(scene.dump(&good)?.0.outcome, Outcome::Done);
    pause(Duration::from_millis(100));
    let before = descriptors(&scene.daemon)?;
    let three = vec![RequestFd::Stdin, RequestFd::Claim, RequestFd::Pidfd];
    let whole = request(container.init(), three.clone())?;
    let file = std::fs::File::open("/dev/null")?;
    let fd = file.as_raw_fd();
    let mut attempts: Vec<(Vec<u8>, Vec<RawFd>)> = vec![
        (vec![], vec![]),
        (b"\0".to_vec(), vec![]),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![fd; 3]),
        (vec![0xff; 4096], vec![fd; 3]),
        // Fewer, more and many more descriptors than are named; and the same ones twice.
        (whole.clone(), vec![]),
        (whole.clone(), vec![fd; 2]),
        (whole.clone(), vec![fd; 4]),
        (whole.clone(), vec![fd; 253]),
        (
            request(container.init(), vec![RequestFd::Stdin, RequestFd::Stdin])?,
            vec![fd; 2],
        ),
        // Longer than any record may be.
        ([whole.clone(), vec![0; 140 * 1024]].concat(), vec![fd; 3]),
    ];
    for length in [1, 4, 11, 12, 13, 20, whole.len() / 2, whole.len() - 1] {
        attempts.push((whole[..length].to_vec(), vec![fd; 3]));
    }
    let mut long = whole.clone();
    long.push(0);
    attempts.push((long, vec![fd; 3]));
    for (bytes, fds) in attempts {
        let socket = connected(&scene.sandbox)?;
        // Longer than the kernel takes in one: refused before it gets there.
        let _ = send(&socket, &bytes, &fds);
        drop(socket);
    }
    // A request that is right, with descriptors that are not what they are called: nothing waits for them.
    let known = scene.ids();
    let liar = connected(&scene.sandbox)?;
    send(&liar, &whole, &[fd; 3])?;
    let record = scene
        .daemon
        .records()
        .wait("the lie", |record| !known.contains(&record.id))?;
    assert_eq!(
        record.verdict.host_only.as_deref(),
        Some("identity_lost"),
        "{record:?}"
    );
    assert!(scene.kept(&record).is_err());
    drop(liar);
    // Who connects and says nothing is not waited for, and keeps nobody waiting.
    let silent: Vec<OwnedFd> = (0..50)
        .map(|_| connected(&scene.sandbox))
        .collect::<Result<_>>()?;
    assert_eq!(scene.dump(&good)?.0.outcome, Outcome::Done);
    drop(silent);
    until(
        Duration::from_secs(5),
        "its descriptors to be closed",
        || (descriptors(&scene.daemon).ok()? <= before).then_some(()),
    )?;
    assert_eq!(scene.dump(&good)?.0.outcome, Outcome::Done);
    scene.end()
}

#[test]
fn a_crowd_at_the_socket_is_served() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(
        "[[rule]]\nupcall = \"core\"\nmatch.container = {}\nstore = { ignore_limit = true }\n",
    )?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(20_000);
    let started: Vec<_> = (0..60)
        .map(|_| dump.start(&scene.sandbox))
        .collect::<Result<_>>()?;
    let taken = started
        .into_iter()
        .map(|started| started.wait().map(|ended| ended.taken));
    assert!(
        taken
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .all(|taken| taken)
    );
    // Every one of them is told, kept or refused, in a record of its own or in one of many.
    let records = scene.daemon.records();
    let told = || records.all().iter().map(|record| record.count).sum::<u64>();
    let all = until(Duration::from_secs(15), "their records", || {
        (told() == 60).then_some(())
    });
    all.with_context(|| format!("{} are told of: {}", told(), scene.daemon.log()))?;
    scene.end()
}
