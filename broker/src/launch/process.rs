//! The launcher's process.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::linux::memfd::SealedProgram;
use crate::linux::pidref::PidRef;
use crate::linux::seqpacket;

/// The launcher's process, started before this one had threads or armour.
#[derive(Debug)]
pub struct Process {
    pub(super) socket: OwnedFd,
    pub(super) process: PidRef,
}

impl Process {
    /// Starts the launcher from a sealed copy of its program.
    ///
    /// # Errors
    /// As fork(2), exec(3).
    pub fn start(image: &SealedProgram) -> std::io::Result<Self> {
        use std::os::fd::AsRawFd;
        let (ours, theirs) = seqpacket::pair()?;
        let path = format!("/proc/self/fd/{}", image.fd().as_raw_fd());
        #[expect(
            clippy::disallowed_methods,
            reason = "the launcher itself, the one process we start"
        )]
        let child = Command::new(path)
            .arg0("upcall-enter")
            .arg("--launcher")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at a terminal is for us; what the launcher has begun, it ends.
            .process_group(0)
            .spawn()?;
        // Nobody has waited for it yet, so that the number is its own.
        let process = PidRef::open(child.id())?;
        Ok(Self {
            socket: ours,
            process,
        })
    }
}
