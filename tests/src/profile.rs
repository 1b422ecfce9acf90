//! A helper's report with everything that differs from run to run put in relation to its container's init: so it can
//! be compared with a golden file, field by field, and nothing is left out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::leader::Leader;
use crate::report::Report;

/// Set to anything: golden files are written instead of compared.
const UPDATE: &str = "UPCALLD_UPDATE_GOLDEN";

/// Names of the limits, in the kernel's order.
const LIMITS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// What a report is put in relation to.
#[derive(Debug)]
pub struct Relation<'a> {
    /// The container's init.
    pub leader: &'a Leader,
    /// The host.
    pub host: &'a Leader,
    /// The record's id.
    pub record: &'a str,
    /// The sandbox's own directory.
    pub sandbox: &'a str,
    /// [`crate::report::Hash`] of the core.
    pub core: &'a str,
}

/// The report in relation.
///
/// # Errors
/// It is not as reports are.
pub fn profile(report: &Report, to: &Relation<'_>) -> Result<Value> {
    let mut profile = serde_json::to_value(report)?;
    let fields = profile.as_object_mut().context("a report")?;
    let mut set = |name: &str, value: Value| -> Result<()> {
        ensure!(
            fields.insert(name.to_owned(), value).is_some(),
            "no field {name}"
        );
        Ok(())
    };
    let plain = |text: &str| {
        text.replace(to.record, "RECORD")
            .replace(to.sandbox, "SANDBOX")
    };
    let init = to.leader.pid.to_string();
    let word = |word: &String| {
        if *word == init {
            "INIT".to_owned()
        } else {
            plain(word)
        }
    };
    let words = |words: &[String]| -> Value { words.iter().map(word).collect() };
    set("argv", words(&report.argv))?;
    set("env", words(&report.env))?;
    let seen = report
        .seen
        .iter()
        .map(|(path, there)| (plain(path), json!(there)));
    set("seen", Value::Object(seen.collect()))?;
    if report.stdin_hash == to.core {
        set("stdin_hash", json!("the core's"))?;
    }
    set("capabilities", capabilities(report, to.leader)?)?;
    set("namespaces", namespaces(report, to))?;
    if report.root == to.leader.root {
        set("root", json!("the init's"))?;
    }
    set("cgroup", cgroup(report, to))?;
    if report.oom_score_adj == Some(to.leader.oom_score_adj.max(0)) {
        set("oom_score_adj", json!("the init's"))?;
    }
    set("limits", limits(report, to.leader))?;
    let related = |pid: i32| match pid {
        0 => json!("outside"),
        own if own == report.pid => json!("itself"),
        _ => json!("another's"),
    };
    set("parent", related(report.parent))?;
    set("group", related(report.group))?;
    set("session", related(report.session))?;
    set("pid", json!(if report.pid > 1 { "above 1" } else { "1" }))?;
    Ok(profile)
}

fn capabilities(report: &Report, leader: &Leader) -> Result<Value> {
    let of_init = leader.capabilities("CapBnd") & leader.capabilities("CapPrm");
    let mut sets = serde_json::to_value(&report.capabilities)?;
    for set in sets.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let mask = set
            .as_str()
            .and_then(|text| u64::from_str_radix(text, 16).ok());
        if mask == Some(of_init) && of_init != 0 {
            *set = json!("the init's");
        }
    }
    Ok(sets)
}

fn namespaces(report: &Report, to: &Relation<'_>) -> Value {
    let related = |(kind, inode): (&String, &u64)| {
        let is = |process: &Leader| process.namespaces.get(kind) == Some(inode);
        let words = match (is(to.leader), is(to.host)) {
            (true, true) => json!("the init's, the host's"),
            (true, false) => json!("the init's"),
            (false, _) => json!(inode),
        };
        (kind.clone(), words)
    };
    Value::Object(report.namespaces.iter().map(related).collect())
}

/// One line for cgroup2 and one for all v1 hierarchies: hosts differ in which there are, and many have none.
fn cgroup(report: &Report, to: &Relation<'_>) -> Value {
    let mut words = Map::new();
    if report.cgroup.len() == 1 {
        words.insert("v1".to_owned(), json!("the init's"));
    }
    for line in &report.cgroup {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or("?"), parts.next().unwrap_or("?"));
        let of_init = to.leader.cgroup_path(controllers).unwrap_or("?");
        let child = format!("upcall-{}", to.record);
        let own = format!("{}/{child}", of_init.trim_end_matches('/'));
        // With a cgroup namespace of its own it sees its paths from there.
        let seen_from_inside = path == format!("/{child}");
        let (key, value) = match controllers {
            "" if path == own || seen_from_inside => ("cgroup2", "a child of the init's"),
            "" => ("cgroup2", path),
            _ if path == of_init => ("v1", "the init's"),
            _ => (line.as_str(), path),
        };
        words.insert(key.to_owned(), json!(value));
    }
    Value::Object(words)
}

fn limits(report: &Report, leader: &Leader) -> Value {
    let pairs = LIMITS.iter().zip(report.limits.iter().zip(&leader.limits));
    let related = |(name, (own, init)): (&&str, (&[String; 2], &[String; 2]))| {
        let value = if own == init {
            json!("the init's")
        } else {
            json!(own)
        };
        ((*name).to_owned(), value)
    };
    Value::Object(pairs.map(related).collect())
}

/// Compares with `golden/NAME.json`, or writes it where that is wanted.
///
/// # Errors
/// They differ; the error shows both in the lines that do.
pub fn golden(name: &str, found: &Value) -> Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{name}.json"));
    let found = serde_json::to_string_pretty(found)? + "\n";
    if std::env::var_os(UPDATE).is_some() {
        return Ok(std::fs::write(&path, found)?);
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let mut differences = Vec::new();
    // Some kernels have no time namespaces: then a helper can be in none.
    let timeless = !Path::new("/proc/self/ns/time").exists();
    let there = |line: &&str| !(timeless && line.trim_start().starts_with("\"time\": "));
    let (mut golden, mut ours) = (expected.lines().filter(there), found.lines());
    loop {
        match (golden.next(), ours.next()) {
            (None, None) => break,
            (expected, found) if expected == found => {}
            (expected, found) => {
                differences.extend(expected.map(|line| format!("- {line}")));
                differences.extend(found.map(|line| format!("+ {line}")));
            }
        }
    }
    ensure!(
        differences.is_empty(),
        "{}: not as it was ({UPDATE}=1 writes it anew):\n{}",
        path.display(),
        differences.join("\n")
    );
    Ok(())
}
