//! Several takers of one core at once, and one of them failing: what the others have is whole.

use anyhow::{Context, Result, ensure};
use upcall_e2e::container::Container;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcalld::store::record::{Outcome, Record};

use crate::ns_deliver::{SOCKET, container, receiver};
use crate::scene::Scene;

/// All four. The helper names its file when it has all of it.
pub(crate) const ALL: [(&str, &str); 4] = [
    (
        "run",
        r#"{ in = "container", command = ["/bin/sh", "-c", "cat > /tmp/part && mv /tmp/part /tmp/helper"] }"#,
    ),
    (
        "deliver",
        r#"{ protocol = "upcalld", socket = "/run/x/core", timeout = "10s" }"#,
    ),
    ("file", r#"{ path = "/cores/core", ignore_limit = true }"#),
    ("store", "{ ignore_limit = true }"),
];

/// A rule with them; `instead` of one of them another.
pub(crate) fn rule(instead: Option<(&str, &str)>) -> String {
    let mut rule =
        "[[rule]]\nupcall = \"core\"\nmatch.container = { runtime = \"runc\" }\n".to_owned();
    for (word, value) in ALL {
        let value = instead.map_or(value, |(of, other)| if of == word { other } else { value });
        rule = format!("{rule}{word} = {value}\n");
    }
    rule
}

/// What a taker in the container has.
pub(crate) fn has(container: &Container, taker: &str) -> Option<Vec<u8>> {
    let path = match taker {
        "run" => "/tmp/helper",
        "deliver" => "/tmp/core",
        _ => "/cores/core",
    };
    std::fs::read(container.root().inside(path)).ok()
}

/// All but `failing` are done and have all of it; of `failing` the record says this reason.
fn all_but(failing: &str, instead: &str, how: &str, reason: &str) -> Result<Record> {
    let scene = Scene::new(&rule(Some((failing, instead))))?;
    let container = container(&scene.sandbox)?;
    receiver(&container, 0, SOCKET, how)?;
    let dump = CoreDump::of(container.init())?.bytes(9 << 20);
    let (record, ended) = scene.dump(&dump)?;
    ensure!((ended.code, ended.taken) == (0, true), "{record:?}");
    for (word, _) in ALL {
        let action = action(&record, word)?;
        if word == failing {
            ensure!(action.outcome != Outcome::Done, "{record:?}");
            ensure!(action.reason.as_deref() == Some(reason), "{record:?}");
            continue;
        }
        ensure!(action.outcome == Outcome::Done, "{record:?}");
        let copy = match word {
            "store" => scene.kept(&record).ok(),
            word => has(&container, word),
        };
        let copy = copy.with_context(|| format!("{word} has nothing"))?;
        ensure!(copy == dump.core(), "{word} has {} bytes", copy.len());
    }
    let outcome = if failing.is_empty() {
        Outcome::Done
    } else {
        Outcome::Partial
    };
    ensure!(record.outcome == outcome, "{record:?}");
    drop(container);
    scene.end()?;
    Ok(record)
}

#[test]
fn all_of_them_have_all_of_it() -> Result<()> {
    needs!(Root, Runc);
    let record = all_but("", "", "take", "")?;
    let words: Vec<&str> = record.actions.iter().map(|a| a.action.as_str()).collect();
    assert_eq!(words, ["run", "deliver", "file", "store"]);
    assert_eq!(record.reason, None);
    Ok(())
}

#[test]
fn a_helper_that_fails_takes_nothing_from_the_others() -> Result<()> {
    needs!(Root, Runc);
    let missing = r#"{ in = "container", command = ["/nothing"] }"#;
    all_but("run", missing, "take", "helper_missing")?;
    let leaves =
        r#"{ in = "container", command = ["/bin/sh", "-c", "head -c 9 >/dev/null; exit 3"] }"#;
    all_but("run", leaves, "take", "helper_exit")?;
    let hangs = r#"{ in = "container", command = ["/bin/sh", "-c", "sleep 60"], timeout = "1s" }"#;
    all_but("run", hangs, "take", "helper_timeout")?;
    Ok(())
}

#[test]
fn a_receiver_that_fails_takes_nothing_from_the_others() -> Result<()> {
    needs!(Root, Runc);
    let deliver = r#"{ protocol = "upcalld", socket = "/run/x/core", timeout = "1s" }"#;
    for (how, reason) in [
        ("never", "helper_timeout"),
        ("close", "socket_refused"),
        ("refuse", "socket_refused"),
    ] {
        all_but("deliver", deliver, how, reason)?;
    }
    let nobody = r#"{ protocol = "upcalld", socket = "/run/x/other" }"#;
    all_but("deliver", nobody, "take", "socket_missing")?;
    Ok(())
}

#[test]
fn a_file_or_a_copy_that_fails_takes_nothing_from_the_others() -> Result<()> {
    needs!(Root, Runc);
    let nowhere = r#"{ path = "/nowhere/core", ignore_limit = true }"#;
    all_but("file", nowhere, "take", "file_refused")?;
    let cut = r#"{ ignore_limit = true, max_size = "1MiB" }"#;
    all_but("store", cut, "take", "too_large")?;
    Ok(())
}

#[test]
fn where_all_of_them_fail_a_copy_is_kept() -> Result<()> {
    needs!(Root, Runc);
    let rules = rule(Some(("store", "{}")))
        .replace("store = {}\n", "")
        .replace("/bin/sh", "/nothing")
        .replace("/cores/core", "/nowhere/core");
    let scene = Scene::new(&rules)?;
    let container = container(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(1 << 20);
    let (record, _) = scene.dump(&dump)?;
    for word in ["run", "deliver", "file"] {
        let outcome = action(&record, word)?.outcome;
        ensure!(outcome == Outcome::Failed, "{record:?}");
    }
    ensure!(record.outcome == Outcome::Partial, "{record:?}");
    ensure!(scene.kept(&record)? == dump.core());
    drop(container);
    scene.end()
}
