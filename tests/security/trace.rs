//! Attacks on whoever enters while he does: tracing him, robbing his descriptors, looking into his memory.

use std::time::Duration;

use anyhow::{Context, Result};
use upcall_e2e::command::{at_most, until};
use upcall_e2e::container::{Container, runs};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;

use super::entry::{BOTH, both_kinds};
use crate::scene::{Scene, script};

/// Lets a process of the container's attack all that appears in it, while helpers come and go.
fn under_attack(scene: &Scene, container: &Container, signal: &str) -> Result<String> {
    let seconds = at_most(Duration::from_secs(2)).as_secs();
    let attack = format!("exec /hostile trace {seconds} > /tmp/said");
    let attack = container.spawn(&["/bin/sh", "-c", &attack])?;
    let path = container.root().inside("/tmp/said");
    let said = || std::fs::read_to_string(&path).unwrap_or_default();
    until(Duration::from_secs(2), "the attack", || {
        said().contains("ready").then_some(())
    })?;
    let dump = CoreDump::of(container.init())?
        .bytes(10_000)
        .word("%s", signal);
    while runs(attack) {
        scene.dump(&dump)?;
    }
    let said = said();
    let last = said.lines().last().unwrap_or_default();
    let seen = last
        .strip_prefix("saw ")
        .and_then(|count| count.parse::<u32>().ok());
    assert!(
        seen.is_some_and(|seen| seen >= 5),
        "{}: {said}",
        container.name()
    );
    Ok(said)
}

#[test]
fn a_containers_root_cannot_trace_or_rob_whoever_enters_it() -> Result<()> {
    // CVE-2016-9962.
    needs!(Root, Runc);
    let scene = Scene::new(BOTH)?;
    for host_pids in [false, true] {
        let name = if host_pids { "hostpid" } else { "own" };
        let container = Runc::new(name)
            .user_namespace()
            .with(|bundle| bundle.pid_namespace = !host_pids)
            .start(&scene.sandbox)?;
        // A program of the host's is nobody's to look into, from the first step to its end.
        let said = under_attack(&scene, &container, "6")?;
        let gained: Vec<&str> = said
            .lines()
            .filter(|line| !line.starts_with("saw") && *line != "ready")
            .collect();
        assert_eq!(gained, Vec::<&str>::new(), "{name}");
    }
    scene.end()
}

#[test]
fn a_helper_of_a_containers_own_is_its_roots_to_trace_and_nothing_before_it_is() -> Result<()> {
    needs!(Root, Runc);
    // A program that opens nothing of its own.
    let busybox = upcall_e2e::skip::find("busybox").context("busybox")?;
    let sleeps = format!("{}\", \"sleep\", \"0.02", busybox.display());
    let scene = Scene::new(&BOTH.replace("@/bin/upcall-probe", &sleeps))?;
    for runc in both_kinds("web") {
        let container = runc
            .root(script("/helper", "cat > /dev/null"))
            .start(&scene.sandbox)?;
        for signal in ["11", "6"] {
            let said = under_attack(&scene, &container, signal)?;
            for line in said.lines().filter_map(|line| line.split_once(", then ")) {
                // It was seized or opened as what it is then: never as what ours are called.
                let (gained, as_what) = line;
                assert!(
                    !["3", "upcall-enter"].contains(&as_what),
                    "{signal}: {said}"
                );
                // The helper's standard input and output, and itself as its interpreter reads it.
                let stolen = gained
                    .strip_prefix("stole ")
                    .and_then(|gained| gained.split(' ').next());
                let own = ["pipe", "/dev/null", "/helper"];
                assert!(
                    stolen.is_none_or(|stolen| own.contains(&stolen)),
                    "{signal}: {said}"
                );
            }
        }
    }
    scene.end()
}
