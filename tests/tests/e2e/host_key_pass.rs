//! `pass`: the distribution's request-key with its own configuration, and nothing of it is different.

use std::process::Stdio;

use anyhow::Result;
use upcall_e2e::command::command;
use upcall_e2e::key_hook::HostKeyHook;
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;

use crate::host_key_scene::{KeyScene, key};

/// Keys that the lines of Debian's request-key.conf are about, and one that none is.
const KEYS: [[&str; 3]; 10] = [
    ["user", "debug:plain", "given"],
    ["user", "debug:empty", ""],
    ["user", "debug:no", "negate"],
    ["user", "debug:rejected", "rejected"],
    ["user", "debug:expired", "expired"],
    ["user", "debug:revoked", "revoked"],
    ["user", "debug:loop:a", "what is piped"],
    ["user", "debug: a b;c", "with blanks; and more"],
    ["user", "nobodys:a", "x"],
    ["dns_resolver", "localhost", "ipv4"],
];

/// What it says it would start: the words of the program, and none where no line fits.
fn oracle([kind, description, callout]: &[&str; 3]) -> Result<Vec<String>> {
    let described = format!("{kind};0;0;1f0000;{description}");
    let output = command("/sbin/request-key")
        .args(["-d", "-l", "-n", "-v", "-D", &described])
        .args(["create", "1", "0", "0", "0", "0", "0", callout])
        .current_dir("/etc")
        .stdin(Stdio::null())
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said)?;
    let words = said
        .lines()
        .filter(|line| line.starts_with("Run ") || line.starts_with("- argv["));
    Ok(words.map(str::to_owned).collect())
}

#[test]
fn what_is_passed_is_answered_as_the_distributions_program_says_it_would() -> Result<()> {
    needs!(HostHooks, Root);
    // Every key by the distribution's program alone, then through us.
    let borrowed = HostKeyHook::borrow_name()?;
    let sandbox = Sandbox::new()?;
    let alone: Vec<String> = KEYS
        .iter()
        .map(|words| {
            let output = command(sandbox.path("bin/key-me")).args(words).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        })
        .collect::<Result<_>>()?;
    drop(sandbox);
    borrowed.put_back()?;
    let fits: Vec<Vec<String>> = KEYS.iter().map(oracle).collect::<Result<_>>()?;
    let scene = KeyScene::new("")?;
    for ((words, alone), fits) in KEYS.iter().zip(&alone).zip(&fits) {
        let said = scene.ask(words)?;
        assert_eq!(&said, alone, "{words:?}");
        let [_, description, callout] = words;
        let record = scene.record(description)?;
        assert_eq!(record.verdict.actions, ["pass"], "{record:?}");
        let answered = key(&record)?.answer.as_deref() == Some("helper");
        assert_eq!(answered, !fits.is_empty(), "{fits:?} {record:?}");
        let program = fits.first().map_or("", String::as_str);
        if program.ends_with("request-key-debug.sh") {
            assert_eq!(said, format!("key Debug {callout}").trim(), "{fits:?}");
        }
    }
    scene.end()
}
