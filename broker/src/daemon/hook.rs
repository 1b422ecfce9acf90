//! `--install core`: the hook is ours while the daemon runs. For hosts whose init has no unit for that.
//!
//! It goes in when everything is ready to answer, and out before anything stops. Nobody crashes to try it: this process
//! starts none. `upcallctl install core` does.

use anyhow::Context;
use tracing::{error, info};

use crate::hooks::install::{Installation, Uninstalled, Wishes, uninstall};
use crate::hooks::sysctl::CoreSysctl;
use crate::hooks::sysctl_d::SysctlD;
use crate::options::Options;

/// Our hook, put in by us.
#[derive(Debug)]
pub(super) struct OwnHook<'a> {
    options: &'a Options,
    sysctl: CoreSysctl,
}

impl<'a> OwnHook<'a> {
    /// Puts it in.
    ///
    /// # Errors
    /// As [`Installation`]; nothing is changed then.
    pub(super) fn put_in(options: &'a Options, keep_free: u64) -> anyhow::Result<Self> {
        let sysctl = options.sysctl.as_deref();
        let sysctl = sysctl.map_or_else(CoreSysctl::host, CoreSysctl::below);
        let lock = sysctl.lock()?;
        let wishes = Wishes::usual(
            &options.libexec,
            &options.hooks,
            &options.run,
            &options.state,
            keep_free,
        );
        let planned = Installation::plan(&sysctl, &wishes)?;
        planned.apply(&sysctl, &lock)?;
        if let Some(file) = sysctl_d(options) {
            let path = file.path().display().to_string();
            file.keep(&planned.ours).context(path)?;
        }
        info!(
            "core_pattern is ours while this runs; before: {}",
            planned.file.previous.text()
        );
        Ok(Self { options, sysctl })
    }

    /// Puts back what stood there.
    pub(super) fn put_back(self) {
        let put_back = || -> anyhow::Result<Uninstalled> {
            let lock = self.sysctl.lock()?;
            if let Some(file) = sysctl_d(self.options) {
                file.remove()?;
            }
            Ok(uninstall(&self.sysctl, &self.options.hooks, &lock)?)
        };
        match put_back() {
            Ok(Uninstalled::Restored(standing)) => {
                info!("core_pattern is back to {}", standing.pattern.text());
            }
            Ok(Uninstalled::Foreign { standing, .. }) => {
                info!("core_pattern was not ours: {}", standing.pattern.text());
            }
            Err(error) => error!("core_pattern is not put back: {error:#} (upcallctl uninstall)"),
        }
    }
}

/// Only the system's own upcalld speaks for the system's settings.
fn sysctl_d(options: &Options) -> Option<SysctlD> {
    match &options.sysctl {
        Some(directory) => Some(SysctlD::below(&directory.join("sysctl.d"))),
        None if options.hooks == Options::default().hooks => Some(SysctlD::host()),
        None => None,
    }
}
