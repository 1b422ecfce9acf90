//! Programs of the distribution's in containers: copied with the libraries that they load.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{command, run};
use crate::programs::unpacked;
use crate::rootfs::Rootfs;

/// Where Debian's packages have their libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The search path for libraries of packages that are unpacked and not installed.
pub fn library_path(packages: &[&str]) -> String {
    let places = packages
        .iter()
        .map(|package| unpacked(package).join(LIBRARIES).display().to_string());
    places.collect::<Vec<String>>().join(":")
}

/// Copies a program into a container's root, under this path, and the libraries that the loader says it takes to the
/// places where the loader has them.
///
/// # Errors
/// As ldd(1), copy; a library that is not there.
pub fn copy(root: &Rootfs, program: &Path, to: &str, packages: &[&str]) -> Result<()> {
    let place = root.inside(to);
    std::fs::create_dir_all(place.parent().context("a directory")?)?;
    std::fs::copy(program, &place).with_context(|| program.display().to_string())?;
    let mut ldd = command("ldd");
    ldd.arg(program)
        .env("LD_LIBRARY_PATH", library_path(packages));
    for line in run(&mut ldd)?.lines() {
        let line = line.split(" (0x").next().unwrap_or_default().trim();
        let (name, path) = line.split_once(" => ").unwrap_or((line, line));
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            anyhow::ensure!(!line.contains("not found"), "{}: {line}", program.display());
            continue; // the kernel's own
        }
        // The loader itself has a fixed place, and all others are found in this one.
        let to = if name.starts_with('/') {
            root.inside(name)
        } else {
            root.inside("/lib/x86_64-linux-gnu").join(name)
        };
        std::fs::create_dir_all(to.parent().context("a directory")?)?;
        std::fs::copy(&path, &to).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
