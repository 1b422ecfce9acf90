//! Whoever works on a key is ended at any of his system calls: whoever asked is told something, the key has its one record,
//! nothing is left, and the next one is answered.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use upcall_e2e::command::until;
use upcall_e2e::key_hook::HostKeyHook;
use upcall_e2e::needs;
use upcall_e2e::runc::Runc;
use upcall_e2e::tracer::{End, Seen, Tracer};
use upcalld::store::record::Record;

use crate::host_key_scene::{HELPER, KeyScene, ask_in};
use crate::ns_killed::{asked, ends};
use crate::scene::script;

#[test]
fn whoever_works_on_a_key_may_be_killed_at_any_call() -> Result<()> {
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(&HELPER.replace("\"1s\"", "\"5s\""))?;
    let container = Runc::new("web")
        .user_namespace()
        .root(script("/helper", "/key-me --answer $1 well"))
        .start(&scene.sandbox)?;
    HostKeyHook::stop_first(&scene.sandbox)?;
    let records_of = |name: &str| -> Vec<Record> {
        let mut all = scene.daemon.records().all();
        all.retain(|record| {
            record
                .key
                .as_ref()
                .is_some_and(|key| key.description == name)
        });
        all
    };
    let traced = |name: &str, end: End| -> Result<(Seen, String)> {
        std::thread::scope(|scope| {
            let asker = scope.spawn(|| ask_in(&container, &["user", name, "x"]));
            let seen = Tracer::of_stopped(HostKeyHook::stopped()?, end)?.wait()?;
            let said = asker.join().map_err(|_| anyhow!("who asks"))??;
            Ok((seen, said))
        })
    };
    let well = |name: &str| -> Result<usize> {
        let (seen, said) = traced(name, End::never())?;
        ensure!(said == "key well", "{name}: {said}: {seen:?}");
        until(Duration::from_secs(10), "its record", || {
            (records_of(name).len() == 1).then_some(())
        })?;
        Ok(seen.calls.len())
    };
    let calls = well("first")?;
    for (place, end) in ends(calls)?.enumerate() {
        let name = format!("killed:{place}");
        let (seen, said) = traced(&name, end).with_context(|| format!("{end:?}"))?;
        // Not always are there as many calls; then the last is nobody's, and all went well.
        let ended = seen.ended.is_some() || said == "key well";
        ensure!(ended, "{end:?}: {said}: {seen:?}");
        // What an unanswered key becomes is the kernel's to say; what had its answer is a key.
        let told = ["no ENOKEY", "no EKEYREJECTED", "no ETIMEDOUT", "key well"];
        ensure!(told.contains(&said.as_str()), "{end:?}: {said}: {seen:?}");
        let wanted = usize::from(asked(&seen, end));
        let came = until(Duration::from_secs(10), "its record", || {
            (records_of(&name).len() >= wanted).then_some(())
        });
        came.with_context(|| format!("{end:?}: {seen:?}: {}", scene.daemon.log()))?;
        well(&format!("after:{place}")).with_context(|| format!("{end:?}"))?;
        let records = records_of(&name);
        ensure!(records.len() == wanted, "{end:?}: {seen:?}: {records:?}");
    }
    drop(container);
    scene.end()
}
