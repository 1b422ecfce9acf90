//! A process as the host sees it, most of all a container's init: what a helper's report is compared with.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Namespaces by their names in /proc/PID/ns.
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// What is known about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its pid on the host.
    pub pid: u32,
    /// Inodes of its namespaces.
    pub namespaces: BTreeMap<String, u64>,
    /// Device and inode of its root.
    pub root: [u64; 2],
    /// /proc/PID/status by its fields.
    pub status: BTreeMap<String, String>,
    /// Lines of /proc/PID/cgroup.
    pub cgroup: Vec<String>,
    /// Soft and hard limits in the kernel's order; `-` is none.
    pub limits: Vec<[String; 2]>,
    /// /proc/PID/oom_score_adj.
    pub oom_score_adj: i32,
}

impl Leader {
    /// Reads a process.
    ///
    /// # Errors
    /// It is gone.
    pub fn read(pid: u32) -> Result<Self> {
        let text = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).context(path)
        };
        let root = std::fs::metadata(format!("/proc/{pid}/root/"))?;
        let status = text("status")?;
        let status = status
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Ok(Self {
            pid,
            namespaces: namespaces(pid)?,
            root: [root.dev(), root.ino()],
            status: status.collect(),
            cgroup: text("cgroup")?.lines().map(str::to_owned).collect(),
            limits: limits(&text("limits")?),
            oom_score_adj: text("oom_score_adj")?.trim().parse()?,
        })
    }

    /// A field of /proc/PID/status.
    pub fn field(&self, name: &str) -> &str {
        self.status.get(name).map_or("", String::as_str)
    }

    /// A field of four ids: real, effective, saved, file system.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.numbers(name)
    }

    /// A field of numbers.
    pub fn numbers(&self, name: &str) -> Vec<u32> {
        let words = self.field(name).split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    }

    /// A set of capabilities.
    pub fn capabilities(&self, name: &str) -> u64 {
        u64::from_str_radix(self.field(name), 16).unwrap_or(0)
    }

    /// Its path in the hierarchy with these controllers; cgroup2's is "".
    pub fn cgroup_path(&self, controllers: &str) -> Option<&str> {
        self.cgroup.iter().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            (parts.next()? == controllers).then(|| parts.next())?
        })
    }
}

/// Inodes of a process's namespaces.
///
/// # Errors
/// It is gone.
pub fn namespaces(pid: u32) -> Result<BTreeMap<String, u64>> {
    // Some kernels have fewer: then nobody has those.
    let there = |name: &&&str| Path::new("/proc/self/ns").join(name).exists();
    let inode = |name: &&str| -> Result<(String, u64)> {
        let path = format!("/proc/{pid}/ns/{name}");
        let meta = std::fs::metadata(&path).context(path)?;
        Ok(((*name).to_owned(), meta.ino()))
    };
    NAMESPACES.iter().filter(there).map(inode).collect()
}

/// /proc/PID/limits, put into the kernel's order (asm-generic/resource.h).
fn limits(text: &str) -> Vec<[String; 2]> {
    const ORDER: [&str; 16] = [
        "Max cpu time",
        "Max file size",
        "Max data size",
        "Max stack size",
        "Max core file size",
        "Max resident set",
        "Max processes",
        "Max open files",
        "Max locked memory",
        "Max address space",
        "Max file locks",
        "Max pending signals",
        "Max msgqueue size",
        "Max nice priority",
        "Max realtime priority",
        "Max realtime timeout",
    ];
    let one = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let mut words = line.unwrap_or_default().split_whitespace();
        [(); 2].map(|()| {
            let word = words.next().unwrap_or("?");
            if word == "unlimited" { "-" } else { word }.to_owned()
        })
    };
    ORDER.map(one).to_vec()
}
