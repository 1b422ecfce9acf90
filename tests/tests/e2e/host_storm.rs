//! A thousand crashes of one container are little to another's crash and to the machine, and each of them is told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use upcall_e2e::command::{at_most, until};
use upcall_e2e::container::{Container, children, runs};
use upcall_e2e::runc::Runc;
use upcalld::store::record::Record;

use super::{MODE, needs};
use crate::host_scene::{HostScene, PROBE_AND_STORE, handled_inside};
use crate::scene::nothing_in;

const STORM: u64 = 1000;

/// The most memory that a daemon may ever have had, in KiB: it holds no cores.
const MEMORY: u64 = 32 << 10;

/// What the daemon and its launcher have: descriptors of both, and children.
fn holdings(scene: &HostScene) -> Result<[usize; 3]> {
    let (daemon, launcher) = (scene.daemon.pid(), scene.daemon.launcher());
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    Ok([
        descriptors(daemon)?,
        descriptors(launcher)?,
        children(daemon).len() + children(launcher).len(),
    ])
}

/// A crash in this container, and how long the process was held: until its helper had ended.
fn bystander(scene: &HostScene, quiet: &Container) -> Result<Duration> {
    let (leader, victim) = (quiet.leader()?, quiet.victim(&[])?);
    let asked = Instant::now();
    quiet.crash(victim)?;
    until(Duration::from_secs(5), "its end", || {
        (!runs(victim)).then_some(())
    })?;
    let took = asked.elapsed();
    let record = scene.record(victim)?;
    handled_inside(&record, quiet, &leader)?;
    Ok(took)
}

/// How many crashes of this container's are told: in a record of their own, or counted in one.
fn told(scene: &HostScene, container: &Container) -> u64 {
    let records = scene.daemon.records().all();
    let of = |record: &&Record| {
        let found = record.container.as_ref();
        found.is_some_and(|found| found.leader_pid == container.init())
    };
    records.iter().filter(of).map(|record| record.count).sum()
}

#[test]
fn a_storm_of_one_container_is_nothing_to_another() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let rules = PROBE_AND_STORE.replacen(
        "store = { ignore_limit = true }",
        "store = { ignore_limit = true, max_size = \"1MiB\" }",
        1,
    );
    let scene = HostScene::by(MODE, &rules)?;
    let start = |name: &str| Runc::new(name).user_namespace().start(&scene.sandbox);
    let (stormy, quiet) = (start("storm")?, start("quiet")?);
    // Whatever is set up once is there after the first.
    bystander(&scene, &quiet)?;
    let before = holdings(&scene)?;
    let storm = stormy.spawn(&["/crash-me", &format!("--times={STORM}")])?;
    until(Duration::from_secs(5), "the storm", || {
        (scene.daemon.records().all().len() > 10).then_some(())
    })?;
    let mut crashes = 0;
    while runs(storm) || crashes == 0 {
        let took = bystander(&scene, &quiet)?;
        assert!(took < at_most(Duration::from_secs(1)), "{took:?}");
        crashes += 1;
    }
    // Refusals are put together for ten seconds.
    until(Duration::from_secs(20), "all of them", || {
        (told(&scene, &stormy) >= STORM).then_some(())
    })?;
    assert_eq!(told(&scene, &stormy), STORM);
    assert_eq!(told(&scene, &quiet), 1 + crashes);
    // Nobody is left waiting, and nothing lies about: not a process, a descriptor, a core without its record.
    assert!(children(stormy.init()).is_empty());
    until(Duration::from_secs(5), "what it had before", || {
        (holdings(&scene).ok()? == before).then_some(())
    })
    .with_context(|| format!("{before:?} before, {:?} now", holdings(&scene)))?;
    let state = scene.sandbox.state();
    let kept = |record: &&Record| record.actions.iter().any(|action| action.path.is_some());
    let records = scene.daemon.records().all();
    assert_eq!(
        std::fs::read_dir(state.join("cores"))?.count(),
        records.iter().filter(kept).count()
    );
    assert!(nothing_in(&state.join("open")) && nothing_in(&scene.sandbox.spool()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.daemon.pid()))?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|most| most.split_whitespace().next());
    let most: u64 = most.context("VmHWM")?.parse()?;
    assert!(most < MEMORY, "{most} KiB");
    drop((stormy, quiet));
    scene.end()
}
