//! The small file that `install` writes for each hook: how to reach the daemon, and what to do without it.
//!
//! Lines of `key = value`; `#` starts a comment. The kernel starts us with a fixed line of words and no configuration
//! language, so this is all there is. A file that cannot be read or trusted gives the built-in, safe values.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

/// The longest file that is read.
const SIZE_MAX: u64 = 4096;

/// What the file says.
#[derive(Debug, PartialEq, Eq)]
pub struct HookFile {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// How long the shim waits for the daemon.
    pub deadline: Duration,
    /// Where cores are kept that the daemon did not take.
    pub spool: PathBuf,
    /// Bytes that the spool may hold.
    pub spool_max: u64,
    /// Bytes that must stay free on the spool's file system.
    pub keep_free: u64,
    /// The program that did the work before us; empty where there was none.
    pub program: PathBuf,
    /// How long that may take.
    pub pass_deadline: Duration,
    /// Whether what is no core is refused while there is no daemon; else it goes to that program.
    pub refuse: bool,
}

impl Default for HookFile {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/upcalld/upcall.sock"),
            deadline: Duration::from_secs(2),
            spool: PathBuf::from("/var/lib/upcalld/spool"),
            spool_max: 4 << 30,
            keep_free: 2 << 30,
            program: PathBuf::from("/sbin/request-key.distrib"),
            pass_deadline: Duration::from_mins(1),
            refuse: false,
        }
    }
}

impl HookFile {
    /// Reads `directory/hook`.
    pub fn read(directory: &Path, hook: &str) -> Self {
        let mut file = Self::default();
        let program = match hook {
            "module" => "/sbin/modprobe",
            // What stands in the place of one program looks for that, but where the kernel itself would find us there.
            "bridge-stp" => "/sbin/bridge-stp.distrib",
            "nfsdcltrack" => "/sbin/nfsdcltrack",
            "nfs_cache_getent" => "/sbin/nfs_cache_getent",
            "release_agent" | "uevent_helper" | "umh" => "",
            _ => "/sbin/request-key.distrib",
        };
        file.program = program.into();
        if hook == "module" {
            file.deadline = Duration::from_millis(50);
        }
        if let Some(text) = trusted(&directory.join(hook)) {
            file.parse(&text);
        }
        file
    }

    /// Takes over every line that says something we know; `install` writes keys that only it reads.
    fn parse(&mut self, text: &[u8]) {
        for line in text.split(|byte| *byte == b'\n') {
            let Some(split) = line.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            let (key, value) = line.split_at(split);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let path = || {
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(value));
                path.is_absolute().then_some(path)
            };
            let number = || {
                str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse::<u64>().ok())
            };
            match key.trim_ascii() {
                b"socket" => self.socket = path().unwrap_or_else(|| self.socket.clone()),
                b"spool" => self.spool = path().unwrap_or_else(|| self.spool.clone()),
                b"deadline_ms" => {
                    let limit = |ms: u64| Duration::from_millis(ms.clamp(10, 10_000));
                    self.deadline = number().map_or(self.deadline, limit);
                }
                b"program" => self.program = path().unwrap_or_else(|| self.program.clone()),
                b"pass_deadline_ms" => {
                    let limit = |ms: u64| Duration::from_millis(ms.clamp(1000, 600_000));
                    self.pass_deadline = number().map_or(self.pass_deadline, limit);
                }
                b"without_daemon" => self.refuse = value == b"deny",
                b"spool_max" => self.spool_max = number().unwrap_or(self.spool_max),
                b"keep_free" => self.keep_free = number().unwrap_or(self.keep_free),
                _ => {}
            }
        }
    }
}

/// The file's text, if it is a small plain file that only root can write.
fn trusted(path: &Path) -> Option<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    let meta = file.metadata().ok()?;
    let safe = meta.is_file() && meta.uid() == 0 && meta.mode() & 0o022 == 0;
    if !safe || meta.len() > SIZE_MAX {
        return None;
    }
    // Room for more than there can be: one read has it all, and the next finds the end.
    let mut text = Vec::with_capacity(8192);
    file.take(SIZE_MAX).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_are_taken_and_everything_else_is_left() {
        let mut file = HookFile::default();
        file.parse(
            b"# comment = 1\nsocket = /run/x/sock\n deadline_ms=99999999\nspool_max = 12\nspool = relative\n\
              keep_free = lots\nprevious = |/bin/handler %P\n\xff\xff\n=\nprogram = /x/y\n\
              without_daemon = deny\npass_deadline_ms = 1\n",
        );
        let expected = HookFile {
            socket: PathBuf::from("/run/x/sock"),
            deadline: Duration::from_secs(10),
            spool_max: 12,
            program: PathBuf::from("/x/y"),
            pass_deadline: Duration::from_secs(1),
            refuse: true,
            ..HookFile::default()
        };
        assert_eq!(file, expected);
    }
}
