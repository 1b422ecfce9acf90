//! A daemon in a sandbox that the kernel itself calls, for as long as the test has borrowed the host's hook.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use upcall_e2e::command::until;
use upcall_e2e::container::{Container, children, pid_of};
use upcall_e2e::cores;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::{self, HostHook};
use upcall_e2e::leader::Leader;
use upcall_e2e::records::action;
use upcall_e2e::sandbox::Sandbox;
use upcalld::hooks::install::Mode;
use upcalld::store::cores::compressed;
use upcalld::store::record::{Outcome, Record};

/// A program of the host's inside, and a copy: for containers of every kind.
pub(crate) const PROBE_AND_STORE: &str = r#"
[[rule]]
upcall = "core"
match.container = {}
run = { in = "container", host_program = ["@/bin/upcall-probe", "{pid}", "{tid}", "{comm}"], without_user_namespace = true }
store = { ignore_limit = true }

[[rule]]
upcall = "core"
match.process = { comm = ["crash-me", "init"] }
store = { ignore_limit = true }
"#;

/// The hook is put back first, then the daemon ended, then the place removed.
pub(crate) struct HostScene {
    pub(crate) hook: HostHook,
    pub(crate) daemon: Daemon,
    pub(crate) sandbox: Sandbox,
    mode: Mode,
}

impl HostScene {
    /// With these rules; the kernel starts the shim.
    pub(crate) fn new(rules: &str) -> Result<Self> {
        Self::by(Mode::Pipe, rules)
    }

    /// With these rules; the kernel calls so.
    pub(crate) fn by(mode: Mode, rules: &str) -> Result<Self> {
        Self::with_settings(mode, "", rules)
    }

    /// The same, with these settings.
    pub(crate) fn with_settings(mode: Mode, settings: &str, rules: &str) -> Result<Self> {
        let hook = HostHook::borrow()?;
        let sandbox = Sandbox::new()?;
        sandbox.settings(settings)?;
        sandbox.rules(rules)?;
        let daemon = Daemon::start_strict(&sandbox)?;
        hook.install_as(&sandbox, mode)?;
        Ok(Self {
            hook,
            daemon,
            sandbox,
            mode,
        })
    }

    /// The record of a process that crashes, which is the kernel's own word for it.
    pub(crate) fn record(&self, pid: u32) -> Result<Record> {
        let record = self.daemon.records().of(pid)?;
        assert_eq!(
            record.evidence.process.as_deref(),
            Some("kernel_pidfd"),
            "{record:?}"
        );
        assert_eq!(
            record.core.as_ref().map(|core| core.hook.as_str()),
            Some(match self.mode {
                Mode::Pipe => "pipe",
                Mode::Socket | Mode::PlainSocket => "socket",
            })
        );
        Ok(record)
    }

    /// The worker that keeps a core, stopped in the middle of it.
    pub(crate) fn stopped_worker(&self) -> Result<u32> {
        let launcher = self.daemon.launcher();
        // What is executed by descriptor has the descriptor's number for a name.
        let words = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let worker = until(Duration::from_secs(5), "the worker", || {
            let all = children(launcher);
            all.into_iter()
                .find(|pid| words(pid).starts_with(b"upcall-store\0"))
        })?;
        kill(pid_of(worker), Signal::SIGSTOP)?;
        Ok(worker)
    }

    /// Where the core is that a record says is kept.
    pub(crate) fn file(&self, record: &Record) -> Result<PathBuf> {
        cores::path(&self.sandbox.state(), &record.id)
    }

    /// The same, as gdb(1) wants it: unpacked.
    pub(crate) fn unpacked(&self, record: &Record) -> Result<PathBuf> {
        let kept = self.file(record)?;
        if compressed(&kept) == "none" {
            return Ok(kept);
        }
        let path = self.sandbox.path(format!("{}.unpacked", record.id));
        std::fs::write(&path, cores::kept(&self.sandbox.state(), &record.id)?)?;
        Ok(path)
    }

    /// The core that a record says is kept, which is one of an ELF process.
    pub(crate) fn core(&self, record: &Record) -> Result<Vec<u8>> {
        let core = cores::kept(&self.sandbox.state(), &record.id)?;
        assert!(core.starts_with(b"\x7fELF"));
        assert_eq!(action(record, "store")?.size_bytes, Some(core.len() as u64));
        Ok(core)
    }

    /// Puts everything back, and looks whether it is.
    pub(crate) fn end(self) -> Result<()> {
        let before = (
            self.hook.pattern().to_owned(),
            self.hook.pipe_limit().to_owned(),
        );
        self.hook.put_back()?;
        assert_eq!(hook::standing()?, before);
        self.daemon.stop(&self.sandbox)
    }
}

/// A crash of this container's was handled in it, by a helper that saw itself where its init is.
pub(crate) fn handled_inside(
    record: &Record,
    container: &Container,
    leader: &Leader,
) -> Result<()> {
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let found = record.container.as_ref();
    assert_eq!(found.map(|found| found.leader_pid), Some(container.init()));
    assert_eq!(
        found.map(|found| found.runtime.as_str()),
        Some(container.runtime())
    );
    let report = upcall_e2e::records::report(record)?;
    assert_eq!(
        (&report.namespaces, report.root),
        (&leader.namespaces, leader.root)
    );
    assert_eq!(action(record, "run")?.fed_bytes, Some(report.stdin_bytes));
    Ok(())
}
