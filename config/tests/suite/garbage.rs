//! Files that are not what they should be: said so, in words that can be shown, and never a panic.

use std::path::Path;

use proptest::prelude::*;
use upcall_config::diagnostic::Code;
use upcall_config::file::load_texts;

use crate::cases::assert_fit_for_a_terminal;
use crate::given::keeps;

/// Pieces that rule files are made of, and some that they are not.
const PIECES: [&str; 40] = [
    "[[rule]]\n",
    "[rule]\n",
    "[rule.match.pod]\n",
    "[[container]]\n",
    "\n",
    "\r\n",
    "\t",
    " ",
    "# é\u{202e}\n",
    "upcall = \"core\"\n",
    "upcall = ",
    "match",
    ".",
    "container",
    "label",
    "signal",
    " = ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'",
    "\"\"\"",
    "\"SEGV\"",
    "\"{pid\"",
    "\"\\u001b\"",
    "\u{1b}",
    "\u{feff}",
    "é",
    "\\",
    "0x7f",
    "-1",
    "99999999999999999999",
    "1.5",
    "true",
    "run = { in = \"host\", command = [\"/x\"] }\n",
    "store = {}\n",
    "2026-01-01",
];

fn file() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&PIECES[..]), 0..25)
        .prop_map(|pieces| pieces.concat())
}

/// A case in which one piece was cut out and another put in.
fn damaged() -> impl Strategy<Value = String> {
    let whole = include_str!("../cases/right.toml");
    let piece = prop::sample::select(&PIECES[..]);
    (0..whole.len(), 0..40usize, piece).prop_filter_map(
        "within a letter",
        move |(at, cut, piece)| {
            let rest = whole.get((at + cut).min(whole.len())..)?;
            Some([whole.get(..at)?, piece, rest].concat())
        },
    )
}

fn look_at(text: &str) -> Result<(), TestCaseError> {
    let path = Path::new("/etc/upcalld/\u{1b}[2J.toml");
    let as_settings = load_texts(Some((path, text)), &[]);
    let as_rules = load_texts(None, &[(path, text), (path, text)]);
    for loaded in [as_settings, as_rules] {
        prop_assert_eq!(loaded.policy.is_some(), loaded.errors() == 0);
        for diagnostic in &loaded.diagnostics {
            assert_fit_for_a_terminal(diagnostic);
            prop_assert!(!diagnostic.render(true).is_empty());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pieces(text in file()) {
        look_at(&text)?;
    }

    #[test]
    fn any_text(text in any::<String>()) {
        look_at(&text)?;
    }

    #[test]
    fn any_damage(text in damaged()) {
        look_at(&text)?;
    }
}

#[test]
fn depth_is_bounded() {
    let deep = format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let loaded = load_texts(None, &[(Path::new("/deep.toml"), &deep)]);
    assert!(loaded.diagnostics.iter().any(|d| d.code() == Code::Syntax));
    let dotted = format!("match.{}x = 1", "a.".repeat(100_000));
    assert!(load_texts(None, &[(Path::new("/deep.toml"), &keeps(&dotted))]).errors() > 0);
}

#[test]
fn lists_and_texts_are_bounded() {
    let codes = |condition: &str| -> Vec<Code> {
        let loaded = load_texts(None, &[(Path::new("/x.toml"), &keeps(condition))]);
        loaded
            .diagnostics
            .iter()
            .map(upcall_config::diagnostic::Diagnostic::code)
            .collect()
    };
    let list = |length: usize| format!("match.process.uid = [{}]", "1,".repeat(length));
    assert_eq!(codes(&list(256)), []);
    assert_eq!(codes(&list(257)), [Code::BadRange]);
    let text = |length: usize| format!("match.process.exe = \"{}\"", "x".repeat(length));
    assert_eq!(codes(&text(1024)), []);
    assert_eq!(codes(&text(1025)), [Code::BadRange]);
    let argv = |words: usize, length: usize| {
        let word = "x".repeat(length);
        let rest = format!("\"{word}\",").repeat(words - 1);
        format!("run = {{ in = \"host\", command = [\"/x\", {rest}] }}")
    };
    assert_eq!(codes(&argv(64, 4096)), []);
    assert_eq!(codes(&argv(65, 1)), [Code::BadRange]);
    assert_eq!(codes(&argv(2, 4097)), [Code::BadRange]);
    let labels = |count: usize| {
        let labels: Vec<_> = (0..count).map(|n| format!("l{n} = \"\"")).collect();
        format!("match.pod.label = {{ {} }}", labels.join(", "))
    };
    assert_eq!(codes(&labels(64)), []);
    assert_eq!(codes(&labels(65)), [Code::BadRange]);
}
