//! What `make demo` says to the demo.

use std::path::{Path, PathBuf};
use std::process::Command;

use upcall_e2e::command::{command, run};

/// `demo --help`.
pub(crate) const HELP: &str = "\
demo: nine real crashes, in containers and beside them, and what upcalld does with each; as root

usage: demo --libexec DIR --daemon PATH [options]
  --libexec DIR     the static programs: upcall-shim, upcall-enter, upcall-store, upcall-place, upcall-probe, crash-me
  --daemon PATH     upcalld; upcallctl is looked for beside it
  --packages TEXT   what was done about packages, as `make demo` prints it
  --json            one document for programs instead of tables
  --color WHEN      auto, always, never
  --help

Exit status: 0 every row is as expected, 1 one is not, 5 not root, 6 it cannot be done here, 130 Ctrl-C.
";

/// When to write in colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Auto,
    Always,
    Never,
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) libexec: PathBuf,
    pub(crate) daemon: PathBuf,
    pub(crate) json: bool,
    pub(crate) help: bool,
    pub(crate) colour: Colour,
    packages: String,
}

impl Options {
    /// Reads a command line, the program's name left out.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            libexec: PathBuf::new(),
            daemon: PathBuf::new(),
            json: false,
            help: false,
            colour: Colour::Auto,
            packages: "nothing was looked for".to_owned(),
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            match word.as_str() {
                "--libexec" => options.libexec = absolute(&value()?)?,
                "--daemon" => options.daemon = absolute(&value()?)?,
                "--packages" => options.packages = value()?,
                "--json" => options.json = true,
                "--help" | "-h" => options.help = true,
                "--color" => {
                    options.colour = match value()?.as_str() {
                        "auto" => Colour::Auto,
                        "always" => Colour::Always,
                        "never" => Colour::Never,
                        other => return Err(format!("--color {other}: auto, always or never")),
                    };
                }
                _ => return Err(format!("unknown option {word}")),
            }
        }
        let given =
            !options.libexec.as_os_str().is_empty() && !options.daemon.as_os_str().is_empty();
        if given || options.help {
            Ok(options)
        } else {
            Err("--libexec and --daemon are needed".to_owned())
        }
    }

    /// What was built, by its files.
    pub(crate) fn built(&self) -> String {
        let profile = self
            .daemon
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default();
        let size = |name: &str| {
            let bytes = std::fs::metadata(self.libexec.join(name)).map_or(0, |meta| meta.len());
            let tenths = bytes.div_ceil(100_000);
            format!("{name} {}.{} MB", tenths / 10, tenths % 10)
        };
        format!(
            "{}; {}, {}, static",
            profile.display(),
            size("upcall-shim"),
            size("upcall-enter")
        )
    }

    /// What packages there are.
    pub(crate) fn packages(&self) -> String {
        let version = |program: &mut Command| {
            let said = run(program.arg("--version")).unwrap_or_default();
            let last = said
                .lines()
                .next()
                .and_then(|line| line.split(' ').next_back());
            // What the distribution added is its own business.
            let upstream = last.and_then(|version| version.split('+').next());
            upstream.unwrap_or("?").to_owned()
        };
        let runc = version(&mut command("runc"));
        let podman = version(&mut command("podman"));
        format!("{} (runc {runc}, podman {podman})", self.packages)
    }
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{path}: {error}"))
}
