//! The files we ship: right, and what they say about defaults is true.

use std::fs;
use std::path::{Path, PathBuf};

use upcall_config::facts::Confinement;
use upcall_config::file::{Loaded, load_texts};
use upcall_config::keys::{SETTINGS, Value};
use upcall_config::plan::Store;
use upcall_config::settings::Settings;

use crate::given::{in_container, on_host, plan, rootless, with_container};

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("defaults")
        .join(name);
    fs::read_to_string(path).unwrap()
}

fn below(name: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("defaults")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files
}

fn right(loaded: &Loaded, what: &str) {
    let shown: Vec<_> = loaded.diagnostics.iter().map(|d| d.render(false)).collect();
    assert!(shown.is_empty(), "{what}: {}", shown.join("\n"));
    assert!(loaded.policy.is_some(), "{what}");
}

#[test]
fn every_shipped_file_is_without_a_mistake_alone_and_before_the_defaults() {
    let settings = shipped("upcalld.toml");
    let settings = Some((
        Path::new("/usr/lib/upcalld/upcalld.toml"),
        settings.as_str(),
    ));
    let default = shipped("rules.d/90-default.toml");
    let default = (
        Path::new("/usr/lib/upcalld/rules.d/90-default.toml"),
        default.as_str(),
    );
    right(&load_texts(settings, &[default]), "defaults");
    let examples = below("examples");
    assert_eq!(examples.len(), 5);
    for path in examples {
        let text = fs::read_to_string(&path).unwrap();
        let alone = load_texts(None, &[(&path, &text)]);
        assert!(
            alone.policy.as_ref().unwrap().rules().len() >= 3,
            "{path:?}"
        );
        right(&alone, &path.display().to_string());
        right(
            &load_texts(settings, &[(&path, &text), default]),
            &path.display().to_string(),
        );
    }
    assert_eq!(below("rules.d").len(), 1);
}

#[test]
fn every_setting_is_shown_with_its_default() {
    let shown = shipped("upcalld.toml");
    let mut written = String::new();
    for line in shown.lines() {
        // A setting is commented out by a `#` alone, prose by one and a space.
        if !line.starts_with("# ") {
            written.push_str(line.strip_prefix('#').unwrap_or(line));
            written.push('\n');
        }
    }
    for key in SETTINGS
        .known
        .iter()
        .filter(|key| key.value != Value::Table)
    {
        let (table, word) = key.path.split_once('.').unwrap();
        let section = written
            .split("\n[")
            .find(|s| s.trim_start_matches('[').starts_with(table));
        if key.default == "not written" {
            let example = format!("\n# {word} = {}\n", key.example);
            assert!(shown.contains(&example), "{} has no example", key.path);
            continue;
        }
        let line = format!("{word} = {}\n", key.default);
        assert!(
            section.unwrap().contains(&line),
            "{} = {}",
            key.path,
            key.default
        );
        assert!(
            shown.contains(&format!("\n#{line}")),
            "{} is not commented out",
            key.path
        );
    }
    let loaded = load_texts(Some(("/upcalld.toml".as_ref(), &written)), &[]);
    right(&loaded, "all defaults written out");
    assert_eq!(loaded.settings, Settings::default());
}

#[test]
fn the_default_rules_keep_what_crashes_in_containers_and_pass_the_rest() {
    let rules = shipped("rules.d/90-default.toml");
    let privileged = with_container(|c| c.confinement = Confinement::Privileged);
    for facts in [in_container(), privileged] {
        let plan = plan(&rules, &facts);
        assert_eq!(plan.store().map(Store::ignore_limit), Some(true));
        assert!(!plan.pass() && plan.run().is_none());
        assert!(
            plan.limit()
                .is_some_and(|l| l.rate.is_some() && l.concurrent.is_some())
        );
    }
    for facts in [on_host(), rootless()] {
        assert!(plan(&rules, &facts).pass());
    }
}
