//! An older shim with this daemon, and a later daemon with this shim: while a package is upgraded the kernel starts one
//! of them and the other is still there. There is one version so far; what the others may do, the wire's rules say.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;
use nix::unistd::pipe2;
use upcall_e2e::kernel_like::{CoreDump, Ended};
use upcall_e2e::needs;
use upcall_e2e::registered::Registered;
use upcall_e2e::sandbox::Sandbox;
use upcall_helpers::seqpacket;
use upcall_helpers::wire::{CORE_WORDS, Hook, Request, RequestFd, Verdict, is_id};

use crate::scene::{Scene, nothing_in, spooled};

/// How long the other side may take for one message.
const PATIENCE: TimeVal = TimeVal::new(10, 0);

fn endpoint() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    setsockopt(&socket, ReceiveTimeout, &PATIENCE)?;
    Ok(socket)
}

/// Adds a field behind the others of a record (the layout is in the wire's documentation).
fn with_field(mut record: Vec<u8>, tag: u16, value: &[u8]) -> Result<Vec<u8>> {
    record.extend(tag.to_le_bytes());
    record.extend(u32::try_from(value.len())?.to_le_bytes());
    record.extend(value);
    let length = u32::try_from(record.len())?.to_le_bytes();
    let place = record.get_mut(8..12).context("a header")?;
    place.copy_from_slice(&length);
    Ok(record)
}

/// Tells the daemon of a crash of this process, in a request without an id, changed as wanted; gives the core, and
/// returns the verdict.
fn ask(
    sandbox: &Sandbox,
    pid: u32,
    core: &[u8],
    change: impl FnOnce(Vec<u8>) -> Result<Vec<u8>>,
) -> Result<Verdict> {
    let word = |specifier: &&str| match *specifier {
        "%P" | "%I" | "%p" | "%i" => pid.to_string().into_bytes(),
        "%s" => b"11".to_vec(),
        "%F" => b"3".to_vec(),
        _ => b"1".to_vec(),
    };
    let request = Request {
        hook: Hook::Core,
        argv: CORE_WORDS.iter().map(word).collect(),
        fds: vec![RequestFd::Stdin, RequestFd::Claim, RequestFd::Pidfd],
        started: 1,
        id: None,
        key: None,
    };
    let record = change(request.encode()?)?;
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let claim = EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let pidfd = upcall_helpers::sys::pidfd_open(pid)?;
    let shim = endpoint()?;
    let daemon = sandbox.sockets().join("upcall.sock");
    connect(shim.as_raw_fd(), &UnixAddr::new(&daemon)?)?;
    seqpacket::send(
        shim.as_fd(),
        &record,
        &[read.as_fd(), claim.as_fd(), pidfd.as_fd()],
    )?;
    drop(read);
    // Less than a pipe holds: nobody has to read it yet.
    File::from(write).write_all(core)?;
    let answer = seqpacket::receive(shim.as_fd())?;
    Ok(Verdict::decode(&answer.record)?)
}

#[test]
fn shims_without_an_id_and_with_more_than_is_known_are_answered() -> Result<()> {
    needs!(Root, Unprivileged);
    let scene = Scene::new("[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\n")?;
    let process = Registered::start(&scene.sandbox, "web")?;
    let core = b"\x7fELF and so on".repeat(1000);
    let later = |record| with_field(record, 0xff01, b"from the future");
    for what in ["older", "later"] {
        let known = scene.ids();
        let verdict = match what {
            "older" => ask(&scene.sandbox, process.init(), &core, Ok)?,
            _ => ask(&scene.sandbox, process.init(), &core, later)?,
        };
        assert_eq!(verdict, Verdict::Done, "{what}");
        let is_new = |record: &upcalld::store::record::Record| !known.contains(&record.id);
        let record = scene.daemon.records().wait(what, is_new)?;
        assert!(is_id(record.id.as_bytes()), "{what}: the daemon drew one");
        assert_eq!(scene.kept(&record)?, core, "{what}");
    }
    drop(process);
    scene.end()
}

/// A daemon that is asked once, and answers with these bytes.
fn answered(sandbox: &Sandbox, dump: &CoreDump, verdict: &[u8]) -> Result<Ended> {
    let path = sandbox.sockets().join("upcall.sock");
    remove_if_there(&path)?;
    let listener = endpoint()?;
    bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
    listen(&listener, Backlog::new(1)?)?;
    let shim = dump.start(sandbox)?;
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    let daemon = upcall_helpers::sys::inherited(raw)?;
    let asked = seqpacket::receive(daemon.as_fd())?;
    let request = Request::decode(&asked.record, asked.fds.len())?;
    ensure!(request.id.is_some(), "this shim draws an id");
    seqpacket::send(daemon.as_fd(), verdict, &[])?;
    drop((daemon, asked));
    shim.wait()
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[test]
fn the_shim_obeys_a_verdict_that_says_more_than_it_knows() -> Result<()> {
    needs!(Root, Unprivileged);
    let sandbox = Sandbox::new()?;
    let process = Registered::start(&sandbox, "web")?;
    let dump = CoreDump::of(process.init())?;
    let deny = Verdict::Deny { errno: 13, ttl: 0 };
    let later = |verdict: &Verdict| with_field(verdict.encode()?, 0xff01, b"from the future");
    // Nobody reads the core, and the shim does not either.
    let refused = answered(&sandbox, &dump, &later(&deny)?)?;
    assert!(
        refused.code != 0 && nothing_in(&sandbox.spool()),
        "{refused:?}"
    );
    let done = answered(&sandbox, &dump, &later(&Verdict::Done)?)?;
    assert!(done.code == 0 && nothing_in(&sandbox.spool()), "{done:?}");
    // What it must not skip makes the verdict none: as if nobody were there, the core is kept.
    let unknown = with_field(deny.encode()?, 0x7f01, b"but only on Sundays")?;
    let kept = answered(&sandbox, &dump, &unknown)?;
    assert!(kept.code == 0 && kept.taken, "{kept:?}");
    assert_eq!(spooled(&sandbox)?.0, dump.core());
    std::fs::remove_dir_all(sandbox.spool())?;
    let back = answered(&sandbox, &dump, &later(&Verdict::Fallback)?)?;
    assert!(back.code == 0 && back.taken, "{back:?}");
    assert_eq!(spooled(&sandbox)?.0, dump.core());
    drop(process);
    Ok(())
}
