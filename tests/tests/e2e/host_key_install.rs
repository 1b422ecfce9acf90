//! `upcallctl install key` on the host's own /sbin/request-key, beside its dpkg; and back.

use std::process::{Output, Stdio};

use anyhow::Result;
use upcall_e2e::command::{command, run};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::key_hook::HostKeyHook;
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Record;

const RULES: &str = r#"
[[rule]]
upcall = "key"
match.key = { type = "user", description = "given:*" }
answer = { payload = "what was given", ttl = "1s" }
"#;

/// The program's bytes, and what dpkg knows of it.
fn standing() -> Result<(Vec<u8>, String, String)> {
    let program = std::fs::read("/sbin/request-key")?;
    let diverted = command("dpkg-divert")
        .args(["--list", "*request-key*"])
        .output()?;
    let verified = command("dpkg").args(["--verify", "keyutils"]).output()?;
    let text = |output: Output| String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((program, text(diverted), text(verified)))
}

fn ctl(sandbox: &Sandbox, words: &[&str]) -> Result<(bool, String)> {
    let mut ctl = sandbox.ctl();
    let output = ctl.args(words).stdin(Stdio::null()).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn ask(sandbox: &Sandbox, words: &[&str]) -> Result<String> {
    let output = command(sandbox.path("bin/key-me")).args(words).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn the_distributions_program_is_diverted_ours_is_tried_and_theirs_comes_back() -> Result<()> {
    needs!(HostHooks, Root);
    let sandbox = Sandbox::new()?;
    sandbox.rules(RULES)?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let borrowed = HostKeyHook::borrow_name()?;
    let before = standing()?;
    assert_eq!((before.1.as_str(), before.2.as_str()), ("", ""));

    let (good, said) = ctl(&sandbox, &["install", "key", "--dry-run"])?;
    assert!(good && said.contains("request-key.upcalld-was"), "{said}");
    assert_eq!(standing()?, before);

    // Nobody hears of the key: what was put in goes out again.
    let socket = sandbox.sockets().join("upcall.sock");
    let aside = sandbox.sockets().join("aside.sock");
    std::fs::rename(&socket, &aside)?;
    let (good, said) = ctl(&sandbox, &["install", "key"])?;
    assert!(
        !good && said.contains("upcalld did not hear of it"),
        "{said}"
    );
    assert_eq!(standing()?, before);
    std::fs::rename(&aside, &socket)?;

    for _ in 0..2 {
        let (good, said) = ctl(&sandbox, &["install", "key"])?;
        assert!(
            good && said.contains("asked for a key and got it"),
            "{said}"
        );
    }
    let tested = |record: &Record| record.verdict.actions == ["self_test"];
    let within = std::time::Duration::from_secs(10);
    let record = daemon.records().wait_for(within, "a self-test", tested)?;
    assert_eq!(record.kind, "key", "{record:?}");
    let truename = run(command("dpkg-divert").args(["--truename", "/sbin/request-key"]))?;
    assert_eq!(truename.trim(), "/sbin/request-key.upcalld-was");
    assert_eq!(
        standing()?.2,
        "",
        "dpkg finds its program where it was told"
    );
    let (_, said) = ctl(&sandbox, &["doctor", "--json"])?;
    assert!(said.contains("/sbin/request-key is ours"), "{said}");

    // The kernel asks us, and `pass` is the distribution's.
    assert_eq!(
        ask(&sandbox, &["user", "given:a", "x"])?,
        "key what was given"
    );
    assert_eq!(
        ask(&sandbox, &["user", "debug:mouse", "cheese"])?,
        "key Debug cheese"
    );

    // As an upgrade does it that was not told.
    let copy = [
        "-p",
        "/sbin/request-key.upcalld-was",
        "/sbin/request-key.new",
    ];
    run(command("cp").args(copy))?;
    std::fs::rename("/sbin/request-key.new", "/sbin/request-key")?;
    let (_, said) = ctl(&sandbox, &["doctor"])?;
    assert!(
        said.contains("/sbin/request-key is not ours any more"),
        "{said}"
    );
    let (good, said) = ctl(&sandbox, &["install", "key"])?;
    assert!(good, "{said}");

    let (good, said) = ctl(&sandbox, &["uninstall", "key"])?;
    assert!(good && said.contains("again what it was"), "{said}");
    assert_eq!(standing()?, before);
    assert_eq!(
        ask(&sandbox, &["user", "debug:cat", "milk"])?,
        "key Debug milk"
    );
    borrowed.put_back()?;
    daemon.stop(&sandbox)
}
