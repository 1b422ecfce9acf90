//! Modules that real processes make the real kernel want, loaded or refused as the rules say.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::{command, run, until};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::module_hook::SETTING;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcall_e2e::sys::limit_descriptors;
use upcalld::store::record::{Outcome, Record};

use crate::host_module_scene::{
    ModuleScene, SHIPPED, answer, ask_in, instances, is_loaded, module, unload,
};
use crate::ns_faults::leave_descriptors;

/// Families that no module has.
const NO_FAMILY: [&str; 3] = ["4", "9", "20"];

/// `AF_VSOCK`, whose module nobody has loaded.
const VSOCK: &str = "40";

/// What comes with it, in the order in which it can go.
const VSOCK_MODULES: [&str; 3] = [
    "vsock_loopback",
    "vmw_vsock_virtio_transport_common",
    "vsock",
];

fn refused(record: &Record) -> bool {
    record.outcome == Outcome::Refused
}

#[test]
fn host_module_containers_are_refused_and_the_host_is_not() -> Result<()> {
    needs!(HostHooks, Root, Runc, KernelModprobe);
    let scene = ModuleScene::new(SHIPPED)?;
    let own = Runc::new("own").user_namespace().start(&scene.sandbox)?;
    let plain = Runc::new("plain").start(&scene.sandbox)?;
    for (container, family) in [(&own, NO_FAMILY[0]), (&plain, NO_FAMILY[1])] {
        assert_eq!(ask_in(container, &["socket", family])?, "no EAFNOSUPPORT");
        let record = scene.record(&format!("net-pf-{family}"), refused)?;
        assert_eq!(record.reason.as_deref(), Some("rule"), "{record:?}");
        assert_eq!(
            record.evidence.process.as_deref(),
            Some("kprobe"),
            "{record:?}"
        );
        assert_eq!(record.evidence.candidates, 1);
        let found = record.container.as_ref().context("a container")?;
        assert_eq!(found.leader_pid, container.init());
        assert_eq!(found.id, container.id());
        assert_eq!(module(&record)?.family.as_deref(), Some("net-pf-*"));
        assert_eq!(module(&record)?.who_can_ask.as_deref(), Some("any_user"));
        assert_eq!(record.process.comm.as_deref(), Some("module-me"));
    }
    // What exists is not loaded either.
    ensure!(!is_loaded("vsock"), "vsock is loaded already");
    assert_eq!(ask_in(&own, &["socket", VSOCK])?, "no EAFNOSUPPORT");
    assert!(!is_loaded("vsock"));
    // And for the host it is, by the host's own modprobe.
    assert_eq!(scene.ask(&["socket", VSOCK])?, "made");
    assert!(is_loaded("vsock"));
    let record = scene.record(&format!("net-pf-{VSOCK}"), |record| !refused(record))?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(record.verdict.actions, ["pass"]);
    assert!(record.container.is_none());
    let code = action(&record, "pass")?.exit_code;
    assert!([None, Some(0)].contains(&code), "{record:?}");
    // What there is not is the host's to be told by modprobe.
    assert_eq!(scene.ask(&["socket", NO_FAMILY[2]])?, "no EAFNOSUPPORT");
    let record = scene.record(&format!("net-pf-{}", NO_FAMILY[2]), |_| true)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_ne!(action(&record, "pass")?.exit_code, Some(0));
    drop((own, plain));
    scene.end()?;
    unload(&VSOCK_MODULES)
}

#[test]
fn host_module_a_container_gets_what_its_rule_names() -> Result<()> {
    needs!(HostHooks, Root, Runc, KernelModprobe);
    let rule = r#"
[[rule]]
upcall = "module"
match.container = { id = "*-allowed" }
match.module = ["fs-squashfs", "net-pf-9"]
pass = {}
"#;
    let scene = ModuleScene::new(&[rule, SHIPPED].concat())?;
    let allowed = Runc::new("allowed")
        .user_namespace()
        .start(&scene.sandbox)?;
    let other = Runc::new("other").user_namespace().start(&scene.sandbox)?;
    ask_in(&other, &["socket", "9"])?;
    assert!(refused(&scene.record("net-pf-9", |_| true)?));
    ask_in(&allowed, &["socket", "9"])?;
    let record = scene.record("net-pf-9", |record| !refused(record))?;
    assert_eq!(record.verdict.actions, ["pass"]);
    let found = record.container.as_ref().context("a container")?;
    assert_eq!(found.id, allowed.id());
    // Not by another name.
    ask_in(&allowed, &["socket", "20"])?;
    assert!(refused(&scene.record("net-pf-20", |_| true)?));
    drop((allowed, other));
    scene.end()
}

#[test]
fn host_module_what_is_suggested_is_what_lets_it_load() -> Result<()> {
    needs!(HostHooks, Root, Runc, KernelModprobe);
    let scene = ModuleScene::new(SHIPPED)?;
    let own = Runc::new("own").user_namespace().start(&scene.sandbox)?;
    ensure!(!is_loaded("vsock"), "vsock is loaded already");
    let alias = format!("net-pf-{VSOCK}");
    let ctl = |words: &[&str]| run(scene.sandbox.ctl().args(words));
    let explain = || {
        let pid = own.init().to_string();
        ctl(&["explain", "--pid", &pid, "module", &alias])
    };
    assert_eq!(ask_in(&own, &["socket", VSOCK])?, "no EAFNOSUPPORT");
    scene.record(&alias, refused)?;
    let said = explain()?;
    assert!(said.contains("modules are the host's business"), "{said}");
    let said = ctl(&["modules", "--container", own.id()])?;
    assert!(
        said.contains(&alias) && said.contains("refused:rule"),
        "{said}"
    );
    // To the letter, before the rule that refuses.
    let rules = ctl(&["modules", "--suggest", "--container", own.id()])?;
    let file = scene.sandbox.path("config/rules.d/10-suggested.toml");
    std::fs::write(file, &rules)?;
    ctl(&["check"])?;
    ctl(&["reload"])?;
    let said = explain()?;
    assert!(
        said.contains("the host's own, in its namespaces"),
        "{rules}{said}"
    );
    assert_eq!(ask_in(&own, &["socket", VSOCK])?, "made");
    scene.record(&alias, |record| record.verdict.actions == ["pass"])?;
    let said = ctl(&["modules", "--container", own.id()])?;
    assert!(said.contains("pass,10-suggested:"), "{said}");
    drop(own);
    scene.end()?;
    unload(&VSOCK_MODULES)
}

#[test]
fn host_module_home_made_namespaces_are_refused() -> Result<()> {
    needs!(HostHooks, Root, Unprivileged, KernelModprobe);
    let scene = ModuleScene::new(SHIPPED)?;
    let program = scene.sandbox.path("bin/module-me");
    let mut user = command("setpriv");
    user.args([
        "--reuid=1000",
        "--regid=1000",
        "--clear-groups",
        "unshare",
        "-Urmn",
    ]);
    let output = user
        .arg(&program)
        .args(["fs", "nosuch\n\"x [0] asked: sub=0x1"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(answer(&said), "no ENODEV", "{output:?}");
    let record = scene.record(r#"fs-nosuch\x0a"x [0] asked: sub=0x1"#, refused)?;
    assert_eq!(record.process.uid, Some(1000));
    assert_eq!(record.process.user_namespace.as_deref(), Some("other"));
    assert_eq!(
        module(&record)?.who_can_ask.as_deref(),
        Some("any_user_namespace")
    );
    // The same user without one is the host's.
    let mut user = command("setpriv");
    user.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    user.arg(&program).args(["socket", "9"]).output()?;
    let record = scene.record("net-pf-9", |_| true)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    scene.end()
}

#[test]
fn host_module_two_who_ask_for_the_same_are_told_apart() -> Result<()> {
    needs!(HostHooks, Root, Runc, KernelModprobe);
    let scene = ModuleScene::new(SHIPPED)?;
    let own = Runc::new("own").user_namespace().start(&scene.sandbox)?;
    std::thread::scope(|scope| {
        let inside =
            scope.spawn(|| ask_in(&own, &["--threads", "4", "--times", "10", "socket", "9"]));
        let outside =
            scope.spawn(|| scene.ask(&["--threads", "2", "--times", "10", "socket", "9"]));
        let joined = [inside.join(), outside.join()];
        joined.into_iter().all(|joined| matches!(joined, Ok(Ok(_))))
    })
    .then_some(())
    .context("both ask")?;
    let container = scene.record("net-pf-9", refused)?.container;
    assert_eq!(container.map(|found| found.id).as_deref(), Some(own.id()));
    let records = scene.daemon.records().all();
    let (inside, outside): (Vec<_>, Vec<_>) = records.iter().partition(|r| r.container.is_some());
    assert!(
        inside
            .iter()
            .all(|record| record.verdict.actions == ["deny"]),
        "{inside:?}"
    );
    // As many as asked there: none of the one's was taken for the other's.
    assert_eq!(outside.len(), 20, "{outside:?}");
    let wrong = outside
        .iter()
        .find(|record| record.verdict.actions != ["pass"]);
    assert!(wrong.is_none(), "{wrong:?}");
    drop(own);
    scene.end()
}

#[test]
fn host_module_a_flood_of_one_container_leaves_the_host_its_own() -> Result<()> {
    needs!(HostHooks, Root, Runc, KernelModprobe);
    let scene = ModuleScene::new(SHIPPED)?;
    let own = Runc::new("own").user_namespace().start(&scene.sandbox)?;
    let flood = ["--threads", "50", "--times", "20", "socket", "20"];
    let said = std::thread::scope(|scope| -> Result<_> {
        let flooding = scope.spawn(|| ask_in(&own, &flood));
        // In the midst of it.
        let first = |record: &Record| module(record).is_ok_and(|m| m.alias == "net-pf-20");
        let records = scene.daemon.records();
        records.wait_for(Duration::from_mins(1), "the flood", first)?;
        let said = scene.ask(&["socket", "9"])?;
        ensure!(!flooding.is_finished(), "the flood was over too soon");
        flooding.join().ok().context("the flood")??;
        Ok(said)
    })?;
    assert_eq!(said, "no EAFNOSUPPORT");
    // With fifty that hang the kernel would not even have asked, after five seconds (kernel/module/kmod.c).
    let record = scene.record("net-pf-9", |_| true)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    drop(own);
    scene.end()
}

/// Fifty threads of a user's own namespaces ask for file systems that there are not.
fn fsopen_flood(scene: &ModuleScene, times: &str) -> Command {
    let mut user = command("setpriv");
    user.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    user.args(["unshare", "-Urm"])
        .arg(scene.sandbox.path("bin/module-me"));
    user.args(["--threads", "50", "--times", times, "fs", "flood{}"]);
    user.stdout(Stdio::null());
    user
}

#[test]
fn host_module_fifty_file_systems_of_a_users_starve_nobody() -> Result<()> {
    needs!(HostHooks, Root, Unprivileged, KernelModprobe);
    let scene = ModuleScene::new(SHIPPED)?;
    // That it is an attack: behind fifty that hang, the host's own is not even asked for (kernel/module/kmod.c).
    let hangs = scene.sandbox.path("hangs");
    let pids = scene.sandbox.path("hung");
    let script = format!("#!/bin/sh\necho $$ >>{}\nexec sleep 60\n", pids.display());
    std::fs::write(&hangs, script)?;
    std::fs::set_permissions(&hangs, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let ours = std::fs::read_to_string(SETTING)?;
    std::fs::write(SETTING, hangs.as_os_str().as_encoded_bytes())?;
    let mut attack = fsopen_flood(&scene, "1").spawn()?;
    let hung = until(Duration::from_mins(1), "fifty that hang", || {
        let pids = std::fs::read_to_string(&pids).ok()?;
        (pids.lines().count() == 50).then_some(pids)
    })?;
    assert_eq!(scene.ask(&["socket", VSOCK])?, "no EAFNOSUPPORT");
    assert!(!is_loaded("vsock"));
    std::fs::write(SETTING, ours.trim())?;
    run(command("kill").args(hung.lines()))?;
    attack.wait()?;

    let mut attack = fsopen_flood(&scene, "20").spawn()?;
    let flooded = |record: &Record| module(record).is_ok_and(|m| m.alias.starts_with("fs-flood"));
    let records = scene.daemon.records();
    records.wait_for(Duration::from_mins(1), "the flood", flooded)?;
    assert_eq!(scene.ask(&["socket", VSOCK])?, "made");
    ensure!(attack.try_wait()?.is_none(), "the flood was over too soon");
    attack.wait()?;
    assert!(is_loaded("vsock"));
    // All of them are told of, by number.
    let told = || {
        let all = records.all();
        let refusals = all
            .iter()
            .filter(|record| flooded(record) && refused(record));
        refusals.map(|record| record.count).sum::<u64>()
    };
    until(Duration::from_secs(30), "every refusal", || {
        (told() == 50 * 20).then_some(())
    })?;
    scene.end()?;
    unload(&VSOCK_MODULES)
}

#[test]
fn host_module_without_a_daemon_the_hooks_file_decides() -> Result<()> {
    needs!(HostHooks, Root, KernelModprobe);
    let scene = ModuleScene::new(SHIPPED)?;
    let ModuleScene {
        hook,
        daemon,
        sandbox,
        instances: before,
    } = scene;
    hook.file(&sandbox, "")?;
    // Stopped, it is late and not absent.
    daemon.signal(nix::sys::signal::Signal::SIGSTOP)?;
    let ask = |family: &str| -> Result<String> {
        let program = sandbox.path("bin/module-me");
        let output = command(program).args(["socket", family]).output()?;
        Ok(answer(&String::from_utf8_lossy(&output.stdout)))
    };
    let loads = |name: &str| -> Result<bool> {
        let mut mount = command("mount");
        drop(mount.args(["-t", name, "none", "/nonexistent"]).output()?);
        let mut fs = command(sandbox.path("bin/module-me"));
        let said = fs.args(["fs", name]).output()?;
        Ok(String::from_utf8_lossy(&said.stdout).starts_with("made"))
    };
    assert!(!loads("squashfs")?);
    daemon.signal(nix::sys::signal::Signal::SIGCONT)?;
    let records = daemon.records();
    let late = |record: &Record| record.reason.as_deref() == Some("late");
    records.wait_for(Duration::from_secs(30), "a late one", late)?;
    daemon.kill()?;
    std::fs::remove_file(sandbox.sockets().join("upcall.sock"))?;
    hook.file(&sandbox, "without_daemon = deny")?;
    assert!(!loads("squashfs")?);
    hook.file(&sandbox, "without_daemon = pass")?;
    assert!(loads("squashfs")?);
    assert_eq!(ask("9")?, "no EAFNOSUPPORT");
    hook.put_back()?;
    unload(&["squashfs"])?;
    // What one that was killed leaves in tracefs, the next one removes.
    assert_eq!(instances(), before);
    Daemon::start_strict(&sandbox)?.stop(&sandbox)?;
    assert_eq!(instances() + 1, before);
    Ok(())
}

#[test]
fn host_module_without_a_free_descriptor_a_container_gets_none() -> Result<()> {
    needs!(HostHooks, Root, Runc, KernelModprobe);
    let scene = ModuleScene::new(SHIPPED)?;
    let own = Runc::new("own").user_namespace().start(&scene.sandbox)?;
    ensure!(!is_loaded("vsock"), "vsock is loaded already");
    // None to be taken in with, none to be identified with, none to find its container with.
    for free in (0..48).step_by(8) {
        let most = leave_descriptors(scene.daemon.pid(), free)?;
        let said = ask_in(&own, &["socket", VSOCK])?;
        limit_descriptors(scene.daemon.pid(), most)?;
        assert_eq!(said, "no EAFNOSUPPORT", "{free} free");
        assert!(!is_loaded("vsock"), "{free} free");
    }
    let resources = |record: &Record| record.reason.as_deref() == Some("resources");
    let record = scene.record(&format!("net-pf-{VSOCK}"), resources)?;
    assert!(
        refused(&record) && record.verdict.rule.is_none(),
        "{record:?}"
    );
    assert_eq!(scene.ask(&["socket", VSOCK])?, "made");
    drop(own);
    scene.end()?;
    unload(&VSOCK_MODULES)
}

#[test]
fn host_module_nobody_but_the_kernel_is_listened_to() -> Result<()> {
    needs!(HostHooks, Root, Unprivileged, KernelModprobe);
    let scene = ModuleScene::new("")?;
    let shim = scene.sandbox.libexec().join("modprobe");
    let words = ["-q", "--", "squashfs-forged"];
    let mut user = command("setpriv");
    user.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    assert!(!user.arg(&shim).args(words).output()?.status.success());
    assert!(!command(&shim).args(words).output()?.status.success());
    scene.daemon.logs("was not started by the kernel")?;
    assert!(scene.daemon.records().all().is_empty());
    scene.end()
}
