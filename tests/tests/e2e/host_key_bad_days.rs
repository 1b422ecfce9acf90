//! Bad days of the key hook: whatever happens, whoever asked is told something within its time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use upcall_e2e::command::{at_most, slowness, until};
use upcall_e2e::container::{children, pid_of};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcall_e2e::steps::Paused;
use upcall_e2e::sys::limit_descriptors;
use upcalld::store::record::{Outcome, Record};

use crate::host_key_scene::{HELPER, KeyScene, ask_in, key};
use crate::ns_faults::leave_descriptors;
use crate::scene::script;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_helper_that_hangs_dies_or_does_not_answer_ends_in_a_refusal() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(HELPER)?;
    let helpers = [
        ("hangs", "sleep 4711", "no ETIMEDOUT", "helper_timeout"),
        ("fails", "exit 3", "no EKEYREJECTED", "helper_exit"),
        ("dies", "kill -9 $$", "no EKEYREJECTED", "helper_signal"),
        ("nothing", ":", "no EKEYREJECTED", "unanswered"),
        (
            "leaves",
            "(setsid sleep 4711 &)",
            "no EKEYREJECTED",
            "unanswered",
        ),
    ];
    for (name, text, said, reason) in helpers {
        let container = Runc::new(name)
            .user_namespace()
            .root(script("/helper", text))
            .start(&scene.sandbox)?;
        let start = Instant::now();
        assert_eq!(ask_in(&container, &["user", name, "x"])?, said, "{name}");
        assert!(start.elapsed() < at_most(Duration::from_secs(5)), "{name}");
        let record = scene.record(name)?;
        assert_eq!(record.outcome, Outcome::Failed, "{record:?}");
        assert_eq!(record.reason.as_deref(), Some(reason), "{record:?}");
        assert_eq!(key(&record)?.answer.as_deref(), Some("rejected"));
        // A refusal holds for a second, and then somebody is asked again.
        drop(container);
    }
    scene.end()
}

#[test]
fn a_daemon_that_is_late_is_no_leave_to_do_more_and_one_that_is_not_there_is() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = KeyScene::new("[[rule]]\nupcall = \"key\"\ndeny = { reason = \"none\" }\n")?;
    assert_eq!(scene.ask(&["user", "debug:one", "a"])?, "no EACCES");
    kill(pid_of(scene.daemon.pid()), Signal::SIGSTOP)?;
    let start = Instant::now();
    let said = scene.ask(&["user", "debug:two", "a"]);
    kill(pid_of(scene.daemon.pid()), Signal::SIGCONT)?;
    assert_eq!(said?, "no ETIMEDOUT");
    assert!(start.elapsed() < at_most(Duration::from_secs(4)));
    let KeyScene {
        hook,
        daemon,
        sandbox,
    } = scene;
    daemon.stop(&sandbox)?;
    let ask = |description: &str| {
        let program = sandbox.path("bin/key-me");
        let output = upcall_e2e::command::command(program)
            .args(["user", description, "a"])
            .output()?;
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    assert_eq!(ask("debug:three")?, "key Debug a");
    hook.file(&sandbox, "without_daemon = deny")?;
    assert_eq!(ask("debug:four")?, "no EKEYREJECTED");
    hook.put_back()
}

#[test]
fn callouts_of_all_bytes_reach_the_helper_whole() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(HELPER)?;
    let counts = "/key-me --answer $1 \"$(cat | wc -c)\"";
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", counts))
        .start(&scene.sandbox)?;
    assert_eq!(ask_in(&container, &["user", "all", "@all"])?, "key 4095");
    drop(container);
    scene.end()
}

#[test]
fn who_asked_or_was_started_may_be_killed_and_so_may_upcalld() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let slow = "echo > /cores/runs; sleep 1; /key-me --answer $1 late";
    let start = |scene: &KeyScene, name: &str| {
        let asks = "/key-me user $0 x > /tmp/part; mv /tmp/part /tmp/said";
        let container = Runc::new(name)
            .user_namespace()
            .root(script("/helper", slow))
            .start(&scene.sandbox)?;
        let asked = container.spawn(&["/bin/sh", "-c", asks, name])?;
        let runs = container.root().inside("/cores/runs");
        until(PATIENCE, "a helper", || runs.exists().then_some(()))?;
        anyhow::Ok((container, asked))
    };
    let scene = KeyScene::new(&HELPER.replace("\"1s\"", "\"20s\""))?;
    // The kernel holds who asked until there is an answer, and then he ends.
    let (asker, asked) = start(&scene, "asker")?;
    for child in children(asked) {
        kill(pid_of(child), Signal::SIGKILL)?;
    }
    let record = scene.record("asker")?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    // A container that ends takes its helper along.
    let (gone, _) = start(&scene, "gone")?;
    kill(pid_of(gone.init()), Signal::SIGKILL)?;
    let record = scene.record("gone")?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_signal"),
        "{record:?}"
    );
    // The shim and what it has started need no daemon any more.
    let (web, _) = start(&scene, "web")?;
    let KeyScene {
        hook,
        daemon,
        sandbox,
    } = scene;
    daemon.kill()?;
    let said = web.root().inside("/tmp/said");
    let said = until(PATIENCE, "its key", || std::fs::read_to_string(&said).ok())?;
    assert_eq!(said.trim(), "key late");
    let daemon = Daemon::start_strict(&sandbox)?;
    let of = |record: &Record| {
        record
            .key
            .as_ref()
            .is_some_and(|key| key.description == "web")
    };
    let record = daemon.records().wait_for(PATIENCE, "web", of)?;
    assert_eq!(record.reason.as_deref(), Some("daemon_down"), "{record:?}");
    drop((asker, gone, web));
    hook.put_back()?;
    daemon.stop(&sandbox)
}

/// What is denied to containers and given to everybody else.
const CONTAINERS_NOT: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
deny = { reason = "of a container" }

[[rule]]
upcall = "key"
answer = { payload = "hosts", ttl = "1s" }
"#;

#[test]
fn without_a_free_descriptor_a_containers_key_is_not_answered_as_nobodys() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(CONTAINERS_NOT)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let pid = scene.daemon.pid();
    // None to be taken in with, none to be identified with, none to find its container with, and enough.
    let mut scarce = 0;
    let step = if slowness() == 1 { 3 } else { 6 };
    for free in (0..48).step_by(step) {
        let most = leave_descriptors(pid, free)?;
        let name = format!("with:{free}");
        let said = ask_in(&container, &["user", &name, "x"])?;
        limit_descriptors(pid, most)?;
        let refused = ["no EACCES", "no EIO", "no EKEYREJECTED", "no ETIMEDOUT"];
        assert!(refused.contains(&said.as_str()), "{free} free: {said}");
        scarce += u64::from(said == "no EIO");
        let enough = format!("then:{free}");
        let said = ask_in(&container, &["user", &enough, "x"])?;
        assert_eq!(said, "no EACCES", "after {free}");
        let record = scene.record(&enough)?;
        assert!(record.container.is_some(), "after {free}: {record:?}");
    }
    assert_eq!(scene.ask(&["user", "of:host", "x"])?, "key hosts");
    // They are recorded too, when there is something to record them with.
    assert!(scarce > 0);
    let records = || scene.daemon.records().all().into_iter();
    let of = |record: &Record| record.reason.as_deref() == Some("resources");
    let counted = || records().filter(of).map(|record| record.count).sum::<u64>();
    until(PATIENCE, "a record of each", || {
        (counted() >= scarce).then_some(())
    })?;
    assert_eq!(counted(), scarce);
    assert!(
        records()
            .filter(of)
            .all(|record| record.verdict.rule.is_none())
    );
    drop(container);
    scene.end()
}

/// There may be some again by the time that somebody asks whether there are.
#[test]
fn without_a_free_descriptor_for_some_calls_a_containers_key_is_not_answered_as_nobodys()
-> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(CONTAINERS_NOT)?;
    let container = Runc::new("web").start(&scene.sandbox)?;
    let daemon = scene.daemon.pid();
    let mut scarce = 0;
    // For one of them there is another way to find the container; not for as many.
    for sides in [30, 60, 90] {
        let mut first = 1;
        loop {
            let name = format!("from:{first}:{sides}");
            let (over, said) = std::thread::scope(|scope| {
                let ask = || scope.spawn(|| ask_in(&container, &["user", &name, "x"]));
                let (paused, asked) = Paused::at(daemon, first, || Ok(ask()))?;
                let over = paused.is_none();
                if let Some(paused) = paused {
                    let most = limit_descriptors(daemon, 0)?;
                    let _ = (0..sides).all(|_| paused.to_next());
                    limit_descriptors(daemon, most)?;
                    paused.end()?;
                }
                let said = asked.join().ok().context("whoever asked")??;
                anyhow::Ok((over, said))
            })?;
            let refused = ["no EACCES", "no EIO", "no EKEYREJECTED", "no ETIMEDOUT"];
            assert!(refused.contains(&said.as_str()), "{name}: {said}");
            scarce += u32::from(said == "no EIO");
            if over {
                break;
            }
            first += 9 * usize::try_from(slowness())?;
        }
    }
    assert!(scarce > 0);
    drop(container);
    scene.end()
}

/// Before it can be seen which key it is, it has expired: the rules are not asked what they would say of a key of no type.
#[test]
fn a_key_that_whoever_asked_lets_expire_has_its_record() -> Result<()> {
    needs!(HostHooks, Root);
    let scene =
        KeyScene::new("[[rule]]\nupcall = \"key\"\nanswer = { payload = \"x\", ttl = \"9s\" }\n")?;
    let mut sent = 0;
    // He has to be faster than the shim and slower than the clock, which takes him a few attempts.
    let record = until(Duration::from_mins(2), "an attacker in time", || {
        let name = format!("attempt:{sent}");
        let lead = [15, 5, 25, 10, 40][sent % 5].to_string();
        sent += 1;
        drop(scene.ask(&["--expire", "20000", &lead, "user", &name, "x"]));
        // One that expires between the look and the answer was seen, and its answer failed: that is another day.
        let expired = |record: &Record| {
            record.reason.as_deref() == Some("unanswered") && record.outcome != Outcome::Failed
        };
        scene.daemon.records().all().into_iter().find(expired)
    })?;
    assert_eq!(record.outcome, Outcome::Refused, "{record:?}");
    assert_eq!(record.verdict.rule, None, "{record:?}");
    let found = key(&record)?;
    assert_eq!((found.kind.as_str(), found.description.as_str()), ("", ""));
    assert_eq!(found.errno.as_deref(), Some("EKEYEXPIRED"));
    assert_eq!(record.process.comm.as_deref(), Some("key-me"));
    assert_eq!(record.evidence.process.as_deref(), Some("auth_key"));
    // Several of them within ten seconds are one record with their number.
    let counted = || -> u64 {
        let all = scene.daemon.records().all();
        all.iter().map(|record| record.count).sum()
    };
    let sent = u64::try_from(sent)?;
    until(PATIENCE, "a record of each attempt", || {
        (counted() >= sent).then_some(())
    })?;
    assert_eq!(counted(), sent);
    scene.end()
}
