//! What stands while the demo plays: a private place, the hook, the daemon, three containers; and its being taken down.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use upcall_e2e::command::{command, run};
use upcall_e2e::container::Container;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::hook::{self, HostHook};
use upcall_e2e::leader::Leader;
use upcall_e2e::podman::Podman;
use upcall_e2e::programs::Programs;
use upcall_e2e::records::Records;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;

use crate::options::Options;

/// Where everything is.
pub(crate) const PLACE: &str = "/run/upcalld-demo";

/// The rules, as they are shipped.
const RULES: &str = include_str!("../../../../config/defaults/examples/20-demo.toml");

/// The first container's helper.
const SCRIPT: &str = include_str!("on-crash.sh");

/// A container and what its init was, as long as it lived.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) container: Container,
    pub(crate) leader: Leader,
    /// The host's directory that is /cores in it.
    pub(crate) cores: std::path::PathBuf,
}

/// What stands. Taken down in the opposite order of the fields' making.
#[derive(Debug)]
pub(crate) struct Scene {
    hook: Option<HostHook>,
    pub(crate) stages: Vec<Stage>,
    daemon: Option<Daemon>,
    sandbox: Option<Sandbox>,
}

impl Scene {
    /// Nothing yet.
    pub(crate) fn empty() -> Self {
        Self {
            hook: None,
            stages: vec![],
            daemon: None,
            sandbox: None,
        }
    }

    pub(crate) fn sandbox(&self) -> Result<&Sandbox> {
        self.sandbox.as_ref().context("no place")
    }

    pub(crate) fn records(&self) -> Result<&Records> {
        Ok(self.daemon.as_ref().context("no daemon")?.records())
    }

    /// The container by this name.
    pub(crate) fn stage(&self, name: &str) -> Result<&Stage> {
        let found = self
            .stages
            .iter()
            .find(|stage| stage.container.name() == name);
        found.with_context(|| format!("no container {name}"))
    }

    /// Makes the place and starts the daemon in it.
    pub(crate) fn start_daemon(&mut self, options: &Options) -> Result<String> {
        let programs = Programs {
            directory: options.libexec.clone(),
            daemon: options.daemon.clone(),
        };
        let sandbox = Sandbox::at(PLACE.into(), programs)?;
        std::fs::write(sandbox.config().join("rules.d/20-demo.toml"), RULES)?;
        sandbox.program("upcall-probe", &sandbox.path("bin/demo-report"))?;
        let sandbox = self.sandbox.insert(sandbox);
        let daemon = self.daemon.insert(Daemon::start_strict(sandbox)?);
        let (pid, launcher) = (daemon.pid(), daemon.launcher());
        Ok(format!(
            "pid {pid}, launcher {launcher}, rules 20-demo.toml, state and sockets below {PLACE}"
        ))
    }

    /// Puts our hook in, as an admin does; that ends with a process crashing, to see that it is ours that the kernel
    /// calls.
    pub(crate) fn install_hook(&mut self) -> Result<String> {
        let hook = self.hook.insert(HostHook::borrow_quietly()?);
        let (pattern, limit) = (hook.pattern().to_owned(), hook.pipe_limit().to_owned());
        let said = run(self.sandbox()?.ctl().args(["install", "core"]))?;
        let (_, after) = said
            .split_once("after ")
            .context("no word of the self-test")?;
        let after = after.lines().next().unwrap_or_default();
        Ok(format!(
            "core_pattern was {pattern:?}, core_pipe_limit was {limit}; ours now, self-test recorded after {after}"
        ))
    }

    /// Starts the three containers, all at once.
    pub(crate) fn start_containers(&mut self) -> Result<String> {
        // What a killed demo may have left.
        for id in ["demo-userns", "demo-plain"] {
            drop(run(command("runc").args(["delete", "--force", id])));
        }
        drop(upcall_e2e::podman::remove("demo-podman"));
        let sandbox = self.sandbox.as_ref().context("no place")?;
        let volume = sandbox.path("podman-cores");
        std::fs::create_dir(&volume)?;
        std::os::unix::fs::chown(&volume, Some(200_000), Some(200_000))?;
        let mount = format!("--volume={}:/cores", volume.display());
        let userns = Runc::new("demo-userns")
            .id("demo-userns")
            .user_namespace()
            .root(|root| root.file("/on-crash.sh", SCRIPT, 0o755));
        let plain = Runc::new("demo-plain").id("demo-plain").root(|root| {
            Ok(std::fs::hard_link(
                root.inside("/probe"),
                root.inside("/on-crash"),
            )?)
        });
        let podman = Podman::new("demo-podman")
            .called("demo-podman")
            .user_namespace(200_000)
            .flag(&mount);
        let started = std::thread::scope(|scope| {
            let slow = scope.spawn(|| podman.start(sandbox));
            let fast = [userns.start(sandbox), plain.start(sandbox)];
            let slow = slow
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("podman's thread panicked")));
            fast.into_iter().chain([slow]).collect::<Vec<_>>()
        });
        // All that were started are taken over first, so that they are removed whatever comes.
        let started: Vec<Container> = {
            let (good, bad): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
            let good: Vec<Container> = good.into_iter().flatten().collect();
            if let Some(error) = bad.into_iter().find_map(Result::err) {
                return Err(error);
            }
            good
        };
        for container in started {
            let leader = container.leader()?;
            let cores = match container.name() {
                "demo-podman" => volume.clone(),
                _ => container.root().inside("/cores"),
            };
            self.stages.push(Stage {
                container,
                leader,
                cores,
            });
        }
        Ok(
            "demo-userns (runc, own user namespace)  demo-plain (runc, none)  \
            demo-podman (podman, own user namespace)"
                .to_owned(),
        )
    }

    /// Takes everything down, and says what is there again.
    pub(crate) fn put_back(&mut self) -> Result<String> {
        let mut wrong = None;
        let mut note = |result: Result<()>| {
            if let Err(error) = result {
                wrong.get_or_insert(error);
            }
        };
        let before = self.hook.take().map(|hook| {
            let before = (hook.pattern().to_owned(), hook.pipe_limit().to_owned());
            // As an admin does it; the guard looks after it.
            note(
                self.sandbox()
                    .and_then(|sandbox| run(sandbox.ctl().args(["uninstall", "core"])).map(drop)),
            );
            note(hook.put_back());
            before
        });
        let count = self.stages.len();
        self.stages.clear();
        if let (Some(daemon), Some(sandbox)) = (self.daemon.take(), &self.sandbox) {
            note(daemon.stop(sandbox));
        }
        drop(self.sandbox.take());
        if let Some(error) = wrong {
            return Err(error);
        }
        ensure!(!Path::new(PLACE).exists(), "{PLACE} is still there");
        let standing = hook::standing()?;
        if let Some(before) = before {
            ensure!(
                standing == before,
                "the hooks are {standing:?} and were {before:?}"
            );
        }
        let (pattern, limit) = standing;
        Ok(format!(
            "core_pattern {pattern:?}, core_pipe_limit {limit}, read back; {count} containers and all \
             directories removed, no process left"
        ))
    }
}
