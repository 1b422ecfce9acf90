//! The shim alone: started as the kernel starts it, answered at once.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Instant;

use anyhow::Result;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};
use std::os::fd::AsRawFd;
use upcall_e2e::command::command;
use upcall_e2e::programs::Programs;
use upcall_e2e::sandbox::Sandbox;
use upcall_helpers::seqpacket;
use upcall_helpers::wire::{CORE_WORDS, Request, Verdict};

use crate::stats::{Row, percentile};

pub(crate) fn run(programs: &Programs, times: usize) -> Result<()> {
    let sandbox = Sandbox::at("/run/upcalld-bench".into(), programs.clone())?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(
        listener.as_raw_fd(),
        &UnixAddr::new(&sandbox.sockets().join("upcall.sock"))?,
    )?;
    listen(&listener, Backlog::new(16)?)?;
    let server = std::thread::spawn(move || serve(&listener, times));
    let mut rows = [
        Row::new("/bin/true"),
        Row::new("upcall-shim, asking and answered"),
    ];
    for _ in 0..times {
        let start = Instant::now();
        command("/bin/true").status()?;
        rows[0]
            .rounds
            .push(vec![start.elapsed().as_secs_f64() * 1e6]);
        let start = Instant::now();
        let mut shim = command(sandbox.libexec().join("core"));
        shim.arg0("core")
            .arg(format!("--hooks={}", sandbox.hooks().display()))
            .args(CORE_WORDS);
        shim.stdin(Stdio::null()).env_clear().status()?;
        rows[1]
            .rounds
            .push(vec![start.elapsed().as_secs_f64() * 1e6]);
    }
    drop(server.join());
    println!("a program's start and end, {times} times in turn");
    for row in &rows {
        println!(
            "  {:<38} {:>5.0} µs {:>5.0} µs",
            row.name,
            percentile(&row.all(), 50),
            percentile(&row.all(), 90)
        );
    }
    let [plain, shim] = &rows;
    println!("  the shim to /bin/true: {:.2}\n", shim.ratio(plain));
    Ok(())
}

/// Reads each request and lets its shim go.
fn serve(listener: &OwnedFd, times: usize) -> Result<()> {
    let done = Verdict::Done.encode()?;
    for _ in 0..times {
        let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        let connection = upcall_helpers::sys::inherited(raw)?;
        let received = seqpacket::receive(connection.as_fd())?;
        Request::decode(&received.record, received.fds.len())?;
        seqpacket::send(connection.as_fd(), &done, &[])?;
    }
    Ok(())
}
