//! What a helper can see of itself: the line of JSON that `upcall-probe` prints and the tests read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line of `upcall-probe`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its words.
    pub argv: Vec<String>,
    /// Its environment, sorted.
    pub env: Vec<String>,
    /// Bytes of standard input.
    pub stdin_bytes: u64,
    /// [`Hash`](struct@Hash) of standard input.
    pub stdin_hash: String,
    /// Real, effective, saved, file system user.
    pub uid: [u32; 4],
    /// Real, effective, saved, file system group.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// prctl(2), `PR_GET_SECUREBITS`.
    pub securebits: i32,
    /// prctl(2), `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: i32,
    /// prctl(2), `PR_GET_SECCOMP`.
    pub seccomp: i32,
    /// prctl(2), `PR_GET_DUMPABLE`.
    pub dumpable: i32,
    /// prctl(2), `PR_GET_PDEATHSIG`.
    pub parent_death_signal: i32,
    /// prctl(2), `PR_GET_TIMERSLACK`.
    pub timer_slack: i32,
    /// Inodes of its namespaces by their names in /proc/PID/ns, found without /proc.
    pub namespaces: BTreeMap<String, u64>,
    /// Open descriptors, by number.
    pub descriptors: BTreeMap<u32, String>,
    /// Working directory.
    pub cwd: String,
    /// Device and inode of `/`.
    pub root: [u64; 2],
    /// Whether there is a /proc.
    pub has_proc: bool,
    /// Lines of /proc/self/cgroup, where that is there.
    pub cgroup: Vec<String>,
    /// Soft and hard limits in the kernel's order; `-` is none.
    pub limits: Vec<[String; 2]>,
    /// Blocked signals, a bit each.
    pub blocked: String,
    /// Ignored signals, a bit each.
    pub ignored: String,
    /// File mode creation mask, octal.
    pub umask: String,
    /// Its pid.
    pub pid: i32,
    /// Its parent; 0 is one that lives outside its pid namespace.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Niceness.
    pub nice: i32,
    /// Scheduling policy.
    pub scheduler: i32,
    /// /proc/self/oom_score_adj, where that is there.
    pub oom_score_adj: Option<i32>,
    /// /dev/tty.
    pub terminal: String,
    /// System calls that a helper may not make, and what came of them: `ok` or the error's name.
    pub refused: BTreeMap<String, String>,
    /// Paths that it was asked to look at (`--look=PATH`), and whether they are there.
    pub seen: BTreeMap<String, bool>,
}

/// Capability sets as hexadecimal masks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Capabilities {
    pub effective: String,
    pub permitted: String,
    pub inheritable: String,
    pub bounding: String,
    pub ambient: String,
}

impl Capabilities {
    /// How many there are in the effective set.
    pub fn count(&self) -> u32 {
        u64::from_str_radix(&self.effective, 16).map_or(0, u64::count_ones)
    }
}

/// FNV-1a, 64 bits: tells one core from another, and is in nobody's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = Self::default();
        hash.add(bytes);
        hash
    }

    /// Goes on with more bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
