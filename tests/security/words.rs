//! Words and numbers: what of the host's goes into a container, and what a tenant's may cost.

use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use upcall_e2e::cgroup::{self, Child};
use upcall_e2e::command::{at_most, command, until};
use upcall_e2e::container::{children, waits};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::{action, report};
use upcall_e2e::registered::OWNER;
use upcall_e2e::runc::Runc;
use upcall_e2e::terminal;
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
    assert!(start.elapsed() < at_most(Duration::from_secs(2)));
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

#[test]
fn what_a_tenant_may_call_himself_moves_no_word_and_no_cursor() -> Result<()> {
    needs!(Root, Runc);
    let rule = run_rule(
        r#""/probe", "{pid}", "{comm}", "{exe}", "{container}", "{signal}""#,
        "",
    );
    let scene = Scene::new(&rule)?;
    let name = "\n--pidfd=9 )";
    let container = Runc::new("web")
        .user_namespace()
        .root(move |root| {
            Ok(std::fs::hard_link(
                root.inside("/crash-me"),
                root.inside("/tmp").join(name),
            )?)
        })
        .start(&scene.sandbox)?;
    let path = format!("/tmp/{name}");
    let pid = container.victim_by(0, &[&path, "--wait"])?;
    let long = "!".repeat(4000);
    let dump = CoreDump::of(pid)?
        .word("%h", "\x1b]0;host\x07")
        .word("%e", name)
        .word("%f", name)
        .word("%E", &long);
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(record.process.comm.as_deref(), Some(r"\x0a--pidfd=9 )"));
    assert_eq!(record.process.exe.as_deref(), Some(r"/tmp/\x0a--pidfd=9 )"));
    let argv = report(&record)?.argv;
    assert_eq!(
        argv[2..],
        [
            name.to_owned(),
            path,
            container.id().to_owned(),
            "SEGV".to_owned()
        ]
    );
    // The log has one line of it, and nothing that a terminal would act on.
    assert!(!scene.daemon.log().contains('\x1b') && !scene.daemon.log().contains("\n--pidfd"));
    scene.end()
}

/// What everybody may put into the name of a program, of a cgroup, and of a word: an escape sequence that rewrites the
/// screen and a terminal's title, a line of its own, a byte that is no text, a direction of writing.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;own\u{7}\n# {\u{202e}\u{9b}31m";

/// Whether a terminal would do anything at this but show it and go to the next line.
fn acts_on(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let bad = |letter: char| {
        letter.is_control() && !"\n\t".contains(letter) || "\u{202e}\u{fffd}".contains(letter)
    };
    text.lines()
        .find(|line| line.contains(bad))
        .map(str::to_owned)
}

/// Without the codes that set a colour or a weight (`ESC [ numbers m`), which are ours, and how many those were: what a
/// tenant says here has others.
fn without_colours(shown: &[u8]) -> (Vec<u8>, usize) {
    let text = String::from_utf8_lossy(shown);
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    let mut colours = 0;
    for part in parts {
        let code = part.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ';');
        if let Some(rest) = code.strip_prefix('m') {
            colours += 1;
            plain.push_str(rest);
        } else {
            plain.push_str("\u{1b}[");
            plain.push_str(part);
        }
    }
    (plain.into_bytes(), colours)
}

#[test]
fn nothing_that_a_tenant_says_reaches_the_admins_terminal_as_it_is() -> Result<()> {
    needs!(Root, Runc);
    let rule = run_rule(
        r#""/bin/sh", "-c", "cat /tmp/says; exit 3""#,
        "store = { ignore_limit = true }",
    );
    let scene = Scene::new(&rule)?;
    let container = Runc::new("web")
        .user_namespace()
        .annotation("org.example", HOSTILE)
        .root(move |root| {
            root.file("/tmp/says", HOSTILE, 0o644)?;
            let path = root.inside("/tmp").join(HOSTILE);
            Ok(std::fs::hard_link(root.inside("/crash-me"), path)?)
        })
        .start(&scene.sandbox)?;
    let pid = container.victim_by(0, &[&format!("/tmp/{HOSTILE}"), "--wait"])?;
    let own = cgroup::of(&container.leader()?)?;
    let named = Child::of(&own, &HOSTILE.replace('\n', ""))?;
    named.take(pid)?;
    let dump = CoreDump::of(pid)?
        .word("%h", HOSTILE)
        .word("%e", HOSTILE)
        .word("%f", HOSTILE);
    let (record, _) = scene.dump(&dump)?;
    assert!(
        record
            .process
            .cgroup
            .as_ref()
            .is_some_and(|path| path.contains("x1b")),
        "{record:?}"
    );
    assert!(record.container.is_some(), "{record:?}");
    assert!(action(&record, "run")?.output.is_some(), "{record:?}");
    let (id, pid) = (record.id.as_str(), pid.to_string());
    let mut coloured = 0;
    for words in [
        &["list"][..],
        &["list", "--json"],
        &["show", id],
        &["show", id, "--json"],
        &["explain", id],
        &["explain", "--pid", &pid, "core"],
        &["cores"],
        &["cores", "--json"],
        &["cores", "info", id],
        &["metrics"],
        &["status"],
        &["modules"],
    ] {
        let said = scene.sandbox.ctl().args(words).output()?;
        assert!(
            !said.stdout.is_empty() || !said.stderr.is_empty(),
            "{words:?}"
        );
        for said in [&said.stdout, &said.stderr] {
            assert_eq!(acts_on(said), None, "{words:?}");
        }
        let shown = terminal::shown(scene.sandbox.ctl().args(words))?;
        let (plain, colours) = without_colours(&shown);
        coloured += colours;
        assert_eq!(acts_on(&plain), None, "{words:?} on a terminal");
    }
    assert!(coloured > 0, "no terminal was seen");
    assert_eq!(acts_on(scene.daemon.log().as_bytes()), None);
    drop(named);
    drop(container);
    scene.end()
}
