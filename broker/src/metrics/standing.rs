//! What is not counted but looked at when somebody asks.

use super::{Family, family, float, gauge, sample, seconds};
use crate::store::space::Kept;

/// How things stand now; what is not counted but looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// When the daemon started, in microseconds since the epoch.
    pub started: u64,
    /// The core hook: `ours`, `foreign`, `not_installed`.
    pub core: &'static str,
    /// How often somebody else's was found there.
    pub foreign_count: u64,
    /// Rules in force.
    pub rules: u64,
    /// When they were loaded, in microseconds since the epoch.
    pub loaded: u64,
    /// Whether the files on disk are still those.
    pub unchanged: bool,
    /// Upcalls that hold a place self.
    pub running: u64,
    /// Cores in the shim's spool; `None` where it cannot be read.
    pub spool: Option<Kept>,
    /// Cores that are kept.
    pub cores: Option<Kept>,
    /// Bytes free where cores are kept.
    pub free: Option<u64>,
    /// Bytes that must stay free there.
    pub keep_free: u64,
}

impl Standing {
    /// Its families.
    pub(super) fn families(&self) -> Vec<Family> {
        let hook = |state: &str| {
            let labels = [("hook", "core"), ("state", state)];
            sample("", &labels, float(u64::from(self.core == state)))
        };
        let mut all = vec![
            family(
                "build_info",
                "gauge",
                "Always 1.",
                vec![sample(
                    "",
                    &[("version", env!("CARGO_PKG_VERSION"))],
                    float(1),
                )],
            ),
            gauge(
                "start_time_seconds",
                "When upcalld started.",
                seconds(self.started),
            ),
            gauge(
                "running",
                "Upcalls that hold a place of limits.concurrent.",
                float(self.running),
            ),
            family(
                "hook_state",
                "gauge",
                "1 for what stands in a hook of the kernel's.",
                ["ours", "foreign", "not_installed"].map(hook).into(),
            ),
            family(
                "hook_foreign_total",
                "counter",
                "How often somebody else's was found in a hook of ours.",
                vec![sample("", &[("hook", "core")], float(self.foreign_count))],
            ),
            gauge("rules", "Rules in force.", float(self.rules)),
            gauge(
                "rules_loaded_time_seconds",
                "When they were loaded.",
                seconds(self.loaded),
            ),
            gauge(
                "rules_current",
                "1 while the files on disk are those that were loaded.",
                float(u64::from(self.unchanged)),
            ),
            gauge(
                "store_keep_free_bytes",
                "Bytes that must stay free where cores are kept.",
                float(self.keep_free),
            ),
        ];
        all.extend(self.space());
        all
    }

    /// What is known of the space.
    fn space(&self) -> Vec<Family> {
        let mut all = Vec::new();
        if let Some(free) = self.free {
            all.push(gauge(
                "store_free_bytes",
                "Bytes free where cores are kept.",
                float(free),
            ));
        }
        if let Some(cores) = self.cores {
            all.push(gauge(
                "store_cores",
                "Cores that are kept.",
                float(count(&cores)),
            ));
            all.push(gauge("store_bytes", "Bytes of them.", float(cores.bytes)));
        }
        if let Some(spool) = self.spool {
            all.push(gauge(
                "spool_cores",
                "Cores that the shim kept and upcalld has not taken in.",
                float(count(&spool)),
            ));
            all.push(gauge("spool_bytes", "Bytes of them.", float(spool.bytes)));
            if let Some(oldest) = spool.oldest {
                all.push(gauge(
                    "spool_oldest_time_seconds",
                    "When the oldest of them was written.",
                    seconds(oldest),
                ));
            }
        }
        all
    }
}

fn count(kept: &Kept) -> u64 {
    u64::try_from(kept.cores).unwrap_or(u64::MAX)
}
