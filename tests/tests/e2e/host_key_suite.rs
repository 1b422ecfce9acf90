//! keyutils' own tests, unmodified: with our program in the kernel's place they end as with the distribution's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::command;
use upcall_e2e::needs;
use upcall_e2e::programs::target;

use crate::host_key_scene::KeyScene;

/// Runs them all but the one about limits, which takes longer than all others and asks nobody. What they change of the
/// kernel's settings is put back.
const RUN: &str = r#"
put_back() {
    echo "$gc_delay" > /proc/sys/kernel/keys/gc_delay
    echo "$root_maxbytes" > /proc/sys/kernel/keys/root_maxbytes
}
read -r gc_delay < /proc/sys/kernel/keys/gc_delay
read -r root_maxbytes < /proc/sys/kernel/keys/root_maxbytes
trap put_back EXIT
find . -name test.out -delete
AUTOMATED=1 bash runtest.sh $(find . -name runtest.sh -printf '%h\n' | grep -vx . | grep -v features/limits | sort)
:
"#;

/// How each of them ended, by its directory.
fn results(tests: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let status = command("bash")
        .args(["-c", RUN])
        .current_dir(tests)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "{status}");
    let mut found = BTreeMap::new();
    let mut left = vec![tests.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else if entry.file_name() == "test.out" {
                let said = std::fs::read(entry.path())?;
                let said = String::from_utf8_lossy(&said).into_owned();
                let ended = said
                    .lines()
                    .rev()
                    .find_map(|line| line.strip_prefix("++++ FINISHED TEST: "));
                found.insert(directory.clone(), ended.unwrap_or("left out").to_owned());
            }
        }
    }
    Ok(found)
}

fn counts(results: &BTreeMap<PathBuf, String>) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for ended in results.values() {
        *counts.entry(ended.as_str()).or_default() += 1;
    }
    counts
}

#[test]
fn keyutils_own_tests_end_as_they_do_without_us() -> Result<()> {
    needs!(HostHooks, Root, KeyutilsSource);
    let tests = target().join("keyutils/tests");
    let alone = results(&tests)?;
    let scene = KeyScene::new("")?;
    let ours = results(&tests)?;
    eprintln!("alone {:?}, through us {:?}", counts(&alone), counts(&ours));
    assert_eq!(ours, alone);
    let passed = counts(&ours).get("PASS").copied().context("passed")?;
    assert!(passed > 60, "{:?}", counts(&ours));
    // Some of them ask for keys.
    let asked = scene.daemon.records().all().len();
    assert!(asked >= 6, "{asked}");
    scene.end()
}
