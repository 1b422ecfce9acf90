//! A helper that leaves a mark wherever it runs: where it should not have run, the mark is the proof.

use anyhow::Result;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::rootfs::Rootfs;
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, script};

/// Runs /helper wherever it may.
pub(crate) const ANYWHERE: &str = r#"
[[rule]]
upcall = "core"
run = { in = "container", command = ["/helper"], without_user_namespace = true }
"#;

/// A helper that leaves a mark where it runs.
pub(crate) fn canary() -> impl FnOnce(&Rootfs) -> Result<()> {
    script(
        "/helper",
        "cat > /dev/null; touch /tmp/canary; readlink /proc/self/ns/user || true",
    )
}

pub(crate) fn sang(root: &Rootfs) -> bool {
    root.inside("/tmp/canary").exists()
}

/// Nothing ran anywhere; the core was kept on the host.
pub(crate) fn host_only(
    scene: &Scene,
    record: &Record,
    dump: &CoreDump,
    reason: &str,
) -> Result<()> {
    assert_eq!(record.reason.as_deref(), Some(reason), "{record:?}");
    let run = record.actions.iter().find(|action| action.action == "run");
    assert!(run.is_none_or(|run| run.outcome == Outcome::Refused && run.namespaces.is_none()));
    assert_eq!(scene.kept(record)?, dump.core());
    Ok(())
}
