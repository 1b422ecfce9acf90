//! On a terminal: a real one, of a width of our choice.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use nix::pty::{Winsize, openpty};

use crate::bench::Bench;
use crate::given;

/// What the command writes to a terminal of this width.
fn on_a_terminal(
    bench: &Bench,
    columns: u16,
    words: &[&str],
    variables: &[(&str, &str)],
) -> String {
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(Some(&size), None).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_upcallctl"));
    let mut command = bench.command(program, words);
    command
        .envs(variables.iter().copied())
        .stdout(Stdio::from(terminal.slave))
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // The command holds the other side, and with its end there is no more to read: EIO says so.
    drop(command);
    let mut bytes = Vec::new();
    let mut master = std::fs::File::from(terminal.master);
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = master.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..count]);
    }
    child.wait().unwrap();
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

/// Without colours.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain += before;
        rest = after.split_once('m').unwrap().1;
    }
    plain + rest
}

#[test]
fn a_table_fits_its_terminal() {
    let bench = Bench::with(&given::all());
    for columns in [64, 80, 100, 120] {
        let text = plain(&on_a_terminal(&bench, columns, &["list"], &[]));
        assert_eq!(text.lines().count(), 8, "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= usize::from(columns), "{line}");
        }
    }
    let narrow = plain(&on_a_terminal(&bench, 80, &["list"], &[]));
    assert!(narrow.contains('…') && !narrow.contains("HELD"), "{narrow}");
    let whole = plain(&on_a_terminal(&bench, 80, &["list", "--no-trunc"], &[]));
    assert!(!whole.contains('…') && whole.contains("HELD"), "{whole}");
    let ascii = on_a_terminal(&bench, 80, &["list"], &[("LC_ALL", "C")]);
    assert!(ascii.is_ascii() && ascii.contains(".."), "{ascii}");
    let wider = plain(&on_a_terminal(&bench, 80, &["list"], &[("COLUMNS", "300")]));
    assert!(wider.contains("HELD"), "{wider}");
}

#[test]
fn colours_are_for_terminals_and_for_who_wants_them() {
    let bench = Bench::with(&given::all());
    let coloured = |words: &[&str], variables: &[(&str, &str)]| {
        on_a_terminal(&bench, 200, words, variables).contains('\u{1b}')
    };
    assert!(coloured(&["list"], &[]));
    assert!(!coloured(&["list"], &[("NO_COLOR", "1")]));
    assert!(!coloured(&["list"], &[("TERM", "dumb")]));
    assert!(!coloured(&["list", "--color", "never"], &[]));
    assert!(coloured(&["list", "--color=always"], &[("NO_COLOR", "1")]));
    assert!(
        bench
            .run(&["list", "--color=always"])
            .out
            .contains('\u{1b}')
    );
    assert!(!bench.run(&["list"]).out.contains('\u{1b}'));
}

#[test]
fn a_large_core_has_a_bar_that_is_wiped() {
    let mut record = given::shop();
    let all = 200 << 20;
    for action in &mut record.actions {
        if action.action == "store" {
            action.size_bytes = Some(all);
        }
    }
    let bench = Bench::with(&[record]);
    std::fs::create_dir(bench.path("s/cores")).unwrap();
    let core = std::fs::File::create(bench.path("s/cores/k3m9q0tz.core")).unwrap();
    core.set_len(all).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(Some(&size), None).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_upcallctl"));
    let out = bench.path("out").display().to_string();
    let mut command = bench.command(program, &["cores", "dump", "k3m", "-o", &out]);
    command.stderr(Stdio::from(terminal.slave));
    let status = command.status().unwrap();
    drop(command);
    let mut text = Vec::new();
    // The other side is closed: EIO behind the last byte.
    drop(std::fs::File::from(terminal.master).read_to_end(&mut text));
    let text = String::from_utf8(text).unwrap();
    assert!(status.success(), "{text}");
    assert!(
        text.contains("unpacking   ") && text.contains(" of 200 MiB"),
        "{text:?}"
    );
    assert!(text.ends_with("\r\u{1b}[K"), "{text:?}");
}

#[test]
fn a_core_is_not_for_a_terminal() {
    let bench = Bench::with(&given::all());
    std::fs::create_dir(bench.path("s/cores")).unwrap();
    bench.write("s/cores/k3m9q0tz.core", "secret");
    assert_eq!(
        on_a_terminal(&bench, 80, &["cores", "dump", "k3m"], &[]),
        ""
    );
}

#[test]
fn tenants_bytes_never_reach_a_terminal() {
    let bench = Bench::with(&[given::hostile()]);
    for words in [&["list"][..], &["show", "h2z"]] {
        let text = plain(&on_a_terminal(&bench, 300, words, &[]));
        assert!(text.contains(r"x y\x1b[2J\x0ak3m"), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
    }
    let text = plain(&on_a_terminal(&bench, 300, &["cores"], &[]));
    assert!(text.contains(r"/tmp/a b\\c"), "{text}");
}
