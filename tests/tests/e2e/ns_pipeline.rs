//! The whole way of one upcall, from the shim's start to the record.

use anyhow::Result;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::{action, report};
use upcall_e2e::report::Hash;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::Outcome;

#[test]
fn a_containers_own_program_gets_the_core_in_its_container() -> Result<()> {
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    sandbox.rules(
        r#"
[[rule]]
upcall = "core"
match.container = { runtime = "runc" }
run = { in = "container", command = ["/probe", "{pid}", "{signal}", "{comm}", "{container}", "{record}"] }
"#,
    )?;
    let daemon = Daemon::start(&sandbox)?;
    let container = Runc::new("web").user_namespace().start(&sandbox)?;
    let dump = CoreDump::of(container.init())?;
    let ended = dump.dump(&sandbox)?;
    assert_eq!((ended.code, ended.taken), (0, true));

    let record = daemon.records().of(container.init())?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(action(&record, "run")?.exit_code, Some(0));
    let report = report(&record)?;
    assert_eq!(
        report.argv,
        ["/probe", "1", "SEGV", "init", container.id(), &record.id]
    );
    assert_eq!(report.stdin_hash, Hash::of(dump.core()).to_string());
    assert_eq!(report.namespaces, container.leader()?.namespaces);
    daemon.stop(&sandbox)
}
