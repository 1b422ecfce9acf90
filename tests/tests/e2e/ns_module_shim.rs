//! The module shim against a daemon that is there and does not answer: it refuses by itself, whatever that one does.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, send,
    socket,
};
use upcall_e2e::command::{command, until};
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::sys;

/// A place without a daemon, where modprobe would leave a file.
struct Scene {
    sandbox: Sandbox,
    listener: OwnedFd,
}

impl Scene {
    fn new(backlog: i32) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let program = sandbox.path("passed");
        std::fs::write(
            &program,
            format!("#!/bin/sh\n: >{}/loaded\n", sandbox.root()),
        )?;
        std::fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let path = sandbox.sockets().join("upcall.sock");
        std::fs::write(
            sandbox.hooks().join("module"),
            format!(
                "socket = {}\nprogram = {}\n",
                path.display(),
                program.display()
            ),
        )?;
        let listener = seqpacket()?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
        listen(&listener, Backlog::new(backlog)?)?;
        Ok(Self { sandbox, listener })
    }

    /// As the kernel starts it, but for the directory of the hook's file.
    fn shim(&self) -> Result<Child> {
        let hooks = format!("--hooks={}", self.sandbox.hooks().display());
        let mut shim = command(self.sandbox.libexec().join("modprobe"));
        shim.args([&hooks, "-q", "--", "fs-nosuch"]);
        Ok(shim.stdin(Stdio::null()).spawn()?)
    }

    /// It ends by itself, badly, and nothing is loaded.
    fn refuses(&self, mut shim: Child) -> Result<()> {
        let status = until(Duration::from_secs(30), "the shim's end", || {
            shim.try_wait().ok().flatten()
        })?;
        ensure!(!status.success(), "{status}");
        ensure!(!self.sandbox.path("loaded").exists(), "it was loaded");
        Ok(())
    }

    fn accept(&self) -> Result<OwnedFd> {
        Ok(sys::accept(&self.listener)?)
    }
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

#[test]
fn a_daemon_that_never_answers_is_a_refusal() -> Result<()> {
    needs!(Root);
    let scene = Scene::new(8)?;
    // It hears, and says nothing: the connection is open until the shim has gone.
    let shim = scene.shim()?;
    let held = scene.accept()?;
    scene.refuses(shim)?;
    drop(held);
    // It does not even hear.
    scene.refuses(scene.shim()?)?;
    drop(scene.accept()?);
    // It says something that is no verdict, or hangs up.
    let shim = scene.shim()?;
    let talking = scene.accept()?;
    send(talking.as_raw_fd(), b"\xff\xfe?", MsgFlags::empty())?;
    scene.refuses(shim)?;
    let shim = scene.shim()?;
    drop(scene.accept()?);
    scene.refuses(shim)
}

#[test]
fn a_daemon_whose_queue_is_full_is_a_refusal() -> Result<()> {
    needs!(Root);
    let scene = Scene::new(1)?;
    let path = scene.sandbox.sockets().join("upcall.sock");
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let client = seqpacket()?;
        connect(client.as_raw_fd(), &UnixAddr::new(&path)?)?;
        waiting.push(client);
    }
    scene.refuses(scene.shim()?)
}

#[test]
fn without_a_daemon_the_hosts_own_loads_it() -> Result<()> {
    needs!(Root);
    let scene = Scene::new(1)?;
    std::fs::remove_file(scene.sandbox.sockets().join("upcall.sock"))?;
    ensure!(scene.shim()?.wait()?.success(), "it is to pass");
    ensure!(scene.sandbox.path("loaded").exists(), "it is to be loaded");
    Ok(())
}
