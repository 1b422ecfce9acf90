//! Room for kept cores: whose share, who makes room for whom, how long; and who may read one.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::Result;
use nix::mount::{MsFlags, mount};
use upcall_e2e::command::{command, run, until};
use upcall_e2e::container::Container;
use upcall_e2e::cores;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::{MOUNTED_BY, Sandbox};
use upcalld::store::record::{Outcome, Record};

use crate::scene::Scene;

/// Everything is kept, as it is.
const STORE: &str = r#"
[[rule]]
upcall = "core"
store = { ignore_limit = true, compress = "none" }
"#;

const MIB: usize = 1 << 20;

fn two(scene: &Scene) -> Result<[Container; 2]> {
    let start = |name| Runc::new(name).user_namespace().start(&scene.sandbox);
    Ok([start("web")?, start("shop")?])
}

fn crash(scene: &Scene, container: &Container, mib: usize) -> Result<Record> {
    let dump = CoreDump::of(container.init())?.bytes(mib * MIB);
    Ok(scene.dump(&dump)?.0)
}

fn is_kept(scene: &Scene, record: &Record) -> bool {
    cores::path(&scene.sandbox.state(), &record.id).is_ok()
}

/// Waits until a record's core is there no more, and the record says why.
fn gone(scene: &Scene, record: &Record, state: &str) -> Result<Record> {
    let fits = |now: &Record| {
        let store = now.actions.iter().find(|action| action.action == "store");
        now.id == record.id && store.is_some_and(|store| store.state.as_deref() == Some(state))
    };
    let now = scene.daemon.records().wait(state, fits)?;
    assert!(!is_kept(scene, &now), "{now:?}");
    assert_eq!(action(&now, "store")?.path, None);
    Ok(now)
}

#[test]
fn who_is_over_his_share_loses_his_own_oldest_core_and_nobody_elses() -> Result<()> {
    needs!(Root, Runc);
    let settings = "store.max_per_container = \"8MiB\"\nstore.max_count = 3\n";
    let scene = Scene::with_settings(settings, STORE)?;
    let [web, shop] = two(&scene)?;
    let other = crash(&scene, &shop, 7)?;
    let first = crash(&scene, &web, 5)?;
    let share = action(&first, "store")?.share.clone();
    assert_eq!(share, Some(format!("runc/{}", web.id())));
    let second = crash(&scene, &web, 5)?;
    gone(&scene, &first, "evicted")?;
    assert!(is_kept(&scene, &second) && is_kept(&scene, &other));
    // And no more of them than may be.
    let third = crash(&scene, &web, 1)?;
    let fourth = crash(&scene, &web, 1)?;
    let fifth = crash(&scene, &web, 1)?;
    gone(&scene, &second, "evicted")?;
    let left = [&other, &third, &fourth, &fifth];
    assert!(left.iter().all(|record| is_kept(&scene, record)));
    scene.end()
}

#[test]
fn where_all_together_are_full_nobodys_core_goes_for_anothers() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::with_settings("store.max_total = \"6MiB\"\n", STORE)?;
    let [web, shop] = two(&scene)?;
    let first = crash(&scene, &web, 4)?;
    // What does not fit any more is cut.
    let cut = crash(&scene, &shop, 4)?;
    assert_eq!(cut.reason.as_deref(), Some("quota"), "{cut:?}");
    let store = action(&cut, "store")?;
    assert_eq!(
        (store.size_bytes, store.truncated),
        (Some(2 << 20), Some(true))
    );
    let third = Runc::new("third").user_namespace().start(&scene.sandbox)?;
    let refused = crash(&scene, &third, 1)?;
    assert_eq!(refused.reason.as_deref(), Some("quota"), "{refused:?}");
    assert_eq!(action(&refused, "store")?.outcome, Outcome::Refused);
    assert!(is_kept(&scene, &first) && is_kept(&scene, &cut) && !is_kept(&scene, &refused));
    // His own he may lose, and a daemon that was started again knows whose they are.
    let Scene { daemon, sandbox } = scene;
    daemon.stop(&sandbox)?;
    let daemon = Daemon::start(&sandbox)?;
    let scene = Scene { daemon, sandbox };
    let next = crash(&scene, &shop, 1)?;
    gone(&scene, &cut, "evicted")?;
    assert!(is_kept(&scene, &first) && is_kept(&scene, &next));
    scene.end()
}

#[test]
fn a_core_that_is_too_old_goes_by_itself() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::with_settings("store.max_age = \"3s\"\n", STORE)?;
    let [web, _shop] = two(&scene)?;
    let record = crash(&scene, &web, 1)?;
    assert!(is_kept(&scene, &record));
    let now = gone(&scene, &record, "expired")?;
    assert_eq!(now.outcome, Outcome::Done);
    scene.end()
}

#[test]
fn a_disk_that_fills_up_during_the_dump_keeps_what_there_was_room_for() -> Result<()> {
    needs!(Root, Runc);
    for compress in ["none", "zstd"] {
        let sandbox = Sandbox::new()?;
        sandbox.rules(&STORE.replace("none", compress))?;
        let settings = "store.keep_free = \"2MiB\"\n";
        std::fs::write(sandbox.path("config/upcalld.toml"), settings)?;
        let options = Some("mode=751,size=8m");
        let state = sandbox.state();
        mount(
            Some(MOUNTED_BY),
            &state,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )?;
        let daemon = Daemon::start(&sandbox)?;
        let scene = Scene { daemon, sandbox };
        let [web, _shop] = two(&scene)?;
        let dump = CoreDump::of(web.init())?.bytes(20 * MIB);
        let (record, _) = scene.dump(&dump)?;
        assert_eq!(record.reason.as_deref(), Some("disk_floor"), "{record:?}");
        assert_eq!(action(&record, "store")?.truncated, Some(true));
        let kept = scene.kept(&record)?;
        assert!(
            kept.len() >= 4 * MIB && kept.len() <= 6 * MIB,
            "{}",
            kept.len()
        );
        assert!(dump.core().starts_with(&kept), "{compress}");
        scene.end()?;
    }
    Ok(())
}

#[test]
fn where_no_files_are_left_nothing_is_kept_until_there_are() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    sandbox.rules(STORE)?;
    let cores = sandbox.state().join("cores");
    std::fs::create_dir_all(&cores)?;
    let files = |flags, count: u32| {
        let options = format!("mode=700,size=64m,nr_inodes={count}");
        let kind = Some("tmpfs");
        mount(
            Some(MOUNTED_BY),
            &cores,
            kind,
            flags,
            Some(options.as_str()),
        )
    };
    files(MsFlags::empty(), 10)?;
    let daemon = Daemon::start(&sandbox)?;
    let scene = Scene { daemon, sandbox };
    let [web, _shop] = two(&scene)?;
    let record = crash(&scene, &web, 1)?;
    assert_eq!(record.reason.as_deref(), Some("disk_floor"), "{record:?}");
    assert_eq!(action(&record, "store")?.stored_bytes, Some(0));
    assert!(!is_kept(&scene, &record));
    files(MsFlags::MS_REMOUNT, 1000)?;
    let record = crash(&scene, &web, 1)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert!(is_kept(&scene, &record));
    scene.end()
}

/// A process of the host by this user.
fn of_user(uid: u32) -> Result<Child> {
    let mut sleep = command("/bin/sleep");
    let child = sleep.arg("60").uid(uid).gid(uid).current_dir("/").spawn()?;
    // The ids are those of after the exec.
    until(Duration::from_secs(5), "the exec", || {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).ok()?;
        (comm == "sleep\n").then_some(())
    })?;
    Ok(child)
}

fn reads(uid: u32, path: &Path) -> bool {
    let mut cat = command("cat");
    run(cat.arg(path).uid(uid).gid(uid).current_dir("/")).is_ok()
}

#[test]
fn a_core_is_its_users_to_read_and_nobody_elses_whose_number_looks_like_his() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(STORE)?;
    // The sandbox itself lets nobody in.
    let mut way = scene.sandbox.state();
    while way.pop() {
        let mut mode = way.metadata()?.permissions();
        mode.set_mode(mode.mode() | 0o111);
        std::fs::set_permissions(&way, mode).unwrap_or(());
        if way == scene.sandbox.path("") {
            break;
        }
    }
    let mut own = of_user(1000)?;
    let dump = CoreDump::of(own.id())?.bytes(MIB);
    let (record, _) = scene.dump(&dump)?;
    let path = cores::path(&scene.sandbox.state(), &record.id)?;
    assert!(reads(1000, &path) && !reads(1001, &path));
    let meta = path.metadata()?;
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o137), (0, 0, 0));
    // One that has changed its credentials keeps its secrets.
    let (record, _) = scene.dump(&dump.clone().word("%d", "2"))?;
    let path = cores::path(&scene.sandbox.state(), &record.id)?;
    assert!(!reads(1000, &path));
    assert_eq!(path.metadata()?.mode() & 0o777, 0o600);
    // In a container without a user namespace, 1000 is whoever its image says.
    let container = Runc::new("plain").start(&scene.sandbox)?;
    let inside = container.spawn_as(1000, &["/bin/sleep", "60"])?;
    let (record, _) = scene.dump(&CoreDump::of(inside)?.bytes(MIB))?;
    let path = cores::path(&scene.sandbox.state(), &record.id)?;
    assert!(!reads(1000, &path));
    assert_eq!(path.metadata()?.mode() & 0o777, 0o600);
    // Nor is root, or a service, anybody in particular.
    let mut service = of_user(33)?;
    let (record, _) = scene.dump(&CoreDump::of(service.id())?.bytes(MIB))?;
    let path = cores::path(&scene.sandbox.state(), &record.id)?;
    assert!(!reads(33, &path));
    for child in [&mut own, &mut service] {
        child.kill()?;
        child.wait()?;
    }
    scene.end()
}
