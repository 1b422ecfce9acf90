//! Attacks by who asks for keys: what a rule refuses to containers it refuses also to whoever hides that he is of one.

use std::time::Duration;

use anyhow::Result;
use upcall_e2e::command::until;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;

use crate::host_key_scene::KeyScene;

const DENIED: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
deny = { reason = "not for containers" }
[[rule]]
upcall = "key"
answer = { payload = "the host's", ttl = "1s" }
"#;

#[test]
fn whose_init_has_ended_gets_no_key_of_the_hosts() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(DENIED)?;
    let runc = Runc::new("web").with(|bundle| bundle.pid_namespace = false);
    let container = runc.start(&scene.sandbox)?;
    let said = container.root().inside("/tmp/said");
    let asks = "until [ -e /tmp/go ]; do sleep 0.02; done; /key-me user orphan x > /tmp/said 2>&1; echo >> /tmp/said";
    let process = container.spawn(&["/bin/sh", "-c", asks])?;
    container.end_of(container.init())?;
    std::fs::write(container.root().inside("/tmp/go"), "")?;
    let said = until(Duration::from_secs(10), "an answer", || {
        std::fs::read_to_string(&said)
            .ok()
            .filter(|said| said.ends_with('\n'))
    })?;
    assert!(!said.contains("the host's"), "{said}");
    let record = scene.record("orphan")?;
    assert_eq!(record.reason.as_deref(), Some("rule"), "{record:?}");
    let host_only = record.verdict.host_only.as_deref();
    assert_eq!(host_only, Some("container_unproven"), "{record:?}");
    container.reap();
    until(Duration::from_secs(5), "its end", || {
        container.reap();
        (!upcall_e2e::container::runs(process)).then_some(())
    })?;
    drop(container);
    scene.end()
}
