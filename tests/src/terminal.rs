//! A terminal of a test's own, for what a program shows to people alone.

use std::fs::File;
use std::io::Read;
use std::process::Command;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::pty::{Winsize, openpty};

/// Runs a program on a terminal of a hundred columns; what it showed, colours among it, each line's end as it wrote it.
///
/// # Errors
/// It cannot be started.
pub fn shown(program: &mut Command) -> Result<Vec<u8>> {
    let size = Winsize {
        ws_row: 40,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(&size, None).context("openpty")?;
    program
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .stdin(terminal.slave.try_clone()?)
        .stdout(terminal.slave.try_clone()?)
        .stderr(terminal.slave);
    let mut child = program.spawn()?;
    // The command holds the terminal too, and its end is that nobody does.
    program.stdin(std::process::Stdio::null());
    program.stdout(std::process::Stdio::null());
    program.stderr(std::process::Stdio::null());
    let mut said = Vec::new();
    match File::from(terminal.master).read_to_end(&mut said) {
        Err(error) if error.raw_os_error() != Some(Errno::EIO as i32) => return Err(error.into()),
        _ => {}
    }
    child.wait()?;
    Ok(String::from_utf8_lossy(&said)
        .replace("\r\n", "\n")
        .into_bytes())
}
