//! The host's hooks are put back: at the end, after a panic, on a signal, after a kill; by tests and by the demo.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use upcall_e2e::command::{command, pause, until};
use upcall_e2e::container::pid_of;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::{HostHook, standing};
use upcall_e2e::needs;
use upcall_e2e::programs::Programs;
use upcall_e2e::sandbox::Sandbox;

/// What stands in the hooks when nobody has borrowed them.
fn quiet() -> Result<(String, String)> {
    let hook = HostHook::borrow_quietly()?;
    Ok((hook.pattern().to_owned(), hook.pipe_limit().to_owned()))
}

/// Somebody who takes the hook.
fn taker(then: &str) -> Result<Child> {
    let mut taker = command(env!("CARGO_BIN_EXE_borrow-hook"));
    taker
        .arg(then)
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

#[test]
fn by_a_daemon_that_has_the_hook_while_it_runs() -> Result<()> {
    needs!(HostHooks, Root);
    let hook = HostHook::borrow()?;
    let before = standing()?;
    let sandbox = Sandbox::new()?;
    sandbox.rules("[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\n")?;
    std::fs::remove_file(sandbox.hooks().join("core"))?;
    let daemon = Daemon::start_with(&sandbox, |daemon| {
        daemon.args(["--install", "core"]);
    })?;
    assert!(standing()?.0.contains(sandbox.root()), "{:?}", standing()?);
    let mut crash = command(sandbox.path("bin/crash-me"));
    let mut crash = crash.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = crash.id();
    crash.wait()?;
    let record = daemon.records().of(pid)?;
    assert_eq!(
        record.evidence.process.as_deref(),
        Some("kernel_pidfd"),
        "{record:?}"
    );
    daemon.stop(&sandbox)?;
    assert_eq!(standing()?, before);
    hook.put_back()
}

#[test]
fn another_programs_hook_is_told_and_taken_back_where_that_is_wished() -> Result<()> {
    needs!(HostHooks, Root);
    let hook = HostHook::borrow()?;
    for retake in [false, true] {
        let sandbox = Sandbox::new()?;
        sandbox.settings(&format!("hooks.retake = {retake}\n"))?;
        let daemon = Daemon::start_strict(&sandbox)?;
        hook.install(&sandbox)?;
        // Whoever asks for the status has the hook looked at, which else is every thirty seconds.
        let look = || -> Result<String> {
            let mut status = command(sandbox.programs.daemon.with_file_name("upcallctl"));
            status.arg("--run").arg(sandbox.sockets());
            status.arg("--config").arg(sandbox.config());
            let status = status.arg("status").stdin(Stdio::null()).output()?;
            Ok(String::from_utf8_lossy(&status.stdout).into_owned())
        };
        look()?;
        let ours = standing()?.0;
        for theirs in ["|/bin/false %P", "/tmp/core.%p"] {
            std::fs::write("/proc/sys/kernel/core_pattern", theirs)?;
            let said = look()?;
            daemon.logs(theirs)?;
            let (found, _) = standing()?;
            if retake {
                assert_eq!(found, ours);
            } else {
                assert_eq!(found, theirs);
                assert!(said.contains(theirs), "{said}");
            }
        }
        daemon.stop(&sandbox)?;
    }
    hook.put_back()
}

/// A line of the demo without what differs from run to run.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for letter in line.trim().chars() {
        let letter = if letter.is_ascii_digit() { '#' } else { letter };
        let repeats = ['#', ' '].contains(&letter) && shape.ends_with(letter);
        if !repeats {
            shape.push(letter);
        }
    }
    shape
}

#[test]
fn what_the_readme_shows_of_the_demo_is_what_it_prints() -> Result<()> {
    needs!(HostHooks, Root, Runc, Podman, Unprivileged);
    let readme = include_str!("../../../README.md");
    let (_, shown) = readme
        .split_once("# make demo")
        .context("the demo in README.md")?;
    let (shown, _) = shown.split_once("```").context("its end")?;
    let output = demo()?.output()?;
    let printed = String::from_utf8(output.stdout)?;
    let printed: Vec<String> = printed.lines().map(shape).collect();
    for line in shown
        .lines()
        .skip(1)
        .map(shape)
        .filter(|line| !line.is_empty())
    {
        assert!(
            printed.iter().any(|printed| printed.starts_with(&line)),
            "{line}: {printed:#?}"
        );
    }
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
