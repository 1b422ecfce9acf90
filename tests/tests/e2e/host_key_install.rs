//! `upcallctl install key` on the host's own /sbin/request-key, beside its dpkg; and back.

use std::path::Path;
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

/// What `install key --mode line` writes.
const LINES: &str = "/etc/request-key.d/upcalld.conf";

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

fn record(daemon: &Daemon, description: &str) -> Result<Record> {
    let of = |record: &Record| {
        let key = record.key.as_ref();
        key.is_some_and(|key| key.description == description)
    };
    let within = std::time::Duration::from_secs(10);
    daemon.records().wait_for(within, description, of)
}

fn ask(sandbox: &Sandbox, words: &[&str]) -> Result<String> {
    let output = command(sandbox.path("bin/key-me")).args(words).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn the_distributions_program_is_diverted_ours_is_tried_and_theirs_comes_back() -> Result<()> {
    needs!(HostHooks, Root, Dpkg);
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

#[test]
fn a_line_sends_keys_of_some_types_and_the_program_stays_the_distributions() -> Result<()> {
    needs!(HostHooks, Root, Dpkg);
    let sandbox = Sandbox::new()?;
    sandbox.rules(RULES)?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let borrowed = HostKeyHook::borrow_name()?;
    let before = standing()?;
    let line = ["install", "key", "--mode", "line", "--type", "user"];
    let (good, said) = ctl(&sandbox, &[&line[..], &["--dry-run"]].concat())?;
    assert!(good && said.contains("user  before us: nobody"), "{said}");
    assert!(!Path::new(LINES).exists());

    // Nobody hears of the key: the lines go out again.
    let socket = sandbox.sockets().join("upcall.sock");
    let aside = sandbox.sockets().join("aside.sock");
    std::fs::rename(&socket, &aside)?;
    let (good, said) = ctl(&sandbox, &line)?;
    assert!(!good && said.contains("did not hear of it"), "{said}");
    assert!(!Path::new(LINES).exists());
    std::fs::rename(&aside, &socket)?;

    for _ in 0..2 {
        let (good, said) = ctl(&sandbox, &line)?;
        assert!(
            good && said.contains("asked for a key and got it"),
            "{said}"
        );
    }
    let text = std::fs::read_to_string(LINES)?;
    assert!(!text.contains("self-test"), "{text}");
    assert_eq!(standing()?, before, "the program is as it was");
    let (_, said) = ctl(&sandbox, &["doctor", "--json"])?;
    assert!(said.contains("upcalld.conf is ours, for user"), "{said}");
    let (_, said) = ctl(&sandbox, &["status"])?;
    assert!(said.contains("ours by /etc/request-key.d"), "{said}");
    let (good, said) = ctl(&sandbox, &["install", "key"])?;
    assert!(!good && said.contains("already"), "{said}");

    assert_eq!(
        ask(&sandbox, &["user", "given:line", "x"])?,
        "key what was given"
    );
    let record = record(&daemon, "given:line")?;
    assert_eq!(record.evidence.process.as_deref(), Some("auth_key"));
    assert_eq!(record.process.comm.as_deref(), Some("key-me"));
    // What fits another line better goes there, as ever.
    assert_eq!(
        ask(&sandbox, &["user", "debug:mouse", "cheese"])?,
        "key Debug cheese"
    );
    // Nobody answered it before, so `pass` leads to nobody, and never round in a circle.
    assert_eq!(ask(&sandbox, &["user", "passed:a", "x"])?, "no ENOKEY");
    let record = self::record(&daemon, "passed:a")?;
    assert_eq!(record.reason.as_deref(), Some("helper_exit"), "{record:?}");

    let (good, said) = ctl(&sandbox, &["uninstall", "key"])?;
    assert!(good && said.contains("is removed"), "{said}");
    assert!(!Path::new(LINES).exists());

    assert_eq!(standing()?, before);
    borrowed.put_back()?;
    daemon.stop(&sandbox)
}

#[test]
fn a_line_passes_to_what_answered_its_type_before() -> Result<()> {
    needs!(HostHooks, Root, Dpkg);
    let sandbox = Sandbox::new()?;
    sandbox.rules(RULES)?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let borrowed = HostKeyHook::borrow_name()?;
    let before = standing()?;
    let names = ["install", "key", "--mode", "line", "--type", "dns_resolver"];
    let (good, said) = ctl(&sandbox, &names)?;
    assert!(
        good && said.contains("before us: /sbin/key.dns_resolver %k"),
        "{said}"
    );
    assert_eq!(
        ask(&sandbox, &["dns_resolver", "localhost", "ipv4"])?,
        "key 127.0.0.1"
    );
    let record = record(&daemon, "localhost")?;
    assert_eq!(record.verdict.actions, ["pass"], "{record:?}");
    let (good, said) = ctl(&sandbox, &["uninstall"])?;
    assert!(good, "{said}");
    assert_eq!(standing()?, before);
    assert!(!Path::new(LINES).exists());
    borrowed.put_back()?;
    daemon.stop(&sandbox)
}

#[test]
fn what_took_the_key_hook_is_told_and_the_hook_taken_back_where_that_is_wished() -> Result<()> {
    needs!(HostHooks, Root, Dpkg);
    for retake in [false, true] {
        let sandbox = Sandbox::new()?;
        sandbox.settings(&format!("hooks.retake = {retake}\n"))?;
        sandbox.rules(RULES)?;
        let daemon = Daemon::start_strict(&sandbox)?;
        let borrowed = HostKeyHook::borrow_name()?;
        let before = standing()?;
        let looked = |what: &str| -> Result<()> {
            // It looks when it is asked, too.
            let (_, said) = ctl(&sandbox, &["metrics"])?;
            let wanted = format!("upcalld_hook_state{{hook=\"key\",state=\"{what}\"}} 1");
            anyhow::ensure!(said.contains(&wanted), "not {what}: {said}");
            Ok(())
        };
        let (good, said) = ctl(&sandbox, &["install", "key"])?;
        assert!(good, "{said}");
        looked("ours")?;
        let was = "/sbin/request-key.upcalld-was";
        run(command("cp").args(["-p", was, "/sbin/request-key.new"]))?;
        std::fs::rename("/sbin/request-key.new", "/sbin/request-key")?;
        looked(if retake { "ours" } else { "foreign" })?;
        daemon.logs("key is foreign: /sbin/request-key is not ours any more")?;
        let log = daemon.log();
        let (said, taken) = if retake {
            ("key what was given", true)
        } else {
            ("no ENOKEY", false)
        };
        assert_eq!(ask(&sandbox, &["user", "given:a", "x"])?, said);
        assert_eq!(
            log.contains("was taken back (hooks.retake)"),
            taken,
            "{log}"
        );
        let (good, said) = ctl(&sandbox, &["uninstall", "key"])?;
        assert!(good, "{said}");
        looked("not_installed")?;
        assert_eq!(standing()?, before);
        borrowed.put_back()?;
        daemon.stop(&sandbox)?;
    }
    Ok(())
}
