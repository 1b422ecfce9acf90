//! Words and numbers: what of the host's goes into a container, and what a tenant's may cost.

use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use upcall_e2e::command::{command, until};
use upcall_e2e::container::{children, waits};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::report;
use upcall_e2e::registered::OWNER;
use upcall_e2e::runc::Runc;
use upcalld::store::record::Outcome;

use crate::canary::{ANYWHERE, host_only};
use crate::scene::{Scene, run_rule};

#[test]
fn a_helper_is_told_no_number_and_no_path_of_the_hosts() -> Result<()> {
    needs!(Root, Runc);
    let words = "{pid} {tid} {uid} {gid} {signal} {exe} {comm} {time} {container} {record}";
    let words: Vec<String> = words.split(' ').map(|word| format!("\"{word}\"")).collect();
    let scene = Scene::new(&run_rule(&format!("\"/probe\", {}", words.join(", ")), ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    // As another user than root: 301000 to the host.
    let pid = container.victim_by(1000, &["/crash-me", "--wait"])?;
    let (record, _) = scene.dump(&CoreDump::of(pid)?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let mut told = report(&record)?;
    let inside = told.argv.get(1..5).unwrap_or_default();
    assert_eq!(inside[2..], ["1000", "1000"]);
    // The time is the kernel's own word, and may have any digits.
    told.argv.remove(8);
    told.argv.retain(|word| word != container.id());
    let told = [
        told.argv,
        told.env,
        told.descriptors.into_values().collect(),
    ]
    .concat();
    let number = |word: &str| {
        word.split(|letter: char| !letter.is_ascii_digit())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for word in &told {
        for number in number(word) {
            assert!(number != pid.to_string() && number != "301000", "{told:?}");
        }
        assert!(!word.contains(scene.sandbox.root()), "{told:?}");
    }
    scene.end()
}

#[test]
fn a_command_line_as_long_as_can_be_costs_no_more_than_a_moment() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/probe", "{comm}""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    // MAX_ARG_STRLEN (execve(2)) of what is no letter.
    let long = r#"exec -a "$(head -c 131000 /dev/zero | tr '\0' '\177')" /crash-me --wait"#;
    let pid = container.victim_by(0, &["/bin/sh", "-c", long])?;
    assert!(std::fs::read(format!("/proc/{pid}/cmdline"))?.len() > 131_000);
    let start = Instant::now();
    let (record, _) = scene.dump(&CoreDump::of(pid)?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
    let kept: usize = record
        .process
        .cmdline
        .iter()
        .flatten()
        .map(String::len)
        .sum();
    // Escaped, a byte is four letters.
    assert!(kept <= 4 * 4096, "{kept}");
    scene.end()
}

#[test]
fn no_choice_of_namespaces_makes_a_container() -> Result<()> {
    needs!(Root, Unprivileged);
    let scene = Scene::new(ANYWHERE)?;
    let crash_me = scene.sandbox.path("bin/crash-me");
    // Every choice of an unprivileged user's, which has to begin with a user namespace, and every one of root's.
    for (uid, first) in [(OWNER, &["--user", "--map-root-user"][..]), (0, &[])] {
        for choice in 0..16_u32 {
            let flags = ["--mount", "--net", "--ipc", "--pid"];
            let flags = flags
                .iter()
                .enumerate()
                .filter(|(bit, _)| choice >> bit & 1 == 1);
            let flags: Vec<&str> = flags.map(|(_, flag)| *flag).collect();
            let mut unshare = command("unshare");
            unshare
                .args(first)
                .args(&flags)
                .args(["--fork", "--kill-child", "--"]);
            unshare
                .arg(&crash_me)
                .arg("--wait")
                .uid(uid)
                .gid(uid)
                .current_dir("/");
            let mut unshare = unshare.stdin(Stdio::null()).spawn()?;
            let pid = until(Duration::from_secs(5), "a process", || {
                children(unshare.id()).into_iter().find(|pid| waits(*pid))
            })?;
            let dump = CoreDump::of(pid)?.bytes(1000);
            let (record, _) = scene.dump(&dump)?;
            assert!(record.container.is_none(), "{uid} {flags:?}: {record:?}");
            host_only(&scene, &record, &dump, "unregistered")?;
            let users = if uid == 0 { "initial" } else { "other" };
            assert_eq!(record.process.user_namespace.as_deref(), Some(users));
            unshare.kill()?;
            unshare.wait()?;
        }
    }
    scene.end()
}
