//! The host's hooks are put back: at the end, after a panic, on a signal, after a kill; by tests and by the demo.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use upcall_e2e::command::{command, pause, until};
use upcall_e2e::container::pid_of;
use upcall_e2e::hook::{HostHook, standing};
use upcall_e2e::needs;
use upcall_e2e::programs::Programs;
use upcall_e2e::sandbox::Sandbox;

/// Tells the test below what to do once it has the hook.
const THEN: &str = "UPCALLD_TEST_THEN";

/// What stands in the hooks when nobody has borrowed them.
fn quiet() -> Result<(String, String)> {
    let hook = HostHook::borrow_quietly()?;
    Ok((hook.pattern().to_owned(), hook.pipe_limit().to_owned()))
}

/// Not a test of its own: takes the hook, and comes to an end.
#[test]
#[ignore = "run by the others here"]
fn takes_the_hook() -> Result<()> {
    let then = std::env::var(THEN).context(THEN)?;
    let hook = HostHook::borrow()?;
    let sandbox = Sandbox::new()?;
    hook.install(&sandbox)?;
    println!("taken");
    assert_ne!(then, "panic", "as asked for");
    pause(Duration::from_mins(1));
    Ok(())
}

/// Runs it.
fn taker(then: &str) -> Result<Child> {
    let mut taker = command(std::env::current_exe()?);
    taker.args([
        "--exact",
        "host_hooks::takes_the_hook",
        "--include-ignored",
        "--nocapture",
    ]);
    taker
        .env(THEN, then)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(taker.spawn()?)
}

/// Waits until our shim stands in the hook.
fn taken() -> Result<()> {
    until(Duration::from_secs(10), "the hook to be taken", || {
        standing().ok()?.0.contains("/libexec/core").then_some(())
    })
}

#[test]
fn after_a_panic() -> Result<()> {
    needs!(HostHooks, Root);
    let before = quiet()?;
    assert!(!taker("panic")?.wait()?.success());
    assert_eq!(standing()?, before);
    Ok(())
}

#[test]
fn on_a_signal() -> Result<()> {
    needs!(HostHooks, Root);
    let before = quiet()?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut taker = taker("wait")?;
        taken()?;
        kill(pid_of(taker.id()), signal)?;
        assert_eq!(
            taker.wait()?.signal(),
            Some(signal as i32),
            "it still dies of it"
        );
        assert_eq!(standing()?, before, "{signal}");
    }
    Ok(())
}

#[test]
fn by_the_next_one_after_a_kill() -> Result<()> {
    needs!(HostHooks, Root);
    let before = quiet()?;
    let mut taker = taker("wait")?;
    taken()?;
    taker.kill()?;
    taker.wait()?;
    assert_ne!(standing()?, before, "nobody was there to do it");
    assert_eq!(quiet()?, before);
    assert_eq!(standing()?, before);
    Ok(())
}

/// The demo, as `make demo` runs it.
fn demo() -> Result<Command> {
    let programs = Programs::get()?;
    let mut demo = command(env!("CARGO_BIN_EXE_demo"));
    demo.arg("--libexec")
        .arg(&programs.directory)
        .arg("--daemon")
        .arg(&programs.daemon);
    demo.stdin(Stdio::null());
    Ok(demo)
}

#[test]
fn by_the_demo_which_is_as_expected() -> Result<()> {
    needs!(HostHooks, Root, Runc, Podman, Unprivileged);
    let before = quiet()?;
    let output = demo()?.arg("--json").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(standing()?, before);
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let rows = document
        .get("rows")
        .and_then(Value::as_array)
        .context("rows")?;
    assert_eq!(rows.len(), 9);
    for row in rows {
        assert_eq!(row.get("as_expected"), Some(&Value::Bool(true)), "{row}");
    }
    assert!(!std::path::Path::new("/run/upcalld-demo").exists());
    Ok(())
}

#[test]
fn by_the_demo_when_it_is_interrupted() -> Result<()> {
    needs!(HostHooks, Root, Runc, Podman, Unprivileged);
    let before = quiet()?;
    for (signal, millis) in [
        (Signal::SIGINT, 40),
        (Signal::SIGINT, 150),
        (Signal::SIGTERM, 250),
        (Signal::SIGINT, 400),
        (Signal::SIGINT, 550),
    ] {
        let mut demo = demo()?
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        pause(Duration::from_millis(millis));
        kill(pid_of(demo.id()), signal)?;
        let status = demo.wait()?;
        // It may have been done by then, or not have begun to listen.
        let codes = [Some(130), Some(0), None];
        assert!(codes.contains(&status.code()), "{millis} ms: {status}");
        assert_eq!(standing()?, before, "{millis} ms");
        assert!(
            !std::path::Path::new("/run/upcalld-demo").exists(),
            "{millis} ms"
        );
    }
    Ok(())
}
