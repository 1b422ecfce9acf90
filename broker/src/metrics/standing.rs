//! What is not counted but looked at when somebody asks.

use super::{Family, family, float, gauge, sample, seconds};
use crate::hooks::watch::HookState;
use crate::store::space::Kept;

/// How things stand now; what is not counted but looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// When the daemon started, in microseconds since the epoch.
    pub started: u64,
    /// Hooks by name: what stands there, and how often somebody else's was found.
    pub hooks: Vec<(&'static str, HookState, u64)>,
    /// How often the kernel wrote over what says who asks for modules; `None` where it says nothing.
    pub askers_lost: Option<u64>,
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
        let states = self.hooks.iter().flat_map(|(hook, found, _)| {
            ["ours", "foreign", "not_installed"].map(|state| {
                let labels = [("hook", *hook), ("state", state)];
                sample("", &labels, float(u64::from(found.as_str() == state)))
            })
        });
        let foreign = self.hooks.iter().map(|(hook, _, count)| {
            let labels = [("hook", *hook)];
            sample("", &labels, float(*count))
        });
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
                states.collect(),
            ),
            family(
                "hook_foreign_total",
                "counter",
                "How often somebody else's was found in a hook of ours.",
                foreign.collect(),
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
        all.extend(self.askers_lost.map(|lost| {
            let what = "How often the kernel wrote over what says who asks for modules, before it was read.";
            family(
                "module_askers_lost_total",
                "counter",
                what,
                vec![sample("", &[], float(lost))],
            )
        }));
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
