//! A place to run the command in: directories of its own, and files in the place of the kernel's settings.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use upcalld::store::record::Record;
use upcalld::store::records::Records;

/// The directories.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) status: i32,
}

/// Whether this is root; says so where it is not.
pub(crate) fn is_root(why: &str) -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        skipped(&format!("root: {why}"));
    }
    root
}

/// Says loudly what a test lacks, and where a later step looks (tools/check).
pub(crate) fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: needs {why}", thread.name().unwrap_or("a test"));
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("UPCALLD_TEST_SKIPPED") {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path);
        writeln!(file.unwrap(), "{line}").unwrap();
    }
}

impl Bench {
    /// With no records, no rules and a core_pattern of `core`.
    pub(crate) fn new() -> Self {
        let bench = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        for name in ["c/rules.d", "s", "r", "l", "k"] {
            std::fs::create_dir_all(bench.path(name)).unwrap();
        }
        bench.write("k/core_pattern", "core\n");
        bench.write("k/core_pipe_limit", "0\n");
        bench
    }

    /// With these records.
    pub(crate) fn with(records: &[Record]) -> Self {
        let bench = Self::new();
        let store = Records::create(&bench.path("s")).unwrap();
        for record in records {
            let time: jiff::Timestamp = record.time.parse().unwrap();
            let micros = time.as_microsecond().try_into().unwrap();
            store.write(record, micros).unwrap();
        }
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A program in the place of the shim.
    pub(crate) fn with_shim(self) -> Self {
        self.write("l/core", "#!/bin/sh\n");
        let executable = PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(self.path("l/core"), executable).unwrap();
        self
    }

    /// The command with the options that every test gives.
    pub(crate) fn command(&self, program: &Path, words: &[&str]) -> Command {
        self.wrapped(program, &[], words)
    }

    /// The same, as words of a program that starts it.
    #[expect(clippy::disallowed_methods, reason = "the command is what is tested")]
    pub(crate) fn wrapped(&self, program: &Path, before: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(before);
        for (option, name) in [
            ("--config", "c"),
            ("--state", "s"),
            ("--run", "r"),
            ("--libexec", "l"),
            ("--sysctl", "k"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        command
            .args(words)
            .env_clear()
            .env("TZ", "CET-1")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// Runs it in a pipe.
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        let program = Path::new(env!("CARGO_BIN_EXE_upcallctl"));
        self.said(self.command(program, words))
    }

    /// What it prints, byte by byte.
    pub(crate) fn bytes(&self, words: &[&str]) -> Vec<u8> {
        let program = Path::new(env!("CARGO_BIN_EXE_upcallctl"));
        self.command(program, words).output().unwrap().stdout
    }

    /// Runs it as nobody.
    pub(crate) fn run_as_nobody(&self, words: &[&str]) -> Said {
        use std::os::unix::process::CommandExt;
        // The build's own directory may be root's alone.
        let program = self.path("upcallctl");
        if !program.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_upcallctl"), &program).unwrap();
        }
        let open = PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(self.directory.path(), open).unwrap();
        let mut command = self.command(&program, words);
        command.uid(65534).gid(65534);
        self.said(command)
    }

    fn said(&self, mut command: Command) -> Said {
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(&self.directory.path().display().to_string(), "/T")
        };
        Said {
            out: text(output.stdout),
            err: text(output.stderr),
            status: output.status.code().unwrap(),
        }
    }
}

impl Said {
    /// Both streams and the exit status, for a snapshot.
    pub(crate) fn all(&self) -> String {
        let Self { out, err, status } = self;
        let err = if err.is_empty() {
            String::new()
        } else {
            format!("--- standard error\n{err}")
        };
        format!("{out}{err}--- exit {status}\n")
    }
}
