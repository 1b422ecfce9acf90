//! Several takers of what really crashes: by the kernel's pipe, and again by its socket (`host_socket`).

use anyhow::{Context, Result, ensure};
use upcall_e2e::records::action;
use upcalld::store::record::Outcome;

use super::{MODE, needs};
use crate::host_scene::HostScene;
use crate::ns_deliver::{SOCKET, container, receiver};
use crate::ns_takers::{ALL, has, rule};

#[test]
fn all_but_the_one_that_fails_have_all_of_it() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let deliver = ALL.map(|(word, value)| if word == "deliver" { value } else { "" });
    let deliver = deliver.concat().replace("10s", "1s");
    for (failing, instead, how) in [
        ("", "", "take"),
        (
            "run",
            r#"{ in = "container", command = ["/nothing"] }"#,
            "take",
        ),
        ("deliver", deliver.as_str(), "never"),
        (
            "file",
            r#"{ path = "/nowhere/core", ignore_limit = true }"#,
            "take",
        ),
        (
            "store",
            r#"{ ignore_limit = true, max_size = "1MiB" }"#,
            "take",
        ),
    ] {
        let scene = HostScene::by(MODE, &rule(Some((failing, instead))))?;
        let container = container(&scene.sandbox)?;
        receiver(&container, 0, SOCKET, how)?;
        let victim = container.victim(&["--mib=20"])?;
        container.crash(victim)?;
        let record = scene.record(victim)?;
        let mut whole: Option<Vec<u8>> = None;
        for (word, _) in ALL {
            let done = action(&record, word)?.outcome == Outcome::Done;
            ensure!(done != (word == failing), "{word}: {record:?}");
            if word == failing {
                continue;
            }
            let copy = match word {
                "store" => scene.core(&record)?,
                word => has(&container, word).with_context(|| format!("{word}: {record:?}"))?,
            };
            ensure!(copy.len() > 20 << 20 && copy.starts_with(b"\x7fELF"));
            ensure!(whole.get_or_insert_with(|| copy.clone()) == &copy, "{word}");
        }
        drop(container);
        scene.end()?;
    }
    Ok(())
}
