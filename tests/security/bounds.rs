//! Attacks on what bounds a helper and its container: devices, cgroups that are taken apart, and names without end.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, Permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use upcall_e2e::cgroup::{self, Child};
use upcall_e2e::command::{slowness, until};
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::Leader;
use upcall_e2e::needs;
use upcall_e2e::records::said;
use upcall_e2e::registered::Registered;
use upcall_e2e::runc::Runc;

use crate::scene::{Scene, run_rule, script};

/// A device of the host's that no container has unless it is given one, as a node in a container's /dev that everybody
/// may open: an image may have such a node, and the runtimes' defaults let a container's root make it.
fn device(container: &Container) -> Result<()> {
    let fuse = std::fs::metadata("/dev/fuse")?.rdev();
    let node = format!("/proc/{}/root/dev/stolen", container.init());
    mknod(node.as_str(), SFlag::S_IFCHR, Mode::empty(), fuse)?;
    Ok(std::fs::set_permissions(
        node,
        Permissions::from_mode(0o666),
    )?)
}

#[test]
fn a_helper_that_upcalld_pays_for_still_has_no_devices_of_the_hosts() -> Result<()> {
    // A container's devices are bounded by its cgroup, and this helper is not in it.
    needs!(Root, Runc, Fuse);
    let open = "(: </dev/stolen) 2>/dev/null && echo robbed; (: </dev/null) && echo done";
    for cgroup in ["container", "broker"] {
        let more = format!("cgroup = \"{cgroup}\", without_user_namespace = true, ");
        let rule = run_rule(r#""/helper""#, "").replace("timeout", &(more + "timeout"));
        let scene = Scene::new(&rule)?;
        let container = Runc::new("web")
            .root(script("/helper", open))
            .start(&scene.sandbox)?;
        device(&container)?;
        let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
        assert_eq!(said(&record)?, "done\n", "{cgroup}: {record:?}");
        drop(container);
        scene.end()?;
    }
    Ok(())
}

/// Moves whoever is in a helper's cgroup below `container` to `jail`, again and again: a tenant with a delegated cgroup.
fn rob(container: &Path, jail: &Path, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        for entry in std::fs::read_dir(container).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"upcall-") {
                let inside = std::fs::read_to_string(entry.path().join("cgroup.procs"));
                for pid in inside.unwrap_or_default().lines() {
                    drop(std::fs::write(jail.join("cgroup.procs"), pid));
                }
            }
        }
    }
}

#[test]
fn whoever_is_taken_out_of_his_cgroup_and_frozen_is_ended_all_the_same() -> Result<()> {
    // cgroup.kill does not reach him, and frozen before his first step he has no parent-death signal either.
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/probe""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let directory = cgroup::of(&container.leader()?)?;
    let jail = Child::of(&directory, "jail")?;
    std::fs::write(jail.path().join("cgroup.freeze"), "1")?;
    let over = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let (over, jail) = (Arc::clone(&over), jail.path().to_owned());
        move || rob(&directory, &jail, &over)
    });
    for _ in 0..2 {
        let dump = CoreDump::of(container.init())?.bytes(4 << 20);
        let started: Result<Vec<_>> = (0..6).map(|_| dump.start(&scene.sandbox)).collect();
        for started in started? {
            started.wait()?;
        }
    }
    over.store(true, Ordering::Relaxed);
    thread.join().ok().context("the tenant")?;
    // Refusals by a limit are one record with their number.
    until(Duration::from_secs(15), "twelve upcalls in records", || {
        let all = scene.daemon.records().all();
        let upcalls: u64 = all.iter().map(|record| record.count).sum();
        (upcalls == 12).then_some(())
    })?;
    let inside = || std::fs::read_to_string(jail.path().join("cgroup.procs"));
    until(Duration::from_secs(3), "the jail to be empty", || {
        inside().is_ok_and(|pids| pids.is_empty()).then_some(())
    })?;
    drop((jail, container));
    scene.end()
}

/// What is nobody's to escape from, and what happens to those who do.
const DENIED: &str = r#"
[[rule]]
upcall = "core"
match.container = {}
deny = { reason = "not from containers" }
[[rule]]
upcall = "core"
store = { ignore_limit = true }
"#;

#[test]
fn more_groups_than_fit_on_a_page_make_nobody_unknown() -> Result<()> {
    // Everybody's status in /proc grows with his groups, and a container's root may take 65,536 of them.
    needs!(Root, Runc);
    let scene = Scene::new(DENIED)?;
    let container = Runc::new("web")
        .with(|bundle| bundle.user.2 = (1_000_000..1_020_000).collect())
        .start(&scene.sandbox)?;
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert!(record.container.is_some(), "{record:?}");
    assert_eq!(record.reason.as_deref(), Some("rule"), "{record:?}");
    drop(container);
    scene.end()
}

#[test]
fn cgroups_without_end_cost_no_more_than_a_few() -> Result<()> {
    // A user who may make cgroups makes thousands, one in the other, and each might be a container's.
    needs!(Root, Unprivileged);
    let scene = Scene::with_settings(Registered::SETTINGS, DENIED)?;
    for number in 0..50 {
        let state = scene.sandbox.path(format!("runc/other{number}"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&state)?;
        let text = format!(
            r#"{{"id":"other{number}","init_process_pid":1,"init_process_start":1,"cgroup_paths":{{}},
                "config":{{"labels":["{}"]}}}}"#,
            "x".repeat(40_000)
        );
        std::fs::write(state.join("state.json"), text)?;
    }
    let user = Registered::unregistered(&scene.sandbox, "user")?;
    let (record, _) = scene.dump(&CoreDump::of(user.init())?)?;
    let shallow = record.timings_us.resolve.context("a time")?;
    let leader = Leader::read(user.init())?;
    let top = cgroup::of(&leader)?;
    // An emulated kernel takes many minutes for as many as that.
    let deep = Deep::below(&top, 1500 / slowness() as usize)?;
    user.move_here(&deep.path())?;
    let (record, _) = scene.dump(&CoreDump::of(user.init())?)?;
    let took = record.timings_us.resolve.context("a time")?;
    assert!(record.container.is_none() && record.evidence.process.is_some());
    assert!(took < 40 * shallow.max(1000), "{took} us, and {shallow} us");
    user.move_here(&top)?;
    drop(deep);
    drop(user);
    scene.end()
}

#[test]
fn a_process_that_crashes_for_ever_does_not_fill_the_disk_with_records() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::with_settings("records.keep = 3", DENIED)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(scene.dump(&dump)?.0.id);
    }
    let Scene { daemon, sandbox } = scene;
    daemon.stop(&sandbox)?;
    // Counted at the start, and then every minute.
    let daemon = Daemon::start(&sandbox)?;
    let scene = Scene { daemon, sandbox };
    let kept = until(Duration::from_secs(5), "the oldest to be gone", || {
        let left = scene.daemon.records().all();
        (left.len() <= 3).then_some(left)
    })?;
    let kept: BTreeSet<&str> = kept.iter().map(|record| record.id.as_str()).collect();
    let newest: BTreeSet<&str> = ids.iter().skip(3).map(String::as_str).collect();
    assert_eq!(kept, newest);
    drop(container);
    scene.end()
}

/// Cgroups one in the other.
struct Deep(Vec<OwnedFd>);

impl Deep {
    fn below(top: &Path, depth: usize) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_PATH;
        let mut all = vec![open(top, flags, Mode::empty())?];
        for _ in 0..depth {
            let last = all.last().context("one at least")?;
            mkdirat(last, "x", Mode::from_bits_truncate(0o755))?;
            let next = openat(last, "x", flags, Mode::empty())?;
            all.push(next);
        }
        Ok(Self(all))
    }

    /// The innermost, by a path that is short enough.
    fn path(&self) -> PathBuf {
        let last = self.0.last().map_or(-1, AsRawFd::as_raw_fd);
        PathBuf::from(format!("/proc/self/fd/{last}"))
    }
}

impl Drop for Deep {
    fn drop(&mut self) {
        while self.0.pop().is_some() {
            if let Some(parent) = self.0.last() {
                let _ = unlinkat(parent, "x", UnlinkatFlags::RemoveDir);
            }
        }
    }
}
