//! Keys that real processes ask the real kernel for, answered where the rules say.

use anyhow::Result;
use upcall_e2e::command::run;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcalld::store::record::Outcome;

use crate::host_key_scene::{KeyScene, ask_in, key};
use crate::scene::script;

/// Programs of the container's own answer; keys that are the container's own, themselves.
const RULES: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user", description = "own:*" }
run = { in = "container", command = ["/key-me", "--answer", "{key}", "of {description} for {uid}"], without_user_namespace = true }

[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "dns_resolver" }
run = { in = "container", command = ["/resolve", "{description}"], without_user_namespace = true }

[[rule]]
upcall = "key"
match.key = { type = "user", description = "given:*" }
answer = { payload = "what was given", ttl = "1m" }

[[rule]]
upcall = "key"
match.key = { type = "user", description = "refused:*" }
deny = { reason = "not here", errno = "EKEYREVOKED", ttl = "1s" }
"#;

#[test]
fn a_key_is_answered_in_the_container_whose_process_asked() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(RULES)?;
    let own = Runc::new("own").user_namespace().start(&scene.sandbox)?;
    let plain = Runc::new("plain").start(&scene.sandbox)?;
    for (container, name) in [(&own, "own:one"), (&plain, "own:two")] {
        assert_eq!(
            ask_in(container, &["user", name, "x"])?,
            format!("key of {name} for 0")
        );
        let record = scene.record(name)?;
        assert_eq!(record.outcome, Outcome::Done, "{record:?}");
        assert_eq!(record.evidence.process.as_deref(), Some("auth_key"));
        assert_eq!(key(&record)?.answer.as_deref(), Some("helper"));
        assert_eq!(key(&record)?.caller, "user");
        let leader = record.container.as_ref().map(|found| found.leader_pid);
        assert_eq!(leader, Some(container.init()));
        let inside = action(&record, "run")?.namespaces.clone();
        let pid = std::fs::read_link(format!("/proc/{}/ns/pid", container.init()))?;
        let pid = pid.to_string_lossy().into_owned();
        assert_eq!(
            inside.map(|inside| format!("pid:[{}]", inside["pid"])),
            Some(pid)
        );
    }
    // A thread's number is not its process's.
    assert_eq!(
        ask_in(&own, &["--thread", "user", "own:thread", "x"])?,
        "key of own:thread for 0"
    );
    let record = scene.record("own:thread")?;
    assert_ne!(record.process.pid, record.process.tid, "{record:?}");
    assert!(record.process.pid_inside.is_some());
    drop((own, plain));
    scene.end()
}

#[test]
fn answers_and_refusals_of_the_admins() -> Result<()> {
    needs!(HostHooks, Root);
    let scene = KeyScene::new(RULES)?;
    assert_eq!(scene.ask(&["user", "given:a", "x"])?, "key what was given");
    let record = scene.record("given:a")?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(key(&record)?.answer.as_deref(), Some("instantiated"));
    assert_eq!(key(&record)?.ttl_us, Some(60_000_000));
    assert_eq!(scene.ask(&["user", "refused:a", "x"])?, "no EKEYREVOKED");
    let record = scene.record("refused:a")?;
    assert_eq!(record.outcome, Outcome::Refused, "{record:?}");
    assert_eq!(key(&record)?.errno.as_deref(), Some("EKEYREVOKED"));
    // No rule: as ever.
    assert_eq!(
        scene.ask(&["user", "debug:lizard", "gizzard"])?,
        "key Debug gizzard"
    );
    let record = scene.record("debug:lizard")?;
    assert_eq!(record.verdict.actions, ["pass"], "{record:?}");
    assert_eq!(key(&record)?.answer.as_deref(), Some("helper"));
    scene.end()
}

#[test]
fn a_name_is_resolved_by_the_containers_own_words_and_never_by_its_own_hand() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(RULES)?;
    let start = |name: &str, prints: &str| {
        let prints = script("/resolve", &format!("echo {prints}; echo '# not this' >&2"));
        Runc::new(name)
            .user_namespace()
            .root(prints)
            .start(&scene.sandbox)
    };
    let (one, two) = (
        start("one", "192.0.2.1")?,
        start("two", "192.0.2.2,2001:db8::2")?,
    );
    let ask = |container| ask_in(container, &["dns_resolver", "shop.example", ""]);
    assert_eq!(ask(&one)?, "key 192.0.2.1");
    assert_eq!(ask(&two)?, "key 192.0.2.2,2001:db8::2");
    let record = scene.record("shop.example")?;
    assert_eq!(key(&record)?.answer.as_deref(), Some("instantiated"));
    assert_eq!(key(&record)?.ttl_us, Some(5_000_000));
    // What is no address is no answer.
    let odd = start("odd", "evil.example")?;
    assert_eq!(
        ask_in(&odd, &["dns_resolver", "odd.example", ""])?,
        "no EBADMSG"
    );
    let record = scene.record("odd.example")?;
    assert_eq!(record.reason.as_deref(), Some("unanswered"), "{record:?}");
    // Nor may it answer by itself.
    let hand = script("/resolve", "/key-me --answer $1 192.0.2.9; :");
    let rule = RULES.replace("\"{description}\"]", "\"{key}\"]");
    scene.sandbox.rules(&rule)?;
    run(scene.sandbox.ctl().arg("reload"))?;
    let hand = Runc::new("hand")
        .user_namespace()
        .root(hand)
        .start(&scene.sandbox)?;
    assert_eq!(
        ask_in(&hand, &["dns_resolver", "hand.example", ""])?,
        "no EBADMSG"
    );
    let record = scene.record("hand.example")?;
    let said = action(&record, "run")?.output.clone();
    assert!(
        said.is_some_and(|said| said.contains("no EPERM")),
        "{record:?}"
    );
    drop((one, two, odd, hand));
    scene.end()
}
