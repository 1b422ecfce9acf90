//! `upcallctl install module` on a real kernel.modprobe; and back.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use upcall_e2e::command::{command, run};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::module_hook::{HostModuleHook, SETTING};
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

use crate::host_module_scene::answer;
use crate::host_unit::line;

const RULES: &str = r#"
[[rule]]
upcall = "module"
match.module = "net-pf-9"
deny = { reason = "nobody has this" }
"#;

fn standing() -> Result<String> {
    Ok(std::fs::read_to_string(SETTING)?.trim().to_owned())
}

fn ctl(sandbox: &Sandbox, words: &[&str]) -> Result<(bool, String)> {
    let output = sandbox.ctl().args(words).stdin(Stdio::null()).output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output.status.success(), said))
}

fn ask(sandbox: &Sandbox, family: &str) -> Result<String> {
    let mut asker = command(sandbox.path("bin/module-me"));
    let output = asker.args(["socket", family]).output()?;
    Ok(answer(&String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn host_module_install_tries_it_and_what_stood_there_comes_back() -> Result<()> {
    needs!(HostHooks, Root, KernelModprobe);
    let sandbox = Sandbox::new()?;
    sandbox.rules(RULES)?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let borrowed = HostModuleHook::borrow_setting()?;
    let before = standing()?;
    let file = sandbox.hooks().join("module");

    let (good, said) = ctl(&sandbox, &["install", "module", "--dry-run"])?;
    assert!(good && said.contains(&format!("{before} -> ")), "{said}");
    let (good, said) = ctl(&sandbox, &["install", "module", "--again"])?;
    assert!(good && said.contains("nothing is done"), "{said}");
    assert!(!file.exists());

    // Nobody hears of it: what was put in goes out again.
    let socket = sandbox.sockets().join("upcall.sock");
    let aside = sandbox.sockets().join("aside.sock");
    std::fs::rename(&socket, &aside)?;
    let (good, said) = ctl(&sandbox, &["install", "module"])?;
    assert!(!good && said.contains("did not hear of it"), "{said}");
    assert_eq!(standing()?, before);
    assert!(!file.exists(), "{said}");
    std::fs::rename(&aside, &socket)?;

    // An emulated machine takes its time; what an admin has set stays.
    std::fs::write(&file, format!("program = {before}\ndeadline_ms = 10000\n"))?;
    for _ in 0..2 {
        let (good, said) = ctl(&sandbox, &["install", "module"])?;
        assert!(good && said.contains("asked for a module"), "{said}");
    }
    let ours = standing()?;
    assert_eq!(
        ours,
        sandbox
            .hooks()
            .join("modprobe")
            .to_str()
            .context("a path")?
    );
    let tested = |record: &Record| record.verdict.actions == ["self_test"];
    let within = Duration::from_secs(10);
    let record = daemon.records().wait_for(within, "a self-test", tested)?;
    assert_eq!(record.kind, "module", "{record:?}");
    assert_eq!(
        record.evidence.process.as_deref(),
        Some("kprobe"),
        "{record:?}"
    );

    // The kernel asks us, by a path that has room for no option.
    assert_eq!(ask(&sandbox, "9")?, "no EAFNOSUPPORT");
    let refused = |record: &Record| record.outcome == Outcome::Refused;
    let record = daemon.records().wait_for(within, "a refusal", refused)?;
    assert_eq!(record.message.as_deref(), Some("nobody has this"));
    let (_, said) = ctl(&sandbox, &["status"])?;
    assert!(
        said.contains("ours: kernel.modprobe") && said.contains("by kprobe"),
        "{said}"
    );
    let (_, said) = ctl(&sandbox, &["doctor", "--json"])?;
    assert!(said.contains("kernel.modprobe is ours"), "{said}");

    // Somebody else's is noticed, and left alone.
    std::fs::write(SETTING, &before)?;
    let (good, said) = ctl(&sandbox, &["status"])?;
    assert!(!good && said.contains("module  foreign since"), "{said}");
    daemon.logs("module is foreign: ")?;
    let (_, said) = ctl(&sandbox, &["doctor"])?;
    assert!(said.contains("not ours any more"), "{said}");

    // A boot: the unit's own lines.
    run(&mut line(&sandbox, "ExecStop", "module")?)?;
    assert!(!file.exists());
    let said = run(&mut line(&sandbox, "ExecStart", "module")?)?;
    assert!(said.contains("module: ours"), "{said}");
    assert_eq!(standing()?, ours);

    let (good, said) = ctl(&sandbox, &["uninstall", "module"])?;
    assert!(good && said.contains("back to "), "{said}");
    assert_eq!(standing()?, before);
    assert!(!file.exists());
    borrowed.put_back()?;
    daemon.stop(&sandbox)
}
