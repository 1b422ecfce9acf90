//! Where the programs are that the tests start: told by the environment, else built here.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{command, run};

/// The directory with the static programs, if somebody built them before: `make check` does.
pub const STATIC: &str = "UPCALLD_TEST_PROGRAMS";
/// The daemon, if somebody built it before. For most tests a debug build, which knows `--any-peer`.
pub const DAEMON: &str = "UPCALLD_TEST_DAEMON";

/// Built programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// A directory with all of the static ones.
    pub directory: PathBuf,
    /// upcalld.
    pub daemon: PathBuf,
}

impl Programs {
    /// Finds them, or builds them: once in a run of nextest, else whenever asked, which cargo makes short.
    ///
    /// # Errors
    /// They cannot be built.
    pub fn get() -> Result<Self> {
        let given = |name| std::env::var_os(name).map(PathBuf::from);
        if let (Some(directory), Some(daemon)) = (given(STATIC), given(DAEMON)) {
            return Ok(Self { directory, daemon });
        }
        let target = target();
        let built = Self {
            directory: target.join("helper"),
            daemon: target.join("debug/upcalld"),
        };
        let lock = target.join("e2e-build.lock");
        let lock = File::create(&lock).with_context(|| format!("{}", lock.display()))?;
        lock.lock()?;
        let run_id = std::env::var("NEXTEST_RUN_ID").ok();
        let stamp = target.join("e2e-built");
        let built_in = std::fs::read_to_string(&stamp).ok();
        if run_id.is_none() || built_in != run_id {
            build(&target)?;
            std::fs::write(&stamp, run_id.unwrap_or_default())?;
        }
        Ok(built)
    }
}

/// The directory in which this test itself was built.
pub fn target() -> PathBuf {
    // TARGET/debug/deps/TEST, TARGET/debug/PROGRAM
    let own = std::env::current_exe().unwrap_or_default();
    let profile = own.ancestors().find(|path| {
        let name = path.file_name().unwrap_or_default();
        name == "debug" || name == "release"
    });
    profile
        .and_then(Path::parent)
        .map_or_else(std::env::temp_dir, Path::to_owned)
}

fn build(target: &Path) -> Result<()> {
    run(cargo(target).args(["build", "--package=upcalld", "--bins"]))?;
    // As everybody builds them.
    let mut make = command("make");
    make.args(["--no-print-directory", "test-programs"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("CARGO_TARGET_DIR", target);
    run(&mut make)?;
    Ok(())
}

/// Builds a program of the tests' own in C, freestanding and static, for 32-bit x86.
///
/// # Errors
/// gcc fails; the error has what it said.
pub fn build_32_bit(source: &str, to: &Path) -> Result<()> {
    let file = to.with_extension("c");
    std::fs::write(&file, source)?;
    let mut gcc = command("gcc");
    gcc.args(["-m32", "-O0", "-g", "-ffreestanding"]);
    gcc.args(["-fno-pie", "-no-pie", "-nostdlib", "-static", "-o"]);
    run(gcc.arg(to).arg(&file)).map(drop)
}

/// Whether such a program can be built and runs here.
pub(crate) fn makes_32_bit() -> bool {
    const EXIT: &str =
        "void _start(void) { __asm__(\"int $0x80\" : : \"a\"(1), \"b\"(0)); for (;;); }\n";
    let place = std::env::temp_dir().join(format!("upcall-e2e-32-{}", std::process::id()));
    let ran = std::fs::create_dir(&place).is_ok()
        && build_32_bit(EXIT, &place.join("exit")).is_ok()
        && run(&mut command(place.join("exit"))).is_ok();
    drop(std::fs::remove_dir_all(&place));
    ran
}

fn cargo(target: &Path) -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["--quiet"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("CARGO_TARGET_DIR", target);
    cargo
}

/// Where tools/unpack has put the files of a Debian package that is not installed.
pub fn unpacked(package: &str) -> PathBuf {
    target().join("unpacked").join(package)
}
