//! `upcalld.toml`: what is not about single upcalls.

use std::path::PathBuf;
use std::time::Duration;

/// All settings, with their defaults where nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `[store]`: space for cores.
    pub store: StoreSettings,
    /// `[limits]`: how much at once.
    pub limits: LimitSettings,
    /// `[hooks]`: the kernel's hooks.
    pub hooks: HookSettings,
    /// `[runtimes]`: where runtimes keep their state.
    pub runtimes: RuntimeSettings,
    /// `[records]`: what is remembered.
    pub records: RecordSettings,
    /// `[metrics]`: what is counted.
    pub metrics: MetricSettings,
}

/// `[store]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreSettings {
    /// `keep_free`: nothing is kept when less than this many bytes would stay free.
    pub keep_free: u64,
    /// `max_total`: bytes of all kept cores together.
    pub max_total: u64,
    /// `max_per_container`: bytes of one container's, or of one user's of the host.
    pub max_per_container: u64,
    /// `max_count`: how many one container, or one user of the host, may have.
    pub max_count: u64,
    /// `max_age`: how long one is kept.
    pub max_age: Duration,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// `concurrent`: upcalls handled at once, of all kinds and containers; 1 to 1024.
    pub concurrent: u32,
    /// `per_container`: of these for one container at most; 1 to 1024.
    pub per_container: u32,
}

/// `[hooks]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookSettings {
    /// `retake`: take a hook back that somebody else has taken from us.
    pub retake: bool,
}

/// `[runtimes]`; all paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// `runc`: its state directories, `--root`.
    pub runc: Vec<PathBuf>,
    /// `crun`: its state directories, `--root`.
    pub crun: Vec<PathBuf>,
    /// `containerd`: where the OCI runtime below containerd has one directory for each of its namespaces.
    pub containerd: Vec<PathBuf>,
    /// `docker`: the same below docker.
    pub docker: Vec<PathBuf>,
    /// `docker_root`: docker's data, `--data-root`.
    pub docker_root: PathBuf,
    /// `lxc`: LXC's directories of containers, `lxc.lxcpath`.
    pub lxc: Vec<PathBuf>,
    /// `incus`: the same of Incus.
    pub incus: Vec<PathBuf>,
    /// `machines`: the state of systemd-machined.
    pub machines: PathBuf,
    /// `units`: what systemd says of its units.
    pub units: PathBuf,
    /// `users`: the directory of each user by his number, in which he has runc's and crun's state.
    pub users: PathBuf,
    /// `podman_graphroot`: root's container storage.
    pub podman_graphroot: PathBuf,
    /// `podman_runroot`: root's container state.
    pub podman_runroot: PathBuf,
}

/// `[records]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSettings {
    /// `keep`: how many records at most; the oldest go first.
    pub keep: u64,
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricSettings {
    /// `textfile`: where the metrics are written for a collector that reads files.
    pub textfile: Option<PathBuf>,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            keep_free: 2 << 30,
            max_total: 64 << 30,
            max_per_container: 16 << 30,
            max_count: 100,
            max_age: Duration::from_hours(14 * 24),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            concurrent: 64,
            per_container: 8,
        }
    }
}

impl Default for RuntimeSettings {
    fn default() -> Self {
        Self {
            runc: vec!["/run/runc".into()],
            crun: vec!["/run/crun".into()],
            containerd: vec!["/run/containerd/runc".into()],
            docker: vec!["/run/docker/runtime-runc".into()],
            docker_root: "/var/lib/docker".into(),
            lxc: vec!["/var/lib/lxc".into()],
            incus: vec!["/var/lib/incus/containers".into()],
            machines: "/run/systemd/machines".into(),
            units: "/run/systemd/units".into(),
            users: "/run/user".into(),
            podman_graphroot: "/var/lib/containers/storage".into(),
            podman_runroot: "/run/containers/storage".into(),
        }
    }
}

impl Default for RecordSettings {
    fn default() -> Self {
        Self { keep: 100_000 }
    }
}
