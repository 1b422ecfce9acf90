//! Memory that its user may not read (CVE-2022-4415): of setuid programs, and of who has changed his ids.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use upcall_e2e::command::{command, run};
use upcall_e2e::hook;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcalld::store::record::{Outcome, Record};

use crate::canary::{ANYWHERE, canary, sang};
use crate::host_scene::HostScene;

/// Nobody, of the host and of the container.
const NOBODY: u32 = 65_534;

/// The kernel marked it, and its core is root's alone.
fn roots_alone(scene: &HostScene, record: &Record) -> Result<()> {
    assert_eq!(record.process.dumpable, Some(2), "{record:?}");
    scene.core(record)?;
    let path = scene.file(record)?;
    let meta = path.metadata()?;
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (0, 0, 0o600)
    );
    let mut cat = command("cat");
    let read = run(cat.arg(&path).uid(NOBODY).gid(NOBODY).current_dir("/"));
    assert!(read.is_err(), "nobody can read it");
    Ok(())
}

#[test]
fn a_setuid_programs_core_is_roots_alone_and_stays_on_the_host() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = HostScene::new(&format!("{ANYWHERE}store = {{ ignore_limit = true }}\n"))?;
    hook::suid_dumpable(&scene.hook, "2")?;
    let setuid = |path: &Path, owner: u32| -> Result<()> {
        scene.sandbox.program("crash-me", path)?;
        chown(path, Some(owner), Some(owner))?;
        Ok(std::fs::set_permissions(
            path,
            PermissionsExt::from_mode(0o4755),
        )?)
    };
    // On the host: a setuid program of nobody's, and a daemon of root's that has become nobody.
    let program = scene.sandbox.path("bin/setuid");
    setuid(&program, 0)?;
    let mut victim = command(&program);
    victim.uid(NOBODY).gid(NOBODY).current_dir("/");
    let mut daemon = command(scene.sandbox.path("bin/crash-me"));
    daemon.arg(format!("--uid={NOBODY}"));
    for mut victim in [victim, daemon] {
        let mut victim = victim.stdin(Stdio::null()).spawn()?;
        victim.wait()?;
        roots_alone(&scene, &scene.record(victim.id())?)?;
    }
    // The same in a container: its own root may not have it either, since who knows what it read.
    let container = Runc::new("web")
        .user_namespace()
        .with(|bundle| bundle.no_new_privs = false)
        .root(canary())
        .start(&scene.sandbox)?;
    setuid(&container.root().inside("/setuid"), 300_000)?;
    let program = container.victim_by(1000, &["/setuid", "--wait"])?;
    let daemon = container.victim(&["--uid=1000"])?;
    for victim in [program, daemon] {
        container.crash(victim)?;
        let record = scene.record(victim)?;
        roots_alone(&scene, &record)?;
        let found = record.container.as_ref().map(|found| found.leader_pid);
        assert_eq!(found, Some(container.init()));
        assert_eq!(record.verdict.host_only.as_deref(), Some("not_dumpable"));
    }
    assert!(!sang(container.root()));
    // One of the same container that nothing changed is handled in it.
    let plain = container.victim(&[])?;
    container.crash(plain)?;
    assert_eq!(scene.record(plain)?.outcome, Outcome::Done);
    assert!(sang(container.root()));
    drop(container);
    scene.end()
}

#[test]
fn a_core_of_a_program_with_file_capabilities_is_roots_alone_and_stays_on_the_host() -> Result<()> {
    // What it may read its user may not, although no id of it has changed.
    needs!(HostHooks, Root, Runc);
    let setcap = upcall_e2e::skip::find("setcap").context("setcap (libcap2-bin)")?;
    let scene = HostScene::new(&format!("{ANYWHERE}store = {{ ignore_limit = true }}\n"))?;
    hook::suid_dumpable(&scene.hook, "2")?;
    let capable = |path: &Path| -> Result<()> {
        scene.sandbox.program("crash-me", path)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        run(command(&setcap).arg("cap_net_raw+ep").arg(path)).map(drop)
    };
    let program = scene.sandbox.path("bin/capable");
    capable(&program)?;
    let mut victim = command(&program);
    victim.uid(NOBODY).gid(NOBODY).current_dir("/");
    let mut victim = victim.stdin(Stdio::null()).spawn()?;
    victim.wait()?;
    roots_alone(&scene, &scene.record(victim.id())?)?;
    let container = Runc::new("web")
        .with(|bundle| {
            bundle.no_new_privs = false;
            bundle.capabilities.push("CAP_NET_RAW".to_owned());
        })
        .root(canary())
        .start(&scene.sandbox)?;
    capable(&container.root().inside("/capable"))?;
    // By a shell, which has none of them any more: runc itself had.
    let victim = ["/bin/sh", "-c", "exec /capable --wait"];
    let victim = container.victim_by(1000, &victim)?;
    container.crash(victim)?;
    let record = scene.record(victim)?;
    roots_alone(&scene, &record)?;
    assert_eq!(record.verdict.host_only.as_deref(), Some("not_dumpable"));
    assert!(!sang(container.root()));
    drop(container);
    scene.end()
}
