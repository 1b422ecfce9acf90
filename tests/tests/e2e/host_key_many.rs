//! Many keys at once: bounded for each container, and nobody else's loss.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use upcall_e2e::command::{slowness, until};
use upcall_e2e::container::Container;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcalld::store::record::{Outcome, Record};

use crate::host_key_scene::{KeyScene, ask_in, key};
use crate::scene::script;

/// Longer than any of them may take.
const PATIENCE: Duration = Duration::from_mins(1);

const RULES: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user" }
run = { in = "container", command = ["/helper", "{key}"], timeout = "2s", without_user_namespace = true }
"#;

/// The same, and a large payload of the admin's.
const GIVEN: &str = r#"
[[rule]]
upcall = "key"
match.key = { type = "user", description = "given:*" }
answer = { file = "@/payload" }

[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user" }
run = { in = "container", command = ["/helper", "{key}"], timeout = "2s", without_user_namespace = true }
"#;

/// What `key-me --many` said: how often which answer came, and the longest time of one.
pub(crate) struct Said {
    pub(crate) counts: BTreeMap<String, usize>,
    longest: Duration,
}

/// Has a container's program wait until [`go`], to ask so often.
pub(crate) fn prepare(container: &Container, count: usize, key: [&str; 2]) -> Result<()> {
    let [kind, description] = key;
    nix::unistd::mkfifo(
        &container.root().inside("/tmp/go"),
        Mode::from_bits_truncate(0o644),
    )?;
    let line = format!(
        "/key-me --many {count} /tmp/go {kind} {description} '' > /tmp/part; mv /tmp/part /tmp/said"
    );
    container.spawn(&["/bin/sh", "-c", &line])?;
    Ok(())
}

pub(crate) fn go(container: &Container) -> Result<()> {
    // Waits until somebody reads.
    Ok(std::fs::write(container.root().inside("/tmp/go"), "")?)
}

pub(crate) fn answers(container: &Container) -> Result<Said> {
    let path = container.root().inside("/tmp/said");
    let text = until(PATIENCE, "all answers", || {
        std::fs::read_to_string(&path).ok()
    })?;
    let (first, rest) = text.split_once('\n').context(text.clone())?;
    let longest = first.trim_start_matches("longest ").trim_end_matches(" ms");
    let counts = rest.lines().map(|line| {
        let (count, said) = line.split_once(' ').context(line.to_owned())?;
        Ok((said.to_owned(), count.parse()?))
    });
    Ok(Said {
        counts: counts.collect::<Result<_>>()?,
        longest: Duration::from_millis(longest.parse()?),
    })
}

/// A container whose helper does this.
fn start(scene: &KeyScene, name: &str, helper: impl AsRef<str>) -> Result<Container> {
    // No two of them share a quota of keys.
    let uid = 300_000 + u32::try_from(name.bytes().map(usize::from).sum::<usize>())? * 65_536;
    Runc::new(name)
        .with(|bundle| bundle.user_namespace = Some(uid))
        .root(script("/helper", helper.as_ref()))
        .start(&scene.sandbox)
}

#[test]
fn two_hundred_of_one_container_are_bounded_and_another_is_served() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(RULES)?;
    let hangs = "echo > /cores/$$; sleep 4711";
    let storm = Runc::new("storm")
        .root(script("/helper", hangs))
        .start(&scene.sandbox)?;
    let quiet = start(&scene, "q", "/key-me --answer $1 served")?;
    prepare(&storm, 200, ["user", "storm:"])?;
    go(&storm)?;
    until(PATIENCE, "helpers that hang", || {
        storm
            .root()
            .inside("/cores")
            .read_dir()
            .ok()?
            .next()
            .map(drop)
    })?;
    let during = storm.root().inside("/tmp/said");
    assert_eq!(ask_in(&quiet, &["user", "quiet:one", "x"])?, "key served");
    ensure!(!during.exists(), "the storm was over before");
    let said = answers(&storm)?;
    assert_eq!(
        said.counts.values().sum::<usize>(),
        200,
        "{:?}",
        said.counts
    );
    let known = ["no ETIMEDOUT", "no EBUSY"];
    assert!(
        said.counts
            .keys()
            .all(|said| known.contains(&said.as_str())),
        "{:?}",
        said.counts
    );
    // A container has eight at once; what waits a second for a place gets none, since each takes two. Where all is slower
    // they come later, and more of them find a place that is free again.
    let ran = said.counts.get("no ETIMEDOUT").copied().unwrap_or(0);
    let most = if slowness() == 1 { 14 } else { 199 };
    assert!((8..=most).contains(&ran), "{:?}", said.counts);
    let helpers = storm.root().inside("/cores").read_dir()?.count();
    // Where all is slower the shim, too, may say so.
    let each = helpers == ran || slowness() > 1 && helpers < ran;
    assert!(each, "{helpers} helpers: {:?}", said.counts);
    drop((storm, quiet));
    scene.end()
}

#[test]
fn two_hundred_of_twenty_containers_are_all_answered() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(RULES)?;
    let names: Vec<String> = ('a'..='t').map(String::from).collect();
    let containers = names
        .iter()
        .map(|name| start(&scene, name, "/key-me --answer $1 \"of $(hostname)\""));
    let containers: Vec<Container> = containers.collect::<Result<_>>()?;
    // An emulated machine answers no two hundred within their time.
    let each = usize::try_from(10 / slowness())?.max(1);
    for container in &containers {
        prepare(container, each, ["user", "many:"])?;
    }
    containers.iter().try_for_each(go)?;
    for container in &containers {
        let said = answers(container)?;
        let own = format!("key of {}", container.id());
        assert_eq!(said.counts, BTreeMap::from([(own, each)]));
        eprintln!("{}: the last after {:?}", container.name(), said.longest);
    }
    let wanted = u64::try_from(20 * each)?;
    let records = until(Duration::from_secs(10), "their records", || {
        let all = scene.daemon.records().all();
        let closed = |record: &&Record| record.outcome != Outcome::Open;
        (all.iter()
            .filter(closed)
            .map(|record| record.count)
            .sum::<u64>()
            == wanted)
            .then_some(all)
    })?;
    let late = records.iter().filter(|record| record.reason.is_some());
    assert_eq!(late.count(), 0, "{records:?}");
    drop(containers);
    scene.end()
}

#[test]
fn a_quota_that_is_used_up_is_the_requesters_own_error() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let large = "y".repeat(12_000);
    let scene = KeyScene::new(GIVEN)?;
    std::fs::write(scene.sandbox.path("payload"), &large)?;
    let by_hand = format!("/key-me --answer $1 {large}; :");
    let container = start(&scene, "x", &by_hand)?;
    // Who has used 12,000 bytes of his 20,000 (keyrings(7), kernel.keys.maxbytes) has no room for as many.
    let ask = |name| ask_in(&container, &["--full", "12000", "user", name, "x"]);
    assert_eq!(ask("given:a")?, "no EDQUOT");
    let record = scene.record("given:a")?;
    assert_eq!(key(&record)?.errno.as_deref(), Some("EDQUOT"), "{record:?}");
    // The kernel gives back what he has used when it has collected his keys; another has all of his.
    let other = start(&scene, "y", &by_hand)?;
    let said = ask_in(&other, &["--full", "12000", "user", "quota:a", "x"])?;
    assert_eq!(said, "no EKEYREJECTED");
    let record = scene.record("quota:a")?;
    assert_eq!(
        key(&record)?.answer.as_deref(),
        Some("rejected"),
        "{record:?}"
    );
    // Who has none left at all does not come to us.
    prepare(&container, 300, ["user", "quota:"])?;
    go(&container)?;
    let said = answers(&container)?;
    let over = said.counts.get("no EDQUOT").copied().unwrap_or(0);
    assert!(over > 100, "{:?}", said.counts);
    until(PATIENCE, "room for keys", || {
        let said = ask_in(&container, &["user", "quota:b", "x"]).ok()?;
        said.starts_with("key yyy").then_some(())
    })?;
    drop((container, other));
    scene.end()
}
