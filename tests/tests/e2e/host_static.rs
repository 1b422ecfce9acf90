//! A kernel that starts one program for all of its helpers, whatever its settings say (CONFIG_STATIC_USERMODEHELPER).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::{command, run, until};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

/// Rules that come with upcalld.
const SHIPPED: &str = include_str!("../../../config/defaults/rules.d/90-default.toml");

/// What the kernel starts.
const PLACE: &str = "/sbin/usermode-helper";

/// Who is told of every device, and what the kernel knows it by.
const UEVENTS: &str = "/sys/kernel/uevent_helper";

/// What is found in /sbin for the time of a test.
const HOTPLUG: &str = "/sbin/hotplug";

struct Scene {
    daemon: Daemon,
    sandbox: Sandbox,
}

impl Scene {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        sandbox.rules(SHIPPED)?;
        let daemon = Daemon::start_strict(&sandbox)?;
        Ok(Self { daemon, sandbox })
    }

    /// upcallctl with the directories that such a kernel's shim looks in by itself.
    fn ctl(&self, words: &[&str]) -> Result<String> {
        let mut ctl = command(self.sandbox.programs.daemon.with_file_name("upcallctl"));
        ctl.arg("--state").arg(self.sandbox.state());
        ctl.arg("--run").arg(self.sandbox.sockets());
        ctl.arg("--libexec").arg(self.sandbox.libexec());
        run(ctl.args(words))
    }

    fn record(&self, what: &str, fits: impl Fn(&Record) -> bool) -> Result<Record> {
        let records = self.daemon.records();
        let fits = |record: &Record| record.outcome != Outcome::Open && fits(record);
        let record = records.wait_for(Duration::from_secs(30), what, fits);
        record.with_context(|| self.daemon.log())
    }

    /// A program in /sbin that says where it was.
    fn hotplug(&self) -> Result<()> {
        ensure!(!Path::new(HOTPLUG).exists(), "{HOTPLUG} is somebody's");
        let ran = self.sandbox.path("ran");
        let text = format!("#!/bin/sh\necho \"$* $ACTION\" >>{}\n", ran.display());
        std::fs::write(HOTPLUG, text)?;
        std::fs::set_permissions(HOTPLUG, PermissionsExt::from_mode(0o755))?;
        Ok(std::fs::write(UEVENTS, HOTPLUG)?)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(std::fs::write(UEVENTS, "\n"));
        drop(std::fs::remove_file(HOTPLUG));
        drop(self.ctl(&["uninstall"]));
    }
}

#[test]
fn host_static_everything_that_the_kernel_starts_is_asked_about() -> Result<()> {
    needs!(Root, HostHooks, StaticHelper);
    let scene = Scene::new()?;
    let said = scene.ctl(&["install", "umh"])?;
    ensure!(
        said.contains("self-test: a child of this command caused"),
        "{said}"
    );
    // A module, by its own hook without that being installed. User-mode Linux does not say in which function a thread
    // sleeps, so who asked is not found, and that is nobody who may have it.
    let module_me = scene.sandbox.path("bin/module-me");
    run(command(&module_me).args(["fs", "nosuch"]))?;
    let record = scene.record("a module", |record| record.module.is_some())?;
    assert_eq!(record.outcome, Outcome::Refused, "{record:?}");
    // A key, which the distribution's own program answers.
    let payload = run(command("sh").args(["-c", KEY]))?;
    ensure!(payload.contains("Debug"), "{payload}");
    let record = scene.record("a key", |record| record.key.is_some())?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    // A device's event, to the setting's program.
    scene.hotplug()?;
    std::fs::write("/sys/class/mem/null/uevent", "change")?;
    let ran = until(Duration::from_secs(20), "the program's word", || {
        std::fs::read_to_string(scene.sandbox.path("ran")).ok()
    })?;
    assert_eq!(ran, "mem change\n");
    scene.record("an event", |record| {
        record.umh.as_ref().is_some_and(|umh| umh.name == HOTPLUG)
    })?;
    // A crash, by our own hook: its self-test is one. That the daemon looks for the hooks' files in the test's own place is
    // then found out, and it is taken out again.
    ensure!(scene.ctl(&["install", "core", "--mode", "pipe"]).is_err());
    let record = scene.record("a crash", |record| record.kind == "core")?;
    assert_eq!(record.verdict.actions, ["self_test"]);
    scene.ctl(&["uninstall", "umh"])?;
    ensure!(!Path::new(PLACE).exists(), "the link is left");
    Ok(())
}

/// A key that keyutils' own example answers.
const KEY: &str =
    "keyctl session - sh -c 'keyctl pipe $(keyctl request2 user debug:ue hello @s)' 2>&1";

/// Whoever may set a release agent names any program of the host's: here one that only runs by the kernel's mistake.
#[test]
fn host_static_a_release_agent_of_somebodys_own_does_not_run() -> Result<()> {
    needs!(Root, HostHooks, StaticHelper);
    let scene = Scene::new()?;
    scene.ctl(&["install", "umh"])?;
    let evil = scene.sandbox.path("evil");
    let ran = scene.sandbox.path("ran");
    std::fs::write(&evil, format!("#!/bin/sh\n: >{}\n", ran.display()))?;
    std::fs::set_permissions(&evil, PermissionsExt::from_mode(0o755))?;
    for agent in [evil.as_os_str(), "/sbin/modprobe".as_ref(), PLACE.as_ref()] {
        let (root, tag) = (scene.sandbox.root(), scene.sandbox.tag());
        let mut unshare = command("unshare");
        unshare
            .args(["--mount", "sh", "-ec", EMPTY, "sh", root, tag])
            .arg(agent);
        run(&mut unshare)?;
    }
    for name in [evil.to_string_lossy().as_ref(), "/sbin/modprobe", PLACE] {
        let record = scene.record(name, |record| {
            record.umh.as_ref().is_some_and(|umh| umh.name == name)
        })?;
        assert_eq!(record.outcome, Outcome::Refused);
        assert_eq!(record.reason.as_deref(), Some("rule"), "{record:?}");
    }
    ensure!(!ran.exists(), "it ran");
    Ok(())
}

/// As a privileged container does it.
const EMPTY: &str = r#"
mkdir -p "$1/v1" && mount -t cgroup -o "none,name=$2" v1 "$1/v1" && cd "$1/v1"
echo "$3" >release_agent; mkdir job; echo 1 >job/notify_on_release
sh -c 'echo $$ >job/cgroup.procs'
sleep 0.5; rmdir job
"#;
