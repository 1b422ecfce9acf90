//! docs/rules.md: its tables are those of the code, and every example in it is right.
//!
//! `UPDATE_DOCS=1 cargo test -p upcall-config` writes the tables anew; the words between them are written by hand.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use upcall_config::diagnostic::Code;
use upcall_config::facts::Reason;
use upcall_config::file::load_texts;
use upcall_config::keys::{CONTAINERS, Keys, RULES, SETTINGS, Value};
use upcall_config::template::Placeholder;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name)
}

/// Fails if a file in docs/ is not this; writes it if that is asked for.
pub(crate) fn current(name: &str, text: &str) {
    let path = path(name);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "docs/{name} is not current: UPDATE_DOCS=1 cargo test -p upcall-config"
    );
}

fn rules_md() -> String {
    fs::read_to_string(path("rules.md")).unwrap()
}

fn type_of(value: Value) -> String {
    match value {
        Value::Table => "table".to_owned(),
        Value::Labels => "table of globs".to_owned(),
        Value::Text => "text".to_owned(),
        Value::Word(words) => words.list().join(", "),
        // There are thirty, and a paragraph names them.
        Value::Words(words) if words.list().len() > 20 => "names".to_owned(),
        Value::Words(words) => format!("words: {}", words.list().join(", ")),
        Value::Globs => "globs".to_owned(),
        Value::Numbers(_) => "numbers".to_owned(),
        Value::Flag => "true, false".to_owned(),
        Value::Flags => "true, false, or both".to_owned(),
        Value::Count(least, most) => format!("{least} to {most}"),
        Value::Size(_) => "size".to_owned(),
        Value::Duration(_, _) => "time".to_owned(),
        Value::Rate => "rate".to_owned(),
        Value::Argv => "argv".to_owned(),
        Value::Path => "path".to_owned(),
        Value::Paths => "paths".to_owned(),
    }
}

fn keys_table(keys: &Keys) -> String {
    let mut out =
        String::from("| key | value | default | example | meaning |\n|---|---|---|---|---|\n");
    let code = |text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            format!("`{text}`")
        }
    };
    for key in keys.known {
        let default = if serde_json::from_str::<serde_json::Value>(key.default).is_ok() {
            code(key.default)
        } else {
            key.default.to_owned()
        };
        let (value, example) = (type_of(key.value), code(key.example));
        writeln!(
            out,
            "| `{}` | {value} | {default} | {example} | {} |",
            key.path, key.meaning
        )
        .unwrap();
    }
    out
}

/// What belongs between `<!-- name -->` and `<!-- end -->`.
fn generated(name: &str) -> Option<String> {
    let mut out = String::new();
    match name {
        "keys" => out = keys_table(&RULES),
        "containers" => out = keys_table(&CONTAINERS),
        "settings" => out = keys_table(&SETTINGS),
        "families" => {
            out.push_str("| alias | who can make the kernel ask | by |\n|---|---|---|\n");
            for family in upcall_config::module::FAMILIES {
                let (glob, asker, by) = (family.glob, family.asker, family.by);
                writeln!(out, "| `{glob}` | `{asker}` | {by} |").unwrap();
            }
        }
        "placeholders" => {
            out.push_str("| placeholder | filled in |\n|---|---|\n");
            for placeholder in Placeholder::ALL {
                writeln!(
                    out,
                    "| `{{{}}}` | {} |",
                    placeholder.as_str(),
                    placeholder.meaning()
                )
                .unwrap();
            }
        }
        "codes" => {
            out.push_str("| code | | meaning |\n|---|---|---|\n");
            for code in Code::ALL {
                writeln!(
                    out,
                    "| `{code}` | {} | {} |",
                    code.severity(),
                    code.meaning()
                )
                .unwrap();
            }
        }
        "reasons" => {
            out.push_str("| reason | meaning |\n|---|---|\n");
            for reason in Reason::ALL {
                writeln!(out, "| `{reason}` | {} |", reason.meaning()).unwrap();
            }
        }
        _ => return None,
    }
    Some(out)
}

#[test]
fn the_tables_in_docs_are_current() {
    let text = rules_md();
    let mut parts = text.split("<!-- ");
    let mut made = parts.next().unwrap().to_owned();
    let mut seen = BTreeSet::new();
    for part in parts {
        let (name, rest) = part.split_once(" -->").unwrap();
        write!(made, "<!-- {name} -->").unwrap();
        match generated(name) {
            Some(table) => {
                seen.insert(name);
                write!(made, "\n{table}").unwrap();
            }
            None => made.push_str(rest),
        }
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
    current("rules.md", &made);
}

#[test]
fn every_key_has_a_paragraph_and_every_paragraph_a_key() {
    let text = rules_md();
    let headed: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("**`")?.split_once("`**"))
        .map(|(path, _)| path)
        .collect();
    // Tables are explained by the heading of their part.
    let paths = |keys: &'static Keys| keys.known.iter().filter(|key| key.value != Value::Table);
    let mut known: BTreeSet<_> = paths(&RULES).map(|key| key.path).collect();
    for table in ["match.container", "match.pod", "pass"] {
        known.insert(table);
    }
    let missing: Vec<_> = known.difference(&headed).collect();
    let unknown: Vec<_> = headed.difference(&known).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing {missing:?}, unknown {unknown:?}"
    );
}

#[test]
fn a_paragraph_has_an_example_of_its_key() {
    let text = rules_md();
    for part in text.split("\n**`").skip(1) {
        let (path, rest) = part.split_once("`**").unwrap();
        let rest = rest.split("\n#").next().unwrap();
        let word = path.rsplit('.').next().unwrap();
        let examples: Vec<_> = rest.split('`').skip(1).step_by(2).collect();
        let shown = examples.iter().any(|e| e.contains(word) && e.contains('='));
        assert!(shown, "{path} has no example");
    }
}

#[test]
fn every_example_is_right() {
    let text = rules_md();
    let mut tried = 0;
    for block in text.split("```toml\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        let settings = block.contains("[limits]");
        let path = Path::new("/docs/rules.md");
        let loaded = if settings {
            load_texts(Some((path, block)), &[])
        } else {
            load_texts(None, &[(path, block)])
        };
        let shown: Vec<_> = loaded.diagnostics.iter().map(|d| d.render(false)).collect();
        assert!(shown.is_empty(), "{block}\n{}", shown.join("\n"));
        tried += 1;
    }
    assert!(tried >= 4);
}

/// The examples inside of paragraphs are parts of a rule.
#[test]
fn every_example_in_a_paragraph_is_right() {
    let text = rules_md();
    let mut tried = 0;
    for part in text.split("\n**`").skip(1) {
        let (path, rest) = part.split_once("`**").unwrap();
        let of_keys = [
            "match.key",
            "answer",
            "run.join",
            "run.files",
            "deny.errno",
            "deny.ttl",
        ];
        let of_keys = of_keys.iter().any(|word| path.starts_with(word));
        let kind = match path {
            _ if of_keys => "key",
            "match.module" | "pass.capabilities" => "module",
            "match.umh" => "umh",
            _ => "core",
        };
        let rest = rest.split("\n#").next().unwrap();
        for example in rest.split('`').skip(1).step_by(2) {
            if !example.contains(" = ") || example.starts_with('[') {
                continue;
            }
            let mut rule = format!("[[rule]]\nupcall = \"{kind}\"\n{example}\n");
            if example.starts_with("upcall") {
                rule = format!("[[rule]]\n{example}\n");
            }
            if !["run", "store", "deliver", "file", "pass", "deny", "answer"]
                .iter()
                .any(|action| example.starts_with(action))
            {
                rule.push_str(if example.starts_with("on_failure") {
                    "run = { in = \"host\", command = [\"/x\"] }\n"
                } else if kind != "core" {
                    "pass = {}\n"
                } else {
                    "store = {}\n"
                });
            }
            let loaded = load_texts(None, &[(Path::new("/docs/rules.md"), &rule)]);
            let shown: Vec<_> = loaded.diagnostics.iter().map(|d| d.render(false)).collect();
            assert!(shown.is_empty(), "{}", shown.join("\n"));
            tried += 1;
        }
    }
    assert!(tried >= 35, "{tried}");
}
