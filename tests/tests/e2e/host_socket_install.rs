//! `upcallctl install core` by socket, on the kernel's own hook, and what takes over when nobody listens any more: the very
//! line of the shipped upcalld.socket.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use upcall_e2e::command::{command, run};
use upcall_e2e::daemon::{Daemon, Sockets};
use upcall_e2e::hook::{HostHook, standing};
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

const SOCKET: &str = include_str!("../../../config/defaults/systemd/upcalld.socket");
const STORE: &str = "[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\n";

fn ctl(sandbox: &Sandbox, words: &str) -> Command {
    let mut ctl = sandbox.ctl();
    ctl.args(words.split_whitespace())
        .env_clear()
        .current_dir("/");
    ctl
}

/// Lets a process crash; returns its pid.
fn crash(sandbox: &Sandbox) -> Result<u32> {
    let mut crash = command(sandbox.path("bin/crash-me"));
    crash.current_dir(sandbox.root()).stderr(Stdio::null());
    let mut crash = crash.stdin(Stdio::null()).spawn()?;
    crash.wait()?;
    Ok(crash.id())
}

fn hook_of(record: &Record) -> &str {
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    record.core.as_ref().map_or("", |core| core.hook.as_str())
}

#[test]
fn the_best_way_is_taken_and_the_shim_takes_over_when_nobody_listens() -> Result<()> {
    needs!(HostHooks, CoreSocket, Root);
    let hook = HostHook::borrow()?;
    let before = standing()?;
    let sandbox = Sandbox::new()?;
    sandbox.rules(STORE)?;
    std::fs::remove_file(sandbox.hooks().join("core"))?;
    let sockets = Sockets::listen(&sandbox)?;
    let daemon = Daemon::start_activated(&sandbox, &sockets)?;

    let dry = run(&mut ctl(&sandbox, "install core --dry-run"))?;
    assert!(dry.contains("-> @@"), "{dry}");
    assert_eq!(standing()?, before);
    let said = run(&mut ctl(&sandbox, "install core"))?;
    assert!(
        said.starts_with("core: ours, socket mode; self-test"),
        "{said}"
    );
    assert!(standing()?.0.starts_with("@@/"), "{:?}", standing()?);
    let status = run(&mut ctl(&sandbox, "status"))?;
    assert!(status.contains("ours: socket (@@)"), "{status}");
    assert_eq!(hook_of(&daemon.records().of(crash(&sandbox)?)?), "socket");

    // Another way, and back: what stood there first stays known.
    let said = run(&mut ctl(&sandbox, "install core --mode pipe"))?;
    assert!(
        said.starts_with("core: ours, pipe mode; self-test"),
        "{said}"
    );
    assert_eq!(hook_of(&daemon.records().of(crash(&sandbox)?)?), "pipe");
    run(&mut ctl(&sandbox, "install core --mode socket"))?;

    // The socket is given up, as systemd would say it: the shim keeps what comes, for the next daemon.
    let line = SOCKET
        .lines()
        .find_map(|line| line.strip_prefix("ExecStopPre=-"));
    let line = line.and_then(|line| line.strip_prefix("/usr/bin/upcallctl "));
    let line = line.context("ExecStopPre")?;
    daemon.stop(&sandbox)?;
    run(&mut ctl(&sandbox, line))?;
    drop(sockets);
    assert!(standing()?.0.starts_with('|'), "{:?}", standing()?);
    let meanwhile = crash(&sandbox)?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let record = daemon.records().of(meanwhile)?;
    assert_eq!(hook_of(&record), "pipe", "{record:?}");

    run(&mut ctl(&sandbox, "uninstall core"))?;
    assert_eq!(standing()?, before);
    // Not ours: nothing is done, whoever stops the socket.
    run(&mut ctl(&sandbox, line))?;
    assert_eq!(standing()?, before);
    daemon.stop(&sandbox)?;
    hook.put_back()
}

#[test]
fn without_a_service_manager_it_stays_with_the_pipe() -> Result<()> {
    needs!(HostHooks, CoreSocket, Root);
    let hook = HostHook::borrow()?;
    let sandbox = Sandbox::new()?;
    sandbox.rules(STORE)?;
    std::fs::remove_file(sandbox.hooks().join("core"))?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let said = run(&mut ctl(&sandbox, "install core"))?;
    assert!(
        said.starts_with("core: ours, pipe mode; self-test"),
        "{said}"
    );
    assert!(
        said.contains("not in socket mode: upcalld.socket keeps no socket"),
        "{said}"
    );
    assert!(standing()?.0.starts_with('|'));
    let said = run(&mut ctl(&sandbox, "install core --mode socket"))?;
    assert!(
        said.starts_with("core: ours, socket mode; self-test"),
        "{said}"
    );
    assert!(said.contains("take care"), "{said}");
    assert_eq!(hook_of(&daemon.records().of(crash(&sandbox)?)?), "socket");
    run(&mut ctl(&sandbox, "uninstall core"))?;
    daemon.stop(&sandbox)?;
    hook.put_back()
}
