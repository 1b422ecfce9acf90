//! What most tests start with: a sandbox, rules, a daemon.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use upcall_e2e::command::until;
use upcall_e2e::cores;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::{CoreDump, Ended};
use upcall_e2e::rootfs::Rootfs;
use upcall_e2e::sandbox::Sandbox;
use upcall_helpers::wire::Spooled;
use upcalld::store::record::Record;

/// A sandbox with a running daemon.
pub(crate) struct Scene {
    // The daemon goes first: it works in the sandbox.
    pub(crate) daemon: Daemon,
    pub(crate) sandbox: Sandbox,
}

impl Scene {
    /// With these rules; `@` is the sandbox's own directory.
    pub(crate) fn new(rules: &str) -> Result<Self> {
        Self::with_settings("", rules)
    }

    /// With these settings and rules.
    pub(crate) fn with_settings(settings: &str, rules: &str) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        sandbox.settings(settings)?;
        sandbox.rules(rules)?;
        let daemon = Daemon::start(&sandbox)?;
        Ok(Self { daemon, sandbox })
    }

    /// Dumps a core and waits for its record.
    pub(crate) fn dump(&self, dump: &CoreDump) -> Result<(Record, Ended)> {
        let before = self.ids();
        let ended = dump.dump(&self.sandbox)?;
        // Another's may come meanwhile.
        let of = |record: &Record| {
            let same = record.process.pid.is_none() || record.process.pid == dump.number();
            same && !before.contains(&record.id)
        };
        let record = self.daemon.records().wait("this dump", of)?;
        Ok((record, ended))
    }

    /// Ids of the records that there are.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.daemon
            .records()
            .all()
            .into_iter()
            .map(|record| record.id)
            .collect()
    }

    /// Waits until there are so many records.
    pub(crate) fn records(&self, count: usize, patience: Duration) -> Result<Vec<Record>> {
        let records = self.daemon.records();
        let what = format!("{count} records");
        until(patience, &what, || {
            let all = records.all();
            (all.len() >= count).then_some(all)
        })
    }

    /// The core that a record says is kept.
    pub(crate) fn kept(&self, record: &Record) -> Result<Vec<u8>> {
        cores::kept(&self.sandbox.state(), &record.id)
    }

    /// Ends the daemon, which leaves nothing behind.
    pub(crate) fn end(self) -> Result<()> {
        self.daemon.stop(&self.sandbox)
    }
}

/// The one core in the spool, and what stands beside it.
pub(crate) fn spooled(sandbox: &Sandbox) -> Result<(Vec<u8>, Spooled)> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(sandbox.spool())?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    names.sort();
    let [core, facts] = names.as_slice() else {
        anyhow::bail!("in the spool: {names:?}");
    };
    assert_eq!(core.extension(), Some("core".as_ref()), "{names:?}");
    assert_eq!(core.with_extension("facts"), *facts);
    let (spooled, _) = Spooled::decode_first(&std::fs::read(facts)?)?;
    Ok((std::fs::read(core)?, spooled))
}

/// Has a process crash whose shim does not wait for the daemon, and keeps the core: the daemon is one that stops at
/// `examined`. Afterwards the spool is empty.
pub(crate) fn kept_by_its_shim(daemon: &Daemon, sandbox: &Sandbox, dump: &CoreDump) -> Result<()> {
    let patience = Duration::from_secs(20);
    let asked = dump.start(sandbox)?;
    daemon.stopped()?;
    until(patience, "the shim's leave", || asked.ended().then_some(()))?;
    daemon.signal(Signal::SIGCONT)?;
    asked.over()?;
    until(patience, "an empty spool", || {
        nothing_in(&sandbox.spool()).then_some(())
    })
}

/// Whether there is nothing in a directory, or no directory.
pub(crate) fn nothing_in(directory: &Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut names| names.next().is_none())
}

/// Puts a script into a container's root.
pub(crate) fn script(path: &'static str, text: &str) -> impl FnOnce(&Rootfs) -> Result<()> + use<> {
    let text = format!("#!/bin/sh\n{text}\n");
    move |root| root.file(path, text, 0o755)
}

/// A rule that runs a program of a runc container, with these further lines.
pub(crate) fn run_rule(command: &str, more: &str) -> String {
    format!(
        "[[rule]]\nupcall = \"core\"\nmatch.container = {{ runtime = \"runc\" }}\n\
         run = {{ in = \"container\", command = [{command}], timeout = \"1s\" }}\n{more}\n"
    )
}
