//! Any other program that the kernel starts, by the real shim: what passes, what is refused, and what holds without a
//! daemon.

use anyhow::{Context, Result};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::usermode_helper::{Ran, program, ran, start, start_link};
use upcalld::store::record::{Outcome, Record, Umh};

use crate::scene::Scene;

/// What the package ships.
const SHIPPED: &str = include_str!("../../../config/defaults/rules.d/90-default.toml");

fn latest(daemon: &Daemon, count: usize) -> Result<(Record, Umh)> {
    let record = daemon.records().wait("its record", |record| {
        record.kind == "umh" && daemon.records().all().len() == count
    })?;
    let umh = record.umh.clone().context("what it is about")?;
    Ok((record, umh))
}

fn words(ran: Option<Ran>) -> Option<String> {
    ran.map(|ran| ran.words)
}

#[test]
fn what_the_kernel_is_known_to_start_passes_and_is_recorded() -> Result<()> {
    needs!(Root);
    let scene = Scene::new(SHIPPED)?;
    program(&scene.sandbox, "bridge-stp")?;
    let status = start(&scene.sandbox, "/sbin/bridge-stp", &["br0", "start"])?;
    assert_eq!(status.code(), Some(0));
    let ran = ran(&scene.sandbox).context("it did not run")?;
    assert_eq!(ran.words, "/sbin/bridge-stp br0 start");
    assert_eq!(
        ran.environment,
        ["HOME=/", "PATH=/sbin:/bin:/usr/sbin:/usr/bin"]
    );
    assert_eq!(ran.bounding, own_bounding()?);
    let (record, umh) = latest(&scene.daemon, 1)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(record.verdict.actions, ["pass"]);
    assert_eq!(umh.words, ["br0", "start"]);
    assert_eq!(umh.program.as_deref(), Some("/sbin/bridge-stp"));
    assert!(umh.known);
    scene.end()
}

fn own_bounding() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("CapBnd:"));
    let set = line.and_then(|line| line.split_whitespace().last());
    Ok(u64::from_str_radix(set.context("CapBnd")?, 16)?)
}

/// A container that is let set a release agent names any program of the host's; its words are always its cgroup's path.
#[test]
fn a_release_agent_that_is_another_program_is_refused() -> Result<()> {
    needs!(Root);
    let scene = Scene::new(SHIPPED)?;
    for (count, name) in ["nfsdcltrack", "drbdadm", "evil"].into_iter().enumerate() {
        program(&scene.sandbox, name)?;
        let program = format!("/sbin/{name}");
        let status = start(&scene.sandbox, &program, &["/docker/3f9c/x"])?;
        assert_eq!(status.code(), Some(1), "{name}");
        assert_eq!(words(ran(&scene.sandbox)), None, "{name}");
        let all = scene.records(count + 1, std::time::Duration::from_secs(10))?;
        let record = all
            .iter()
            .find(|record| record.umh.as_ref().is_some_and(|umh| umh.name == program));
        let record = record.context("its record")?;
        assert_eq!(record.outcome, Outcome::Refused);
        let reason = if name == "evil" { "rule" } else { "forged" };
        assert_eq!(record.reason.as_deref(), Some(reason), "{name}");
    }
    scene.end()
}

/// Our own links, named by whoever may name one: they are served as hooks only with the words of those.
#[test]
fn our_own_programs_are_no_way_around_the_rules() -> Result<()> {
    needs!(Root);
    let scene = Scene::new(SHIPPED)?;
    program(&scene.sandbox, "modprobe")?;
    let refused = |count: usize, name: &str| -> Result<()> {
        let all = scene.records(count, std::time::Duration::from_secs(10))?;
        let of = |record: &&Record| record.umh.as_ref().is_some_and(|umh| umh.name == name);
        let record = all.iter().find(of).context("its record")?;
        assert_eq!(record.outcome, Outcome::Refused, "{record:?}");
        Ok(())
    };
    for (count, link) in ["core", "request-key", "modprobe"].into_iter().enumerate() {
        let own = scene.sandbox.libexec().join(link);
        let own = own.to_str().context("its path")?;
        let status = start(&scene.sandbox, own, &["/docker/3f9c/x"])?;
        assert_eq!(status.code(), Some(1), "{link}");
        assert_eq!(words(ran(&scene.sandbox)), None, "{link}");
        refused(count + 1, own)?;
    }
    // By its usual path it is a module's only with a module's words, and where kernel.modprobe says so.
    let status = start(&scene.sandbox, "/sbin/modprobe", &["/docker/3f9c/x"])?;
    assert_eq!(status.code(), Some(1));
    assert_eq!(words(ran(&scene.sandbox)), None);
    refused(4, "/sbin/modprobe")?;
    assert!(crate::scene::nothing_in(&scene.sandbox.spool()));
    scene.end()
}

#[test]
fn a_rule_lets_it_pass_with_less() -> Result<()> {
    needs!(Root);
    let scene = Scene::new(
        "[[rule]]\nupcall = \"umh\"\nmatch.umh = \"/sbin/mine*\"\n\
         pass = { capabilities = [\"CHOWN\", \"NET_ADMIN\"] }\n\
         [[rule]]\nupcall = \"umh\"\ndeny = { reason = \"no\" }\n",
    )?;
    program(&scene.sandbox, "mine-too")?;
    let status = start(&scene.sandbox, "/sbin/mine-too", &["--any", "words"])?;
    assert_eq!(status.code(), Some(0));
    let ran = ran(&scene.sandbox).context("it did not run")?;
    assert_eq!(ran.words, "/sbin/mine-too --any words");
    assert_eq!(ran.bounding, 1 | 1 << 12);
    scene.end()
}

#[test]
fn a_program_that_is_not_there_is_told_of() -> Result<()> {
    needs!(Root);
    let scene = Scene::new("")?;
    let status = start(&scene.sandbox, "/sbin/nfsdcltrack", &["init"])?;
    assert_eq!(status.code(), Some(1));
    let (record, _) = latest(&scene.daemon, 1)?;
    assert_eq!(record.outcome, Outcome::Failed);
    assert_eq!(record.reason.as_deref(), Some("helper_missing"));
    scene.end()
}

#[test]
fn without_a_daemon_only_what_is_known_goes_on() -> Result<()> {
    needs!(Root);
    let sandbox = Sandbox::new()?;
    for name in ["bridge-stp", "evil", "reboot"] {
        program(&sandbox, name)?;
    }
    start(&sandbox, "/sbin/bridge-stp", &["br0", "stop"])?;
    assert_eq!(
        words(ran(&sandbox)).as_deref(),
        Some("/sbin/bridge-stp br0 stop")
    );
    start(&sandbox, "/sbin/bridge-stp", &["/docker/3f9c/x"])?;
    start(&sandbox, "/sbin/evil", &["/docker/3f9c/x"])?;
    assert_eq!(words(ran(&sandbox)), None);
    // One that hears and never answers: what switches the machine off does not wait for it to be well again.
    let daemon = Daemon::start(&sandbox)?;
    daemon.halt()?;
    start(&sandbox, "/sbin/bridge-stp", &["br0", "stop"])?;
    assert_eq!(words(ran(&sandbox)), None);
    start(&sandbox, "/sbin/reboot", &[])?;
    assert_eq!(words(ran(&sandbox)).as_deref(), Some("/sbin/reboot "));
    drop(daemon);
    Ok(())
}

/// What a release agent is told is a path; whose it is the container's own cgroups say, and no name in it.
#[test]
fn an_emptied_cgroup_is_its_containers() -> Result<()> {
    needs!(Root, Runc, FreezerV1);
    let scene = Scene::new(
        "[[rule]]\nupcall = \"umh\"\nmatch.container = { runtime = \"runc\", id = \"*web\" }\n\
         deny = { reason = \"not the web's\" }\n",
    )?;
    let web = Runc::new("web").start(&scene.sandbox)?;
    let other = Runc::new("other").start(&scene.sandbox)?;
    let path = |container: &upcall_e2e::container::Container| -> Result<String> {
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", container.init()))?;
        let line = cgroups.lines().find(|line| !line.starts_with("0::"));
        let path = line.and_then(|line| line.rsplit(':').next());
        Ok(path.context("a v1 cgroup")?.to_owned())
    };
    let agent = |path: &str| start_link(&scene.sandbox, "release_agent", &[path]);
    let own = format!("{}/job", path(&web)?);
    assert_eq!(agent(&own)?.code(), Some(1));
    let (record, umh) = latest(&scene.daemon, 1)?;
    assert_eq!(record.message.as_deref(), Some("not the web's"));
    assert_eq!((umh.name.as_str(), umh.program), ("release_agent", None));
    // Its name in another's cgroup is a name.
    let leaf = path(&web)?;
    let leaf = leaf.rsplit('/').next().context("its cgroup's name")?;
    let forged = format!("{}/{leaf}", path(&other)?);
    assert_eq!(agent(&forged)?.code(), Some(0));
    let all = scene.records(2, std::time::Duration::from_secs(10))?;
    let forged = all.iter().find(|record| record.outcome == Outcome::Done);
    let forged = forged.context("its record")?;
    let named = forged.container.as_ref().map(|c| c.id.as_str());
    assert_eq!(named, Some(other.id()), "{forged:?}");
    let refused = &forged.evidence.refused_nominees;
    assert!(
        refused.iter().any(|why| why.contains("forged cgroup name")),
        "{refused:?}"
    );
    scene.end()
}
