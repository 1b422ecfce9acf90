//! Modules on a kernel that is locked down: nothing can be traced, so who asked is looked for among all who wait.

use anyhow::{Context, Result, ensure};
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcalld::store::record::Outcome;

use crate::host_module_scene::{ModuleScene, SHIPPED, ask_in, instances};

#[test]
fn host_module_lockdown_who_asked_is_one_of_all_who_wait() -> Result<()> {
    needs!(HostHooks, Root, Runc, KernelModprobe, Lockdown);
    let ModuleScene {
        hook,
        daemon,
        sandbox,
        ..
    } = ModuleScene::new(SHIPPED)?;
    assert_eq!(instances(), 0, "this kernel can be traced");
    let scene = ModuleScene {
        instances: 0,
        hook,
        daemon,
        sandbox,
    };
    let own = Runc::new("own").user_namespace().start(&scene.sandbox)?;
    assert_eq!(ask_in(&own, &["socket", "4"])?, "no EAFNOSUPPORT");
    let record = scene.record("net-pf-4", |_| true)?;
    assert_eq!(record.outcome, Outcome::Refused, "{record:?}");
    assert_eq!(record.reason.as_deref(), Some("rule"));
    assert_eq!(record.evidence.process.as_deref(), Some("scan"));
    assert_eq!(record.evidence.candidates, 1);
    let found = record.container.as_ref().context("a container")?;
    assert_eq!(found.id, own.id());
    assert_eq!(scene.ask(&["socket", "20"])?, "no EAFNOSUPPORT");
    let record = scene.record("net-pf-20", |_| true)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(record.verdict.actions, ["pass"]);
    // Both at once: nobody of the container's ever passes for the host's.
    let words = ["--threads", "4", "--times", "10", "socket", "9"];
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| ask_in(&own, &words));
        let outside = scope.spawn(|| scene.ask(&words));
        let joined = [inside.join(), outside.join()];
        joined.into_iter().all(|joined| matches!(joined, Ok(Ok(_))))
    })
    .then_some(())
    .context("both ask")?;
    let records = scene.daemon.records().all();
    let (one, more): (Vec<_>, Vec<_>) = records
        .iter()
        .filter(|record| {
            record
                .module
                .as_ref()
                .is_some_and(|m| m.alias == "net-pf-9")
        })
        .partition(|record| record.evidence.candidates == 1);
    let passed = |record: &&&upcalld::store::record::Record| record.verdict.actions == ["pass"];
    ensure!(!more.is_empty(), "no two have waited at once: {one:?}");
    let wrong = one
        .iter()
        .filter(passed)
        .find(|record| record.container.is_some());
    ensure!(wrong.is_none(), "{wrong:?}");
    // With several it is passed only where each of them might.
    let ambiguous =
        |record: &&&upcalld::store::record::Record| record.reason.as_deref() == Some("ambiguous");
    ensure!(more.iter().any(|record| ambiguous(&record)), "{more:?}");
    ensure!(
        scene.daemon.log().contains("by a scan of /proc"),
        "{}",
        scene.daemon.log()
    );
    drop(own);
    scene.hook.put_back()?;
    scene.daemon.stop(&scene.sandbox)
}
