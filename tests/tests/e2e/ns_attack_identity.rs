//! Attacks on who is who: namespaces, cgroups, numbers and names that pretend to be somebody's container.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use upcall_e2e::cgroup::{self, Child, cgroup2};
use upcall_e2e::command::{command, until};
use upcall_e2e::container::{Container, pid_of, waits};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::Leader;
use upcall_e2e::needs;
use upcall_e2e::records::{action, report};
use upcall_e2e::registered::Registered;
use upcall_e2e::rootfs::Rootfs;
use upcall_e2e::runc::Runc;
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, run_rule, script};

/// Runs /helper wherever it may.
const ANYWHERE: &str = r#"
[[rule]]
upcall = "core"
run = { in = "container", command = ["/helper"], without_user_namespace = true }
"#;

/// A helper that leaves a mark where it runs.
fn canary() -> impl FnOnce(&Rootfs) -> Result<()> {
    script(
        "/helper",
        "cat > /dev/null; touch /tmp/canary; readlink /proc/self/ns/user || true",
    )
}

fn sang(root: &Rootfs) -> bool {
    root.inside("/tmp/canary").exists()
}

/// Nothing ran anywhere; the core was kept on the host.
fn host_only(scene: &Scene, record: &Record, dump: &CoreDump, reason: &str) -> Result<()> {
    assert_eq!(record.reason.as_deref(), Some(reason), "{record:?}");
    let run = record.actions.iter().find(|action| action.action == "run");
    assert!(run.is_none_or(|run| run.outcome == Outcome::Refused && run.namespaces.is_none()));
    assert_eq!(scene.kept(record)?, dump.core());
    Ok(())
}

#[test]
fn namespaces_of_an_unprivileged_user_are_no_container() -> Result<()> {
    // CVE-2015-1318: crashes were handled inside whatever looked like a container.
    needs!(Root, Unprivileged);
    let scene = Scene::with_settings(Registered::SETTINGS, ANYWHERE)?;
    let fake = Registered::unregistered(&scene.sandbox, "fake")?;
    canary()(fake.root())?;
    let dump = CoreDump::of(fake.init())?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.process.user_namespace.as_deref(), Some("other"));
    assert!(record.container.is_none());
    host_only(&scene, &record, &dump, "unregistered")?;
    assert!(!sang(fake.root()));
    drop(fake);
    scene.end()
}

#[test]
fn a_state_that_somebody_else_can_write_vouches_for_nobody() -> Result<()> {
    needs!(Root, Unprivileged);
    let scene = Scene::with_settings(Registered::SETTINGS, ANYWHERE)?;
    let fake = Registered::start(&scene.sandbox, "fake")?;
    canary()(fake.root())?;
    let dump = CoreDump::of(fake.init())?;
    let state = fake.state(&scene.sandbox);
    let file = state.join("state.json");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
    };
    let own = |path: &Path, uid| std::os::unix::fs::chown(path, Some(uid), Some(uid));
    let refused = |what: &str| -> Result<()> {
        let (record, _) = scene.dump(&dump)?;
        assert!(record.container.is_none(), "{what}: {record:?}");
        host_only(&scene, &record, &dump, "unregistered").context(what.to_owned())
    };
    own(&file, 1000)?;
    refused("another's file")?;
    own(&file, 0)?;
    mode(&file, 0o666)?;
    refused("everybody's file")?;
    mode(&file, 0o644)?;
    own(&state, 1000)?;
    refused("another's directory")?;
    own(&state, 0)?;
    mode(&state, 0o777)?;
    refused("everybody's directory")?;
    mode(&state, 0o711)?;
    let text = std::fs::read_to_string(&file)?;
    let other = text.replacen("\"init_process_start\":", "\"init_process_start\":1", 1);
    std::fs::write(&file, other)?;
    refused("another start time: a recycled number")?;
    let (record, _) = scene.dump(&dump)?;
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(
        nominees.contains("it started at another time"),
        "{nominees}"
    );
    let real = state.with_file_name("real");
    std::fs::rename(&state, &real)?;
    std::os::unix::fs::symlink(&real, &state)?;
    refused("a link")?;
    std::fs::remove_file(&state)?;
    std::fs::rename(&real, &state)?;
    assert!(!sang(fake.root()));
    // And with everything right it is one.
    std::fs::write(&file, text)?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert!(sang(fake.root()));
    drop(fake);
    scene.end()
}

#[test]
fn nested_namespaces_do_not_choose_where_the_helper_runs() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(canary())
        .root(script("/evil", "touch /tmp/evil"))
        .start(&scene.sandbox)?;
    let leader = container.leader()?;
    // An unprivileged user of the container's, in namespaces of his own, with another program in the helper's place.
    let nest = "mount --bind /evil /helper && exec /crash-me --wait";
    let nested = container.victim_by(1000, &["/bin/unshare", "-Urm", "/bin/sh", "-c", nest])?;
    assert_ne!(
        Leader::read(nested)?.namespaces.get("user"),
        leader.namespaces.get("user")
    );
    let (record, _) = scene.dump(&CoreDump::of(nested)?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(record.process.user_namespace.as_deref(), Some("container"));
    let run = action(&record, "run")?;
    assert_eq!(run.namespaces.as_ref(), Some(&leader.namespaces));
    let user = leader.namespaces.get("user").copied().unwrap_or(0);
    assert_eq!(run.output.clone(), Some(format!(r"user:[{user}]\x0a")));
    assert!(sang(container.root()) && !container.root().inside("/tmp/evil").exists());
    scene.end()
}

#[test]
fn nested_namespaces_of_a_container_that_shares_the_hosts_users_are_anybodys() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    let container = Runc::new("web").root(canary()).start(&scene.sandbox)?;
    let nested = container.victim_by(1000, &["/bin/unshare", "-Ur", "/crash-me", "--wait"])?;
    let (record, _) = scene.dump(&CoreDump::of(nested)?)?;
    // What he unshared is nobody's registered container's; the container around it is.
    assert_eq!(record.process.user_namespace.as_deref(), Some("other"));
    let run = action(&record, "run")?;
    assert_eq!(
        run.namespaces.as_ref(),
        Some(&container.leader()?.namespaces)
    );
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    scene.end()
}

#[test]
fn a_cgroup_named_like_another_container_is_not_that_container() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, ""))?;
    let mallory = Runc::new("mallory")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    let alice = Runc::new("alice")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    let process = mallory.victim(&[])?;
    let named = Child::everywhere(&mallory.leader()?, alice.id(), process)?;
    let (record, _) = scene.dump(&CoreDump::of(process)?)?;
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(
        nominees.contains(alice.id()) && nominees.contains("not in its user and pid namespaces"),
        "{nominees}"
    );
    assert_eq!(
        record.container.as_ref().map(|c| c.id.as_str()),
        Some(mallory.id())
    );
    assert!(sang(mallory.root()) && !sang(alice.root()));
    drop(named);
    drop((mallory, alice));
    scene.end()
}

#[test]
fn a_forged_cgroup_name_is_called_so_where_only_the_cgroup_tells() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    // Without user and pid namespaces of their own two containers differ in nothing but cgroup and mounts.
    let plain = |name: &str| Runc::new(name).with(|bundle| bundle.pid_namespace = false);
    let mallory = plain("mallory").root(canary()).start(&scene.sandbox)?;
    let alice = plain("alice").root(canary()).start(&scene.sandbox)?;
    let process = mallory.victim(&[])?;
    let named = Child::everywhere(&mallory.leader()?, alice.id(), process)?;
    let (record, _) = scene.dump(&CoreDump::of(process)?)?;
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(
        nominees.contains(alice.id()) && nominees.contains("forged cgroup name"),
        "{nominees}"
    );
    assert_eq!(
        record.container.as_ref().map(|c| c.id.as_str()),
        Some(mallory.id()),
        "{record:?}"
    );
    assert!(sang(mallory.root()) && !sang(alice.root()));
    drop(named);
    drop((mallory, alice));
    scene.end()
}

#[test]
fn an_unregistered_process_in_a_cgroup_named_like_a_container_is_in_none() -> Result<()> {
    needs!(Root, Runc, Unprivileged);
    let scene = Scene::with_settings("runtimes.runc = [\"/run/runc\", \"@/runc\"]", ANYWHERE)?;
    let alice = Runc::new("alice")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    let fake = Registered::unregistered(&scene.sandbox, "fake")?;
    canary()(fake.root())?;
    let parent = Child::of(
        &cgroup2().context("cgroup2")?,
        &format!("{}-user", scene.sandbox.tag()),
    )?;
    let named = Child::of(parent.path(), alice.id())?;
    fake.move_here(named.path())?;
    let dump = CoreDump::of(fake.init())?;
    let (record, _) = scene.dump(&dump)?;
    assert!(record.container.is_none());
    let nominees = record.evidence.refused_nominees.join("; ");
    assert!(nominees.contains(alice.id()), "{nominees}");
    host_only(&scene, &record, &dump, "unregistered")?;
    assert!(!sang(fake.root()) && !sang(alice.root()));
    drop(fake);
    drop((named, parent, alice));
    scene.end()
}

/// Something of the host's that has entered a container by its init's namespaces.
struct Visitor(std::process::Child);

impl Visitor {
    fn enter(container: &Container, how: &[&str]) -> Result<(Self, u32)> {
        let init = container.init().to_string();
        let mut nsenter = command("nsenter");
        nsenter
            .args(["--target", &init])
            .args(how)
            .args(["--", "/crash-me", "--wait"]);
        let visitor = Self(nsenter.spawn()?);
        let entered = until(Duration::from_secs(5), "a visitor", || {
            let mut pids = upcall_e2e::container::children(visitor.0.id());
            pids.push(visitor.0.id());
            pids.into_iter().find(|pid| waits(*pid))
        });
        Ok((visitor, entered?))
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        // In a pid namespace it is nsenter's child; nsenter reaps it and ends. Else it is what nsenter became.
        let children = upcall_e2e::container::children(self.0.id());
        for pid in &children {
            let _ = kill(pid_of(*pid), Signal::SIGKILL);
        }
        if children.is_empty() {
            drop(self.0.kill());
        }
        drop(self.0.wait());
    }
}

#[test]
fn an_admin_who_entered_a_container_is_not_handled_in_it() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    for user_namespace in [true, false] {
        let name = if user_namespace { "own" } else { "plain" };
        let runc = Runc::new(name).root(canary());
        let runc = if user_namespace {
            runc.user_namespace()
        } else {
            runc
        };
        let container = runc.start(&scene.sandbox)?;
        let (visitor, pid) = Visitor::enter(&container, &["--all"])?;
        let dump = CoreDump::of(pid)?;
        let (record, _) = scene.dump(&dump)?;
        assert_eq!(
            record.verdict.host_only.as_deref(),
            Some("from_outside"),
            "{name}: {record:?}"
        );
        // It is recorded whose container it was.
        assert_eq!(
            record.container.as_ref().map(|c| c.id.as_str()),
            Some(container.id())
        );
        host_only(&scene, &record, &dump, "from_outside")?;
        // In its cgroup too he has what its processes cannot have.
        if !user_namespace {
            std::fs::write(
                cgroup::of(&container.leader()?)?.join("cgroup.procs"),
                pid.to_string(),
            )?;
            let (record, _) = scene.dump(&dump)?;
            assert_eq!(
                record.verdict.host_only.as_deref(),
                Some("from_outside"),
                "{record:?}"
            );
        }
        assert!(!sang(container.root()));
        drop(visitor);
    }
    scene.end()
}

#[test]
fn a_visitor_in_some_of_its_namespaces_is_not_handled_in_it() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    let container = Runc::new("web")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    let hows: [&[&str]; 3] = [
        &["--mount", "--pid", "--net", "--ipc", "--uts"],
        &["--mount"],
        &[
            "--user", "--mount", "--pid", "--setuid", "0", "--setgid", "0",
        ],
    ];
    for how in hows {
        let (visitor, pid) = Visitor::enter(&container, how)?;
        let child = Child::of(&cgroup::of(&container.leader()?)?, "visitor")?;
        for cgroup in [None, Some(&child)] {
            if let Some(cgroup) = cgroup {
                cgroup.take(pid)?;
            }
            let dump = CoreDump::of(pid)?;
            let (record, _) = scene.dump(&dump)?;
            let inside = cgroup.is_some();
            let reason = record.reason.clone().unwrap_or_default();
            assert!(
                ["from_outside", "unregistered"].contains(&reason.as_str()),
                "{how:?}, in its cgroup: {inside}: {record:?}"
            );
            host_only(&scene, &record, &dump, &reason)?;
        }
        assert!(!sang(container.root()), "{how:?}");
        drop(visitor);
        drop(child);
    }
    drop(container);
    scene.end()
}

#[test]
fn a_process_with_more_than_its_containers_init_came_from_outside() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    let container = Runc::new("web").root(canary()).start(&scene.sandbox)?;
    let pid = container.spawn_with(&["--cap=CAP_SYS_ADMIN"], &["/crash-me", "--wait"])?;
    until(Duration::from_secs(5), "a process", || {
        waits(pid).then_some(())
    })?;
    let dump = CoreDump::of(pid)?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(
        record.verdict.host_only.as_deref(),
        Some("from_outside"),
        "{record:?}"
    );
    let message = record.message.clone().unwrap_or_default();
    assert!(message.contains("capabilities"), "{message}");
    host_only(&scene, &record, &dump, "from_outside")?;
    assert!(!sang(container.root()));
    scene.end()
}

#[test]
fn a_core_of_changed_credentials_stays_on_the_host() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    let container = Runc::new("web")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    for mode in ["2", "0", "", "x"] {
        let dump = CoreDump::of(container.init())?.word("%d", mode);
        let (record, _) = scene.dump(&dump)?;
        assert_eq!(
            record.verdict.host_only.as_deref(),
            Some("not_dumpable"),
            "{mode}: {record:?}"
        );
        host_only(&scene, &record, &dump, "not_dumpable")?;
    }
    assert!(!sang(container.root()));
    scene.end()
}

#[test]
fn a_pidfd_of_another_process_than_the_number_says_is_believed_by_nobody() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(ANYWHERE)?;
    let alice = Runc::new("alice")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    let mallory = Runc::new("mallory")
        .user_namespace()
        .root(canary())
        .start(&scene.sandbox)?;
    let dump = CoreDump::of(mallory.init())?.word("%P", alice.init().to_string());
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(
        record.verdict.host_only.as_deref(),
        Some("identity_lost"),
        "{record:?}"
    );
    host_only(&scene, &record, &dump, "identity_lost")?;
    assert!(!sang(alice.root()) && !sang(mallory.root()));
    scene.end()
}

#[test]
fn a_container_close_to_the_host_needs_the_rules_leave() -> Result<()> {
    needs!(Root, Runc);
    let rule = |more: &str| {
        format!(
            "[[rule]]\nupcall = \"core\"\nmatch.container = {{ runtime = \"runc\" }}\n\
             run = {{ in = \"container\", command = [\"/probe\"]{more} }}\n"
        )
    };
    let without = ", without_user_namespace = true";
    let trusted = ", without_user_namespace = true, trusted_container = true";
    for (powerful, more, runs) in [
        (false, "", false),
        (false, without, true),
        (true, without, false),
        (true, trusted, true),
    ] {
        let scene = Scene::new(&rule(more))?;
        let container = Runc::new("web")
            .with(|bundle| {
                if powerful {
                    bundle.capabilities.push("CAP_SYS_ADMIN".to_owned());
                }
            })
            .start(&scene.sandbox)?;
        let dump = CoreDump::of(container.init())?;
        let (record, _) = scene.dump(&dump)?;
        if runs {
            assert_eq!(record.outcome, Outcome::Done, "{more}: {record:?}");
            assert_eq!(report(&record)?.namespaces, container.leader()?.namespaces);
        } else {
            host_only(&scene, &record, &dump, "untrusted_container")?;
        }
        drop(container);
        scene.end()?;
    }
    Ok(())
}

#[test]
fn what_a_tenant_may_call_himself_moves_no_word_and_no_cursor() -> Result<()> {
    needs!(Root, Runc);
    let rule = run_rule(
        r#""/probe", "{pid}", "{comm}", "{exe}", "{container}", "{signal}""#,
        "",
    );
    let scene = Scene::new(&rule)?;
    let name = "\n--pidfd=9 )";
    let container = Runc::new("web")
        .user_namespace()
        .root(move |root| {
            Ok(std::fs::hard_link(
                root.inside("/crash-me"),
                root.inside("/tmp").join(name),
            )?)
        })
        .start(&scene.sandbox)?;
    let path = format!("/tmp/{name}");
    let pid = container.victim_by(0, &[&path, "--wait"])?;
    let long = "!".repeat(4000);
    let dump = CoreDump::of(pid)?
        .word("%h", "\x1b]0;host\x07")
        .word("%e", name)
        .word("%f", name)
        .word("%E", &long);
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(record.process.comm.as_deref(), Some(r"\x0a--pidfd=9 )"));
    assert_eq!(record.process.exe.as_deref(), Some(r"/tmp/\x0a--pidfd=9 )"));
    let argv = report(&record)?.argv;
    assert_eq!(
        argv[2..],
        [
            name.to_owned(),
            path,
            container.id().to_owned(),
            "SEGV".to_owned()
        ]
    );
    // The log has one line of it, and nothing that a terminal would act on.
    assert!(!scene.daemon.log().contains('\x1b') && !scene.daemon.log().contains("\n--pidfd"));
    scene.end()
}
