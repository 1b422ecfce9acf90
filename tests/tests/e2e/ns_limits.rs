//! Limits, counted exactly: what is over them is refused, told in one record, and is nobody else's loss.

use std::os::unix::process::CommandExt;
use std::process::Child;
use std::time::Duration;

use anyhow::Result;
use upcall_e2e::command::{command, until};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::registered::OWNER;
use upcall_e2e::runc::Runc;
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, run_rule, script};

/// Refusals are put together for ten seconds.
const TOGETHER: Duration = Duration::from_secs(15);

fn refusals(records: &[Record], reason: &str) -> Vec<u64> {
    let refused = records
        .iter()
        .filter(|r| r.reason.as_deref() == Some(reason));
    refused.map(|record| record.count).collect()
}

#[test]
fn a_rate_is_kept_for_each_container_and_counted_in_one_record() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(
        r#"
[[rule]]
upcall = "core"
match.container = { runtime = "runc" }
store = { ignore_limit = true }
limit = { rate = "3/min" }
"#,
    )?;
    let one = Runc::new("one").user_namespace().start(&scene.sandbox)?;
    let other = Runc::new("other").user_namespace().start(&scene.sandbox)?;
    // More than a pipe holds: what is refused is not read.
    let dump = CoreDump::of(one.init())?.bytes(2 << 20);
    let mut taken = Vec::new();
    for _ in 0..10 {
        taken.push(dump.dump(&scene.sandbox)?.taken);
    }
    assert_eq!(taken, [[true; 3].as_slice(), &[false; 7]].concat());
    // The crowd of one is nothing to another.
    assert!(CoreDump::of(other.init())?.dump(&scene.sandbox)?.taken);
    let records = scene.records(5, TOGETHER)?;
    let done = |pid: u32| {
        let fits = |r: &&Record| r.outcome == Outcome::Done && r.process.pid == Some(pid);
        records.iter().filter(fits).count()
    };
    assert_eq!((done(one.init()), done(other.init())), (3, 1));
    assert_eq!(refusals(&records, "rate_limit"), [7]);
    let refused = records.iter().find(|r| r.outcome == Outcome::Refused);
    let message = refused.and_then(|r| r.message.clone()).unwrap_or_default();
    assert!(
        message.contains("50-test.toml:2 allows 3 in 60 s"),
        "{message}"
    );
    assert_eq!(records.len(), 5);
    scene.end()
}

#[test]
fn so_many_at_once_and_the_next_when_one_has_ended() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/hold""#, "limit = { concurrent = 2 }"))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script(
            "/hold",
            "cat > /dev/null; until [ -e /tmp/go ]; do echo .; sleep 0.1; done",
        ))
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let running = [dump.start(&scene.sandbox)?, dump.start(&scene.sandbox)?];
    let open = scene.sandbox.state().join("open");
    until(Duration::from_secs(5), "two at work", || {
        (std::fs::read_dir(&open).ok()?.count() == 2).then_some(())
    })?;
    for _ in 0..3 {
        assert_eq!(dump.dump(&scene.sandbox)?.code, 1);
    }
    container.root().file("/tmp/go", "", 0o644)?;
    for started in running {
        assert_eq!(started.wait()?.code, 0);
    }
    scene.records(2, Duration::from_secs(5))?;
    // There is room again.
    assert_eq!(dump.dump(&scene.sandbox)?.code, 0);
    let records = scene.records(4, TOGETHER)?;
    assert_eq!(refusals(&records, "concurrency"), [3]);
    assert_eq!(
        records
            .iter()
            .filter(|r| r.outcome == Outcome::Done)
            .count(),
        3
    );
    scene.end()
}

#[test]
fn a_refusal_that_waits_to_be_written_is_written_when_the_daemon_ends() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(
        r#"
[[rule]]
upcall = "core"
match.container = { runtime = "runc" }
store = { ignore_limit = true }
limit = { rate = "1/h" }
"#,
    )?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    for _ in 0..4 {
        dump.dump(&scene.sandbox)?;
    }
    let records = scene.daemon.records().clone();
    scene.daemon.stop(&scene.sandbox)?;
    assert_eq!(refusals(&records.all(), "rate_limit"), [3]);
    Ok(())
}

/// A process that is ended with the test.
struct Sleeper(Child);

impl Sleeper {
    fn start(program: &str, change: impl FnOnce(&mut std::process::Command)) -> Result<Self> {
        let mut command = command(program);
        change(&mut command);
        Ok(Self(command.args(["sleep", "60"]).spawn()?))
    }

    /// Once it is what it is to be.
    fn sleeping(&self) -> Result<u32> {
        let pid = self.0.id();
        let exe = format!("/proc/{pid}/comm");
        until(Duration::from_secs(5), "sleep", || {
            std::fs::read_to_string(&exe)
                .is_ok_and(|comm| comm == "sleep\n")
                .then_some(pid)
        })
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_users_subordinate_ids_are_no_tenants_of_their_own() -> Result<()> {
    needs!(Root, Unprivileged);
    let rule = "[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\nlimit = { rate = \"2/min\" }\n";
    let scene = Scene::new(rule)?;
    let made = Sleeper::start("unshare", |unshare| {
        unshare.arg("--user").uid(OWNER).gid(OWNER);
    })?;
    let maker = made.sleeping()?;
    // As newuidmap(1) would.
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{maker}/{map}"), "0 300000 10\n")?;
    }
    let mut taken = Vec::new();
    for id in ["1", "2", "3", "4"] {
        let one = Sleeper::start("nsenter", |nsenter| {
            nsenter.args([
                "--user",
                "--target",
                &maker.to_string(),
                "--setuid",
                id,
                "--setgid",
                id,
            ]);
        })?;
        taken.push(CoreDump::of(one.sleeping()?)?.dump(&scene.sandbox)?.taken);
    }
    let records = scene.records(3, TOGETHER)?;
    let uids: Vec<Option<u32>> = records.iter().map(|record| record.process.uid).collect();
    assert_eq!(uids, [300_001, 300_002, 300_003].map(Some), "{taken:?}");
    assert_eq!(refusals(&records, "rate_limit"), [2]);
    scene.end()
}
