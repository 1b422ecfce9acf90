//! The stack in `cores info`: real crashes of a real program, whose functions are known.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bench::Bench;
use crate::given;

/// A program in a directory of its own, and a bench whose only core is of its crash.
struct Crashed {
    bench: Bench,
}

/// What is compiled, beside what every build has.
const BUILD: [&str; 6] = [
    "-g",
    "-O1",
    "-fno-inline",
    "-fno-optimize-sibling-calls",
    "-fomit-frame-pointer",
    "-o",
];

impl Crashed {
    /// Compiles it with these options, and lets it crash in this way; `None`, said aloud, where a core cannot be had.
    #[expect(clippy::disallowed_methods, reason = "a compiler, and what it made")]
    fn new(options: &[&str], way: usize) -> Option<Self> {
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let mut compiler = Command::new("gcc");
        let compiles = compiler.arg("--version").stdout(Stdio::null()).status();
        if pattern != "core\n" || !compiles.is_ok_and(|ended| ended.success()) {
            eprintln!(
                "SKIPPED: needs gcc, and a core_pattern of `core`, to have the kernel write one"
            );
            return None;
        }
        let bench = Bench::with(&[given::shop()]);
        std::fs::create_dir(bench.path("s/cores")).unwrap();
        std::fs::create_dir(bench.path("p")).unwrap();
        for open in ["", "p"] {
            let open = bench.path(open);
            std::fs::set_permissions(open, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let crashed = Self { bench };
        crashed.compile(options);
        let words = vec!["way"; way - 1].join(" ");
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(format!("ulimit -c unlimited; exec ./stack {words}"));
        let ended = shell.current_dir(crashed.bench.path("p")).status().unwrap();
        assert!(!ended.success());
        let mut files = std::fs::read_dir(crashed.bench.path("p"))
            .unwrap()
            .flatten();
        let core = files.find(|file| file.file_name().to_string_lossy().starts_with("core"));
        let kept = crashed.bench.path("s/cores/k3m9q0tz.core");
        std::fs::rename(core.unwrap().path(), kept).unwrap();
        Some(crashed)
    }

    #[expect(clippy::disallowed_methods, reason = "a compiler")]
    fn compile(&self, options: &[&str]) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core/stack.c");
        let mut compiler = Command::new("gcc");
        let program = self.bench.path("p/stack");
        compiler.args(BUILD).arg(program).args(options).arg(source);
        assert!(compiler.status().unwrap().success(), "{options:?}");
    }

    /// What `info` says about it, with the files of this host.
    fn info(&self) -> Value {
        let words = ["cores", "info", "k3m", "--json", "--sysroot", "/"];
        let said = self.bench.run(&words);
        assert_eq!((said.err.as_str(), said.status), ("", 0));
        serde_json::from_str(&said.out).unwrap()
    }

    /// The functions' names, innermost first; `?` where there is none; and what could not be read.
    fn stack(&self) -> (Vec<String>, Vec<String>) {
        let info = self.info();
        let frames = info["crash"]["frames"].as_array().unwrap().iter();
        let names = frames.map(|frame| frame["symbol"].as_str().unwrap_or("?").to_owned());
        let unread = info["crash"]["unread"].as_array().unwrap().iter();
        let unread = unread.map(|why| why.as_str().unwrap().to_owned());
        (names.collect(), unread.collect())
    }
}

/// That these functions come one after the other, from this one on.
fn assert_through(names: &[String], from: usize, wanted: &[&str]) {
    let found: Vec<&str> = names.iter().skip(from).map(String::as_str).collect();
    assert!(found.starts_with(wanted), "{names:?}");
}

#[test]
fn a_stack_has_the_functions_that_had_not_returned() {
    for options in [&[][..], &["-static"], &["-no-pie"], &["-rdynamic", "-s"]] {
        let Some(crashed) = Crashed::new(options, 1) else {
            return;
        };
        let (names, unread) = crashed.stack();
        assert!(names.len() > 4, "{options:?} {names:?} {unread:?}");
        assert_through(&names, 0, &["deepest", "middle", "outer", "main"]);
        assert!(
            names.len() > 4 && unread.is_empty(),
            "{options:?} {names:?} {unread:?}"
        );
        let first = &crashed.info()["crash"]["frames"][0];
        assert!(first["symbol_offset"].as_u64().unwrap() < 16, "{first}");
        let text = crashed
            .bench
            .run(&["cores", "info", "k3m", "--sysroot", "/"])
            .out;
        assert!(text.contains("  main + 0x"), "{text}");
    }
}

#[test]
fn what_has_no_names_still_has_places() {
    let Some(crashed) = Crashed::new(&["-s"], 1) else {
        return;
    };
    let (names, unread) = crashed.stack();
    assert_through(&names, 0, &["?", "?", "?", "?"]);
    assert!(names.len() > 4 && unread.is_empty(), "{names:?} {unread:?}");
    let info = crashed.info();
    for frame in info["crash"]["frames"].as_array().unwrap().iter().take(4) {
        assert!(
            frame["module"].as_str().unwrap().ends_with("/p/stack"),
            "{frame}"
        );
        assert!(frame["offset"].as_u64().unwrap() < 1 << 20, "{frame}");
        assert_eq!(frame["build_id"].as_str().unwrap().len(), 40, "{frame}");
    }
}

#[test]
fn the_way_goes_through_a_signal_and_a_call_of_nothing() {
    let Some(crashed) = Crashed::new(&[], 2) else {
        return;
    };
    let (names, unread) = crashed.stack();
    let handler = names.iter().position(|name| name == "on_signal").unwrap();
    assert_eq!(names[handler - 1], "abort", "{names:?}");
    assert_through(&names, handler + 2, &["deepest", "middle", "outer", "main"]);
    assert_eq!(unread, [""; 0]);
    let crashed = Crashed::new(&[], 3).unwrap();
    let (names, unread) = crashed.stack();
    assert_through(&names, 0, &["?", "middle", "outer", "main"]);
    assert_eq!(unread, [""; 0]);
}

#[test]
fn another_build_at_the_same_place_is_not_used() {
    let Some(crashed) = Crashed::new(&[], 1) else {
        return;
    };
    crashed.compile(&["-DOTHER", "-falign-functions=64"]);
    let (names, unread) = crashed.stack();
    assert_eq!(names, ["?"]);
    assert!(
        unread[0].ends_with("/p/stack is not here, or is another build"),
        "{unread:?}"
    );
    let program = crashed.bench.path("p/stack");
    std::fs::remove_file(&program).unwrap();
    nix::unistd::mkfifo(&program, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(crashed.stack().0, ["?"], "a pipe is not waited for");
}
