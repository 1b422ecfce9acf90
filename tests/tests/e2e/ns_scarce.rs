//! Days on which something is too little or too much: memory, a disk that answers no more, a thousand containers, a clock
//! that is set.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use upcall_e2e::cgroup::{self, Child};
use upcall_e2e::command::{at_most, command, pause, run, slowness, until};
use upcall_e2e::container::{children, runs};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::namespaces;
use upcall_e2e::needs;
use upcall_e2e::records::report;
use upcall_e2e::registered::Registered;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Outcome;

use crate::ns_faults::all;
use crate::scene::{Scene, nothing_in, run_rule, script};

const PATIENCE: Duration = Duration::from_secs(20);

const STORE: &str = "[[rule]]\nupcall = \"core\"\nstore = { ignore_limit = true }\n";

/// The kernel ends whoever of upcalld's it likes, and more than once.
#[test]
fn without_memory_every_crash_still_has_its_one_record() -> Result<()> {
    needs!(Root, Runc, MemoryController);
    let memory = cgroup::mounted("memory").or_else(cgroup::cgroup2);
    let memory = memory.context("the memory controller")?;
    let (limit, used, unlimited) = if memory.join("memory.limit_in_bytes").exists() {
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "-1")
    } else {
        ("memory.max", "memory.current", "max")
    };
    let mut sandbox = Sandbox::new()?;
    sandbox.rules(&run_rule(r#""/helper""#, "store = { ignore_limit = true }"))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "wc -c"))
        .start(&sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(300_000);
    let (mut known, mut ended) = (0, 0);
    for more in [0_u64, 64, 256, 1024, 4096] {
        let daemon = Daemon::start(&sandbox)?;
        let group = Child::of(&memory, &format!("{}-memory", sandbox.tag()))?;
        let launcher = daemon.launcher();
        let everybody = [daemon.pid(), launcher].into_iter();
        for pid in everybody.chain(children(launcher)) {
            group.take(pid)?;
        }
        // What is already used stays counted where it was: it is what comes that has no room.
        let now: u64 = std::fs::read_to_string(group.path().join(used))?
            .trim()
            .parse()?;
        group.set(limit, &(now + more * 1024).to_string())?;
        let started: Result<Vec<_>> = (0..8).map(|_| dump.start(&sandbox)).collect();
        for shim in started? {
            shim.over().with_context(|| format!("{more} KiB more"))?;
        }
        known += 8;
        let lived = runs(daemon.pid());
        group.set(limit, unlimited)?;
        // It, or its launcher, without which it ends by itself.
        if daemon.ends().is_err() || !lived {
            ended += 1;
        }
        drop(group);
        let daemon = Daemon::start(&sandbox)?;
        let scene = Scene { daemon, sandbox };
        let place = || format!("{more} KiB more: {}", scene.daemon.log());
        all(&scene, known).with_context(place)?;
        // And the next one is well.
        let (record, _) = scene.dump(&dump)?;
        assert_eq!(record.outcome, Outcome::Done, "{more} KiB more: {record:?}");
        known += 1;
        let Scene {
            daemon,
            sandbox: own,
        } = scene;
        daemon.stop(&own)?;
        sandbox = own;
    }
    ensure!(ended > 0, "there was always memory enough");
    drop(container);
    Ok(())
}

/// An ext4 of its own, on a file; what is written to it can be held up.
struct Disk {
    at: PathBuf,
    frozen: bool,
}

impl Disk {
    fn mounted(image: &Path, at: &Path) -> Result<Self> {
        std::fs::File::create(image)?.set_len(64 << 20)?;
        run(command("mkfs.ext4").args(["-q"]).arg(image))?;
        std::fs::create_dir_all(at)?;
        run(command("mount").args(["-o", "loop"]).arg(image).arg(at))?;
        let at = at.to_owned();
        Ok(Self { at, frozen: false })
    }

    fn freeze(&mut self, freeze: bool) -> Result<()> {
        let word = if freeze { "--freeze" } else { "--unfreeze" };
        run(command("fsfreeze").arg(word).arg(&self.at))?;
        self.frozen = freeze;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen {
            drop(self.freeze(false));
        }
        drop(run(command("umount").arg("--lazy").arg(&self.at)));
    }
}

#[test]
fn a_disk_that_hangs_costs_a_crash_no_more_than_its_shims_deadline() -> Result<()> {
    needs!(Root, Runc, LoopDisk);
    let sandbox = Sandbox::new()?;
    sandbox.rules(STORE)?;
    let mut disk = Disk::mounted(&sandbox.path("disk.img"), &sandbox.state())?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(300_000);
    let daemon = Daemon::start(&sandbox)?;
    let scene = Scene { daemon, sandbox };
    scene.dump(&dump)?;
    disk.freeze(true)?;
    let started: Result<Vec<_>> = (0..4).map(|_| dump.start(&scene.sandbox)).collect();
    // The kernel waits for none of them while the disk hangs: the shim keeps what nobody took.
    let started = started?;
    until(PATIENCE, "the shims' leave", || {
        started
            .iter()
            .all(upcall_e2e::kernel_like::Started::ended)
            .then_some(())
    })?;
    ensure!(!nothing_in(&scene.sandbox.spool()), "who has them?");
    disk.freeze(false)?;
    for shim in started {
        shim.over()?;
    }
    for record in all(&scene, 5)? {
        assert_eq!(scene.kept(&record)?, dump.core(), "{record:?}");
    }
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    drop(container);
    scene.end()?;
    drop(disk);
    Ok(())
}

#[test]
fn among_a_thousand_containers_each_crash_is_handled_in_its_own() -> Result<()> {
    needs!(Root, Unprivileged);
    let count = 1000 / slowness();
    let scene = Scene::with_settings(Registered::SETTINGS, &run_rule(r#""/probe""#, ""))?;
    let mut crowd = vec![Registered::start(&scene.sandbox, "box0")?];
    for number in 1..count {
        let last = crowd.last().context("one at least")?;
        crowd.push(last.beside(&scene.sandbox, &format!("box{number}"))?);
    }
    // The first, the last, and some between.
    let step = usize::try_from(count)? / 10;
    let chosen = crowd.iter().step_by(step).chain(crowd.last());
    for container in chosen {
        let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
        let found = record
            .container
            .as_ref()
            .with_context(|| format!("{record:?}"))?;
        assert_eq!(found.id, container.id());
        assert_eq!(found.leader_pid, container.init());
        assert_eq!(record.outcome, Outcome::Done, "{record:?}");
        let own = namespaces(container.init())?;
        assert_eq!(report(&record)?.namespaces, own, "{}", container.id());
    }
    drop(crowd);
    scene.end()
}

/// Sets the clock of a machine that is ours alone, so many seconds on.
fn step(seconds: i64) -> Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let then = i64::try_from(now.as_secs())? + seconds;
    run(command("date").args(["-s", &format!("@{then}")])).map(drop)
}

#[test]
fn a_clock_that_is_set_loses_no_record_and_no_core() -> Result<()> {
    needs!(Root, Runc, Guest);
    let scene = Scene::new(STORE)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(100_000);
    for (place, seconds) in [0, 86_400, -2 * 86_400, 3600, 86_400 - 3600]
        .into_iter()
        .enumerate()
    {
        // While one is on its way, and between two.
        let started = dump
            .clone()
            .slowly(Duration::from_millis(300))
            .start(&scene.sandbox)?;
        pause(at_most(Duration::from_millis(50)));
        step(seconds)?;
        started.wait()?;
        let records = all(&scene, 2 * place + 1)?;
        let strange = records
            .iter()
            .find(|record| record.outcome != Outcome::Done);
        ensure!(strange.is_none(), "{seconds} s: {strange:?}");
        let (record, ended) = scene.dump(&dump)?;
        ensure!(
            ended.taken && record.outcome == Outcome::Done,
            "{seconds} s: {record:?}"
        );
    }
    // And whoever starts on another day finds them all.
    let Scene { daemon, sandbox } = scene;
    daemon.stop(&sandbox)?;
    step(-3600)?;
    let daemon = Daemon::start(&sandbox)?;
    let scene = Scene { daemon, sandbox };
    for record in all(&scene, 10)? {
        assert_eq!(scene.kept(&record)?, dump.core(), "{record:?}");
    }
    let listed = run(scene.sandbox.ctl().args(["list", "--json"]))?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let records = listed["records"].as_array().context("records")?;
    assert_eq!(records.len(), 10, "{listed}");
    drop(container);
    scene.end()
}
