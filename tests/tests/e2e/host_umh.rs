//! Programs that the real kernel starts: us in their place, one by one.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use upcall_e2e::command::{command, run};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::usermode_helper::{program, ran};
use upcalld::store::record::{Outcome, Record};

/// Rules that come with upcalld.
const SHIPPED: &str = include_str!("../../../config/defaults/rules.d/90-default.toml");

/// A hierarchy of cgroup v1 that nobody else sees and that goes with its last process, its agent, and a cgroup that a
/// process enters and leaves by ending.
const EMPTY: &str = r#"
mkdir "$1/v1" && mount -t cgroup -o "none,name=$2" v1 "$1/v1" && cd "$1/v1" || exit
echo "$1/agent" >release_agent && mkdir job && echo 1 >job/notify_on_release || exit
sh -c 'echo $$ >job/cgroup.procs'
n=0
until [ -e "$1/ran" ] || [ $n = 100 ]; do sleep 0.1; n=$((n+1)); done
rmdir job
"#;

/// A bridge that asks for the spanning tree protocol, which the kernel first offers to /sbin/bridge-stp.
const BRIDGE: &str = r#"
[ ! -e /sbin/bridge-stp ] || { echo "there is a bridge-stp" >&2; exit 1; }
trap 'ip link delete ue-br0; rm -f /sbin/bridge-stp' EXIT
cp "$1/agent" /sbin/bridge-stp
ip link add ue-br0 type bridge && ip link set ue-br0 up && ip link set ue-br0 type bridge stp_state 1
"#;

struct Scene {
    daemon: Daemon,
    sandbox: Sandbox,
}

impl Scene {
    /// In the place of this one, which was that program before.
    fn new(name: &str, before: Option<&str>) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        sandbox.rules(SHIPPED)?;
        let socket = sandbox.sockets().join("upcall.sock");
        let mut file = format!("socket = {}\n", socket.display());
        if let Some(before) = before {
            program(&sandbox, before)?;
            let before = sandbox.path("sbin").join(before);
            file = format!("{file}program = {}\n", before.display());
        }
        std::fs::write(sandbox.hooks().join(name), file)?;
        // The kernel gives its program no words of ours.
        let agent = sandbox.path("agent");
        let (link, hooks) = (sandbox.libexec().join(name), sandbox.hooks());
        let (link, hooks) = (link.display(), hooks.display());
        std::fs::write(
            &agent,
            format!("#!/bin/sh\nexec {link} --hooks={hooks} \"$@\"\n"),
        )?;
        std::fs::set_permissions(&agent, PermissionsExt::from_mode(0o755))?;
        let daemon = Daemon::start_strict(&sandbox)?;
        Ok(Self { daemon, sandbox })
    }

    fn record(&self) -> Result<Record> {
        let records = self.daemon.records();
        let record = records.wait_for(Duration::from_secs(30), "its record", |record| {
            record.kind == "umh" && record.outcome != Outcome::Open
        });
        record.with_context(|| self.daemon.log())
    }
}

#[test]
fn host_umh_a_cgroup_that_is_empty_has_its_agent() -> Result<()> {
    needs!(Root, HostHooks, FreezerV1);
    let scene = Scene::new("release_agent", Some("agent-before"))?;
    let (root, tag) = (scene.sandbox.root(), scene.sandbox.tag());
    run(command("unshare").args(["--mount", "sh", "-ec", EMPTY, "sh", root, tag]))?;
    let record = scene.record()?;
    let umh = record.umh.as_ref().context("what it is about")?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(
        (umh.name.as_str(), &*umh.words),
        ("release_agent", &["/job".to_owned()][..])
    );
    assert!(umh.known && record.container.is_none());
    let ran = ran(&scene.sandbox).context("it did not run")?;
    assert!(ran.words.ends_with("/agent-before /job"), "{}", ran.words);
    scene.daemon.stop(&scene.sandbox)
}

#[test]
fn host_umh_who_sets_up_a_bridge_is_known() -> Result<()> {
    needs!(Root, HostHooks, Bridge);
    let scene = Scene::new("bridge-stp", Some("stp-before"))?;
    run(command("sh").args(["-c", BRIDGE, "sh", scene.sandbox.root()]))?;
    let record = scene.record()?;
    let umh = record.umh.as_ref().context("what it is about")?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(umh.name, "/sbin/bridge-stp");
    assert_eq!(umh.words, ["ue-br0", "start"]);
    // It waits, so it is found, with the kernel's word on it or without.
    assert_eq!(record.process.comm.as_deref(), Some("ip"), "{record:?}");
    assert_eq!(record.evidence.candidates, 1);
    let ran = ran(&scene.sandbox).context("it did not run")?;
    assert!(
        ran.words.ends_with("/stp-before ue-br0 start"),
        "{}",
        ran.words
    );
    scene.daemon.stop(&scene.sandbox)
}
