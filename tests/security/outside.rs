//! Attacks from outside and from too high up: whoever is in a container and is not of it.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use upcall_e2e::cgroup::{self, Child};
use upcall_e2e::command::{command, until};
use upcall_e2e::container::{Container, pid_of, waits};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::report;
use upcall_e2e::runc::Runc;
use upcalld::linux::sys::pid_from_namespace;
use upcalld::store::record::Outcome;

use crate::canary::{ANYWHERE, canary, host_only, sang};
use crate::scene::Scene;

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
        // It is recorded whose container it was, where the kernel knows a pid namespace's init (6.11).
        let namespace = std::fs::File::open("/proc/self/ns/pid")?;
        let known = pid_from_namespace(namespace.as_fd(), 1) != Err(Errno::ENOTTY);
        assert_eq!(
            record.container.as_ref().map(|c| c.id.as_str()),
            known.then_some(container.id()),
            "{name}: {record:?}"
        );
        let reason = if known {
            "from_outside"
        } else {
            "unregistered"
        };
        host_only(&scene, &record, &dump, reason)?;
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
