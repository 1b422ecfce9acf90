//! A daemon that the kernel's requests for modules come to, for as long as the test has borrowed the host's hook.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::{command, run};
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::module_hook::HostModuleHook;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Module, Record};

/// The rules that come with upcalld, as far as they are about modules.
pub(crate) const SHIPPED: &str = r#"
[[rule]]
upcall = "module"
match.container = {}
deny = { reason = "modules are the host's business" }

[[rule]]
upcall = "module"
match.process = { user_namespace = "other" }
deny = { reason = "modules are the host's business" }
"#;

/// The hook is put back first, then the daemon ended, then the place removed.
pub(crate) struct ModuleScene {
    pub(crate) hook: HostModuleHook,
    pub(crate) daemon: Daemon,
    pub(crate) sandbox: Sandbox,
    /// Of tracefs, the daemon's among them.
    pub(crate) instances: usize,
}

impl ModuleScene {
    /// With these rules.
    pub(crate) fn new(rules: &str) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        sandbox.rules(rules)?;
        // So that it looks from its start on.
        std::fs::write(sandbox.hooks().join("module"), "")?;
        let daemon = Daemon::start_strict(&sandbox)?;
        let hook = HostModuleHook::borrow(&sandbox)?;
        // Most machines with modules that tests may have are emulated.
        hook.file(&sandbox, "deadline_ms = 10000")?;
        Ok(Self {
            hook,
            daemon,
            sandbox,
            instances: instances(),
        })
    }

    /// Makes the kernel want a module, on the host: what `module-me` printed, but for the time.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String> {
        let program = self.sandbox.path("bin/module-me");
        let output = command(program).args(words).output()?;
        Ok(answer(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The record of one request by this alias that fits.
    pub(crate) fn record(&self, alias: &str, fits: impl Fn(&Record) -> bool) -> Result<Record> {
        let of = |record: &Record| {
            let module = record.module.as_ref();
            module.is_some_and(|module| module.alias == alias) && fits(record)
        };
        let records = self.daemon.records();
        let record = records.wait_for(Duration::from_secs(30), alias, of);
        let record = record.with_context(|| self.daemon.log())?;
        assert_eq!(record.kind, "module");
        Ok(record)
    }

    /// Puts everything back, and looks whether it is.
    pub(crate) fn end(self) -> Result<()> {
        self.hook.put_back()?;
        self.daemon.stop(&self.sandbox)?;
        ensure!(
            instances() + 1 == self.instances,
            "an instance of tracefs is left"
        );
        Ok(())
    }
}

/// Instances of tracefs.
pub(crate) fn instances() -> usize {
    let there = std::fs::read_dir("/sys/kernel/tracing/instances");
    there.into_iter().flatten().count()
}

/// Makes the kernel want a module, in a container.
pub(crate) fn ask_in(container: &Container, words: &[&str]) -> Result<String> {
    let said = container.exec(&[&["/module-me"], words].concat())?;
    Ok(answer(&said))
}

/// The answer alone.
pub(crate) fn answer(said: &str) -> String {
    let answer = said.trim().rsplit_once(' ');
    answer.map_or(said, |(answer, _)| answer).to_owned()
}

/// What a record says about its module.
pub(crate) fn module(record: &Record) -> Result<&Module> {
    record.module.as_ref().context("a module")
}

/// Whether a module is loaded.
pub(crate) fn is_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists()
}

/// Unloads what a test had loaded, so that the next one finds it to be asked for.
pub(crate) fn unload(names: &[&str]) -> Result<()> {
    for name in names {
        // With it goes what it alone has needed, if nobody uses that at the moment.
        if is_loaded(name) {
            run(command("modprobe").args(["--remove", name]))?;
        }
        ensure!(!is_loaded(name), "{name} is still loaded");
    }
    Ok(())
}
