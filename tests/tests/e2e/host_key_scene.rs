//! A daemon that the kernel's requests for keys come to, for as long as the test has borrowed the host's hook.

use std::time::Duration;

use anyhow::{Context, Result};
use upcall_e2e::command::{command, run};
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::key_hook::HostKeyHook;
use upcall_e2e::leftovers::no_authority;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Key, Record};

/// Runs a container's `/helper` with the key's number, for a second.
pub(crate) const HELPER: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
run = { in = "container", command = ["/helper", "{key}"], timeout = "1s" }
"#;

/// The hook is put back first, then the daemon ended, then the place removed.
pub(crate) struct KeyScene {
    pub(crate) hook: HostKeyHook,
    pub(crate) daemon: Daemon,
    pub(crate) sandbox: Sandbox,
}

impl KeyScene {
    /// With these rules.
    pub(crate) fn new(rules: &str) -> Result<Self> {
        Self::with_settings("", rules)
    }

    /// With these settings and rules.
    pub(crate) fn with_settings(settings: &str, rules: &str) -> Result<Self> {
        // Where it is a module, nobody loads it for a key's sake.
        drop(run(command("modprobe").arg("dns_resolver")));
        let sandbox = Sandbox::new()?;
        sandbox.settings(settings)?;
        sandbox.rules(rules)?;
        let daemon = Daemon::start_strict(&sandbox)?;
        let hook = HostKeyHook::borrow(&sandbox)?;
        Ok(Self {
            hook,
            daemon,
            sandbox,
        })
    }

    /// Asks for a key on the host: what `key-me` printed.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String> {
        let program = self.sandbox.path("bin/key-me");
        let output = command(program).args(words).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The record of the one key with this description.
    pub(crate) fn record(&self, description: &str) -> Result<Record> {
        let of = |record: &Record| {
            let key = record.key.as_ref();
            key.is_some_and(|key| key.description == description)
        };
        let record = self
            .daemon
            .records()
            .wait_for(Duration::from_secs(20), description, of)?;
        assert_eq!(record.kind, "key");
        Ok(record)
    }

    /// Puts everything back, and looks whether it is.
    pub(crate) fn end(self) -> Result<()> {
        no_authority()?;
        self.hook.put_back()?;
        self.daemon.stop(&self.sandbox)
    }
}

/// Asks for a key in a container: what `key-me` printed, whether it got one or not.
pub(crate) fn ask_in(container: &Container, words: &[&str]) -> Result<String> {
    let line: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let line = format!("/key-me {}; :", line.join(" "));
    let said = container.exec(&["/bin/sh", "-c", &line])?;
    Ok(said.trim().to_owned())
}

/// What a record says about its key.
pub(crate) fn key(record: &Record) -> Result<&Key> {
    record.key.as_ref().context("a key")
}
