//! Everything a helper can see of itself, in every kind of container, against a golden file for each.
//!
//! A helper is to have what its container's init has and not a bit more; the golden files say it for every field.

use anyhow::Result;
use serde_json::json;
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::Leader;
use upcall_e2e::needs;
use upcall_e2e::podman::Podman;
use upcall_e2e::profile::{Relation, golden, profile};
use upcall_e2e::records::{action, report};
use upcall_e2e::report::Hash;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Outcome;

/// SEGV runs the container's own program, ABRT one of the host's.
const RULES: &str = r#"
[[rule]]
upcall = "core"
match.container = {}
match.core = { signal = "SEGV" }
run = { in = "container", command = ["/probe", "{pid}", "--look=@", "--look=/probe"], without_user_namespace = true }
[[rule]]
upcall = "core"
match.container = {}
match.core = { signal = "ABRT" }
run = { in = "container", host_program = ["@/bin/upcall-probe", "--look=@", "--look=/probe"], without_user_namespace = true }
"#;

/// Lets both helpers run in a container and compares what they say.
fn compare(name: &str, start: impl FnOnce(&Sandbox) -> Result<Container>) -> Result<()> {
    let sandbox = Sandbox::new()?;
    sandbox.rules(RULES)?;
    let daemon = Daemon::start(&sandbox)?;
    let container = start(&sandbox)?;
    let (leader, host) = (container.leader()?, Leader::read(std::process::id())?);
    let mut profiles = json!({});
    for (kind, signal) in [("command", "11"), ("host_program", "6")] {
        let dump = CoreDump::of(container.init())?.word("%s", signal);
        let before = daemon.records().all().len();
        let ended = dump.dump(&sandbox)?;
        assert_eq!((ended.code, ended.taken), (0, true), "{}", daemon.log());
        let record = daemon.records().wait("a helper", |record| {
            record
                .core
                .as_ref()
                .is_some_and(|core| core.signal_number == signal.parse().ok())
        })?;
        assert_eq!(daemon.records().all().len(), before + 1);
        assert_eq!(record.outcome, Outcome::Done, "{record:?}");
        let report = report(&record)?;
        let run = action(&record, "run")?;
        // What the record says and what the helper saw are the same.
        assert_eq!(run.namespaces.as_ref(), Some(&report.namespaces));
        let [uid, ..] = report.uid;
        let [gid, ..] = report.gid;
        assert_eq!((run.uid_inside, run.gid_inside), (Some(uid), Some(gid)));
        let count = run.capabilities.as_ref().map_or(0, Vec::len);
        assert_eq!(u32::try_from(count)?, report.capabilities.count());
        let relation = Relation {
            leader: &leader,
            host: &host,
            record: &record.id,
            sandbox: sandbox.root(),
            core: &Hash::of(dump.core()).to_string(),
        };
        if let Some(table) = profiles.as_object_mut() {
            table.insert(kind.to_owned(), profile(&report, &relation)?);
        }
    }
    golden(name, &profiles)?;
    drop(container);
    daemon.stop(&sandbox)
}

#[test]
fn in_runc_with_a_user_namespace() -> Result<()> {
    needs!(Root, Runc);
    compare("runc-userns", |sandbox| {
        Runc::new("web").user_namespace().start(sandbox)
    })
}

#[test]
fn in_runc_without_a_user_namespace() -> Result<()> {
    needs!(Root, Runc);
    compare("runc-plain", |sandbox| Runc::new("web").start(sandbox))
}

#[test]
fn in_runc_without_a_pid_namespace() -> Result<()> {
    needs!(Root, Runc);
    compare("runc-userns-hostpid", |sandbox| {
        let runc = Runc::new("web").user_namespace();
        runc.with(|bundle| bundle.pid_namespace = false)
            .start(sandbox)
    })
}

#[test]
fn in_runc_without_user_and_pid_namespaces() -> Result<()> {
    needs!(Root, Runc);
    compare("runc-plain-hostpid", |sandbox| {
        Runc::new("web")
            .with(|bundle| bundle.pid_namespace = false)
            .start(sandbox)
    })
}

#[test]
fn in_runc_with_the_hosts_network() -> Result<()> {
    needs!(Root, Runc);
    compare("runc-userns-hostnet", |sandbox| {
        let runc = Runc::new("web").user_namespace();
        runc.with(|bundle| bundle.net_namespace = false)
            .start(sandbox)
    })
}

#[test]
fn in_runc_with_a_read_only_root() -> Result<()> {
    needs!(Root, Runc);
    compare("runc-userns-readonly", |sandbox| {
        let runc = Runc::new("web").user_namespace();
        runc.with(|bundle| bundle.read_only = true).start(sandbox)
    })
}

#[test]
fn in_runc_with_an_init_that_is_not_root() -> Result<()> {
    needs!(Root, Runc);
    compare("runc-userns-nonroot", |sandbox| {
        let runc = Runc::new("web").user_namespace();
        runc.with(|bundle| bundle.user = (1000, 1000, vec![2000, 3000]))
            .start(sandbox)
    })
}

#[test]
fn in_runc_without_a_user_namespace_with_an_init_that_is_not_root() -> Result<()> {
    needs!(Root, Runc);
    compare("runc-plain-nonroot", |sandbox| {
        let runc = Runc::new("web");
        runc.with(|bundle| bundle.user = (1000, 1000, vec![2000, 3000]))
            .start(sandbox)
    })
}

#[test]
fn in_runc_without_proc_in_its_root() -> Result<()> {
    needs!(Root, Runc);
    compare("runc-userns-noproc", |sandbox| {
        let container = Runc::new("web").user_namespace().start(sandbox)?;
        container.as_host_root(&["/bin/umount", "-l", "/proc"])?;
        Ok(container)
    })
}

#[test]
fn in_podman() -> Result<()> {
    needs!(Root, Runc, Podman);
    compare("podman", |sandbox| Podman::new("web").start(sandbox))
}

#[test]
fn in_podman_with_a_user_namespace() -> Result<()> {
    needs!(Root, Runc, Podman);
    compare("podman-uidmap", |sandbox| {
        Podman::new("web").user_namespace(200_000).start(sandbox)
    })
}

#[test]
fn in_podman_as_a_user_of_its_own() -> Result<()> {
    needs!(Root, Runc, Podman);
    compare("podman-nonroot", |sandbox| {
        Podman::new("web")
            .flag("--user=1000:1000")
            .flag("--read-only")
            .start(sandbox)
    })
}
