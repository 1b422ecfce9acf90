//! The nine crashes. A container's PID 1 comes last in each: with it the container ends.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::Result;
use upcall_e2e::command::command;
use upcalld::store::record::Record;

use crate::scene::Scene;

/// Whom an unprivileged user is played by.
pub(crate) const NOBODY: u32 = 65_534;

/// An unprivileged user inside a container: its root may not map itself without SETFCAP.
pub(crate) const NESTED: u32 = 1000;

/// Who crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// A child of this container's PID 1.
    Child(&'static str),
    /// The container's PID 1.
    Init(&'static str),
    /// A process in an unprivileged user namespace inside it.
    Nested(&'static str),
    /// A process of the host.
    Host,
    /// A process in namespaces that an unprivileged user made for himself.
    Unregistered,
}

/// One crash that has happened.
#[derive(Debug)]
pub(crate) struct Crash {
    pub(crate) who: Who,
    /// The host's pid of the process, where it can be known before.
    pub(crate) pid: Option<u32>,
}

impl Crash {
    /// Whether this is its record.
    pub(crate) fn is(&self, record: &Record) -> bool {
        match self.pid {
            Some(pid) => record.process.pid == Some(pid),
            None => record.process.uid == Some(NOBODY),
        }
    }
}

/// Lets them all happen; in the order of the table.
pub(crate) fn all(scene: &Scene) -> Result<Vec<Crash>> {
    let mut crashes = Vec::new();
    let mut note = |who, pid| crashes.push(Crash { who, pid });
    let userns = &scene.stage("demo-userns")?.container;
    let nested = userns.victim_by(NESTED, &["/bin/unshare", "-Ur", "/crash-me", "--wait"])?;
    for name in ["demo-userns", "demo-plain", "demo-podman"] {
        let container = &scene.stage(name)?.container;
        let child = container.child()?;
        container.crash(child)?;
        scene.records()?.of(child)?;
        note(Who::Child(name), Some(child));
        if name == "demo-userns" {
            container.crash(nested)?;
            scene.records()?.of(nested)?;
        }
        container.crash(container.init())?;
        scene.records()?.of(container.init())?;
        note(Who::Init(name), Some(container.init()));
    }
    note(Who::Nested("demo-userns"), Some(nested));
    let program = scene.sandbox()?.path("bin/crash-me");
    note(Who::Host, Some(on_the_host(&program)?));
    unregistered(&program)?;
    note(Who::Unregistered, None);
    Ok(crashes)
}

fn on_the_host(program: &Path) -> Result<u32> {
    let mut child = command(program).stdin(Stdio::null()).spawn()?;
    let pid = child.id();
    child.wait()?;
    Ok(pid)
}

/// `unshare -Urmpf` by nobody: namespaces of all sorts, and no container.
fn unregistered(program: &Path) -> Result<()> {
    let mut unshare = command("unshare");
    unshare.args(["-Urmpf", "--"]).arg(program);
    unshare.uid(NOBODY).gid(NOBODY).current_dir("/").env_clear();
    unshare.stdin(Stdio::null()).stderr(Stdio::null());
    unshare.env("PATH", "/usr/bin:/bin").status()?;
    Ok(())
}
