//! A kernel that starts one program for all its helpers (`CONFIG_STATIC_USERMODEHELPER`), without that kernel: the real
//! shim by a path that says nothing, with the wanted program as `argv[0]`, in a mount namespace where the host's
//! programs for that are ours.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::command::command;
use crate::sandbox::Sandbox;

/// What the kernel gives most of its helpers (kernel/reboot.c and others).
const ENVIRONMENT: [(&str, &str); 2] = [("HOME", "/"), ("PATH", "/sbin:/bin:/usr/sbin:/usr/bin")];

/// What one that was started leaves: its words, its environment, its bounding set.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its path and its words.
    pub words: String,
    /// `NAME=VALUE`, sorted.
    pub environment: Vec<String>,
    /// The capabilities that it can get, as /proc has them.
    pub bounding: u64,
}

/// Starts the shim as such a kernel would.
///
/// # Errors
/// As mount(2), execve(2).
pub fn start(sandbox: &Sandbox, program: &str, words: &[&str]) -> Result<ExitStatus> {
    let helper = sandbox.path("usermode-helper");
    if !helper.exists() {
        symlink(sandbox.libexec().join("upcall-shim"), &helper)?;
    }
    let mut shim = command(&helper);
    shim.arg0(program).args(words);
    in_their_place(sandbox, shim)
}

/// Starts the shim by one of its links.
///
/// # Errors
/// As [`start`].
pub fn start_link(sandbox: &Sandbox, name: &str, words: &[&str]) -> Result<ExitStatus> {
    let link = sandbox.libexec().join(name);
    std::fs::write(sandbox.hooks().join(name), file(&sandbox.sockets()))?;
    let mut shim = command(link);
    shim.arg(format!("--hooks={}", sandbox.hooks().display()));
    shim.args(words);
    in_their_place(sandbox, shim)
}

/// What was started, if anything was.
pub fn ran(sandbox: &Sandbox) -> Option<Ran> {
    let path = sandbox.path("ran");
    let text = std::fs::read_to_string(&path).ok()?;
    drop(std::fs::remove_file(&path));
    let mut lines = text.lines().map(str::to_owned);
    let words = lines.next()?;
    let bounding = lines.next()?;
    let bounding = bounding.split_whitespace().last()?;
    let mut environment: Vec<String> = lines.filter(|line| !line.starts_with("PWD=")).collect();
    environment.sort();
    Some(Ran {
        words,
        environment,
        bounding: u64::from_str_radix(bounding, 16).ok()?,
    })
}

/// Puts a program into that place, which leaves word of itself.
///
/// # Errors
/// As open(2).
pub fn program(sandbox: &Sandbox, name: &str) -> Result<()> {
    let directory = sandbox.path("sbin");
    std::fs::create_dir_all(&directory)?;
    let (path, ran) = (directory.join(name), sandbox.path("ran"));
    let ran = ran.display();
    std::fs::write(
        &path,
        format!("#!/bin/sh\n{{ echo \"$0 $*\"; grep CapBnd: /proc/self/status; env; }} >{ran}\n"),
    )?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// In a mount namespace of a thread's own: /sbin has these programs alone, /etc the hook's file.
fn in_their_place(sandbox: &Sandbox, mut shim: Command) -> Result<ExitStatus> {
    shim.env_clear().envs(ENVIRONMENT).stdin(Stdio::null());
    let sbin = sandbox.path("sbin");
    std::fs::create_dir_all(&sbin)?;
    let file = file(&sandbox.sockets());
    let started = std::thread::spawn(move || -> Result<ExitStatus> {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some(&sbin), "/sbin", none, MsFlags::MS_BIND, none)?;
        mount(Some("e2e"), "/etc", Some("tmpfs"), MsFlags::empty(), none)?;
        std::fs::create_dir_all("/etc/upcalld/hooks")?;
        std::fs::write("/etc/upcalld/hooks/umh", file)?;
        // A program of the host's by one of these names may do what it is there for.
        ensure!(!Path::new("/sbin/init").exists(), "/sbin is the host's");
        Ok(shim.status()?)
    });
    match started.join() {
        Ok(status) => status.context("the shim"),
        Err(_) => bail!("the thread that starts the shim"),
    }
}

/// The hook's file.
fn file(sockets: &Path) -> String {
    let socket = sockets.join("upcall.sock");
    format!("socket = {}\ndeadline_ms = 1000\n", socket.display())
}
