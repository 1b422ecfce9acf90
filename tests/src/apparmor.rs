//! Profiles of AppArmor, loaded for a test.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::command::command;
use crate::programs::unpacked;

/// The program that loads profiles, from a package that is not installed.
pub fn parser() -> PathBuf {
    unpacked("apparmor").join("sbin/apparmor_parser")
}

/// A profile that is loaded; removed when dropped, and whoever is confined by it is so no longer.
#[derive(Debug)]
pub struct Profile(String);

impl Profile {
    /// Loads one that allows everything but to read /secret.
    ///
    /// # Errors
    /// The kernel or the parser refuses it.
    pub fn load(name: &str) -> Result<Self> {
        let profile = Self(format!(
            "profile \"{name}\" flags=(attach_disconnected,mediate_deleted) {{\n\
             capability,\nnetwork,\nfile,\nmount,\numount,\npivot_root,\nptrace,\nsignal,\nunix,\n\
             deny /secret r,\n}}\n"
        ));
        profile.told("--replace")?;
        Ok(profile)
    }

    fn told(&self, what: &str) -> Result<()> {
        let mut parser = command(parser());
        parser.args([what, "--skip-cache", "--config-file=/dev/null"]);
        let mut parser = parser.stdin(Stdio::piped()).spawn()?;
        let mut stdin = parser.stdin.take().context("its input")?;
        stdin.write_all(self.0.as_bytes())?;
        drop(stdin);
        let status = parser.wait()?;
        ensure!(status.success(), "apparmor_parser {what}: {status}");
        Ok(())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        drop(self.told("--remove"));
    }
}
