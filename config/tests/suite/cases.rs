//! Every mistake as people see it: one file per case in `cases/`, and a snapshot of what is said about it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use upcall_config::diagnostic::{Code, Diagnostic};
use upcall_config::file::{Loaded, load_texts};

/// Codes that need more than a text; `files.rs` and `decide.rs` make them.
const ELSEWHERE: [Code; 4] = [
    Code::UntrustedFile,
    Code::UnreadableFile,
    Code::DynamicHostProgram,
    Code::MissingHostProgram,
];

fn cases() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    cases.sort();
    cases
}

fn check(name: &str, text: &str) -> Loaded {
    if name.starts_with("settings") {
        load_texts(Some((Path::new("/etc/upcalld/upcalld.toml"), text)), &[])
    } else {
        let path = PathBuf::from(format!("/etc/upcalld/rules.d/{name}.toml"));
        load_texts(None, &[(&path, text)])
    }
}

#[test]
fn what_people_see() {
    let cases = cases();
    assert!(cases.len() > 25);
    for (name, text) in cases {
        let loaded = check(&name, &text);
        let shown: Vec<_> = loaded.diagnostics.iter().map(|d| d.render(false)).collect();
        insta::assert_snapshot!(name.as_str(), shown.join("\n"));
        assert_eq!(loaded.policy.is_some(), loaded.errors() == 0, "{name}");
    }
}

#[test]
fn a_case_is_named_by_the_code_it_shows_and_every_code_has_one() {
    let mut seen: BTreeSet<Code> = ELSEWHERE.into();
    for (name, text) in cases() {
        let codes: BTreeSet<_> = check(&name, &text)
            .diagnostics
            .iter()
            .map(Diagnostic::code)
            .collect();
        let named = Code::ALL.iter().find(|code| code.as_str() == name);
        assert!(
            named.is_none_or(|code| codes.contains(code)),
            "{name} shows {codes:?}"
        );
        seen.extend(codes);
    }
    let missing: Vec<_> = Code::ALL
        .iter()
        .filter(|code| !seen.contains(code))
        .collect();
    assert!(missing.is_empty(), "no case shows {missing:?}");
}

/// Nothing in it makes a terminal do anything but print.
pub(crate) fn assert_fit_for_a_terminal(diagnostic: &Diagnostic) {
    let plain = diagnostic.plain();
    let mut texts = vec![plain.message, plain.file];
    texts.extend(plain.label.into_iter().chain(plain.note).chain(plain.help));
    texts.extend(
        plain
            .also
            .into_iter()
            .flat_map(|also| [also.file, also.text]),
    );
    texts.push(diagnostic.render(false).replace('\n', ""));
    for text in texts {
        let acts = |c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{200b}' | '\u{feff}');
        assert_eq!(text.chars().find(|c| acts(*c)), None, "{text:?}");
    }
}

#[test]
fn nothing_that_a_terminal_acts_on_comes_out() {
    for (name, text) in cases() {
        for diagnostic in check(&name, &text).diagnostics {
            assert_fit_for_a_terminal(&diagnostic);
        }
    }
}

#[test]
fn colour_changes_nothing_but_colour() {
    let (name, text) = cases()
        .into_iter()
        .find(|(name, _)| name == "as-in-the-manual")
        .unwrap();
    for diagnostic in check(&name, &text).diagnostics {
        let coloured = diagnostic.render(true);
        assert!(coloured.contains('\u{1b}'));
        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            stripped.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        stripped.push_str(rest);
        assert_eq!(stripped, diagnostic.render(false));
    }
}

#[test]
fn places_and_plain_data_agree_with_the_drawing() {
    for (name, text) in cases() {
        for diagnostic in check(&name, &text).diagnostics {
            let plain = diagnostic.plain();
            assert_eq!(plain.code, diagnostic.code().as_str());
            assert_eq!(
                (plain.line, plain.column),
                (diagnostic.line(), diagnostic.column())
            );
            let place = format!(
                "{}:{}:{}",
                plain.file,
                plain.line.unwrap(),
                plain.column.unwrap()
            );
            if name.starts_with("terminal") {
                continue;
            }
            let drawn = diagnostic.render(false);
            assert!(drawn.contains(&place), "{place} is not in\n{drawn}");
        }
    }
}
