//! The daemon, the containers and the host in which it happens.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use upcall_e2e::command::{command, until};
use upcall_e2e::container::{Container, runs};
use upcall_e2e::daemon::{Daemon, Sockets};
use upcall_e2e::hook::HostHook;
use upcall_e2e::key_hook::HostKeyHook;
use upcall_e2e::programs::Programs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::skip::Need;
use upcalld::hooks::install::Mode;
use upcalld::linux::connector::{Connector, Event};

use crate::ledger::{Got, Ledger};

/// The payload of every key that is given.
const GIVEN: &str = "soaked";

/// Crashes of one burst.
const BURST: u64 = 10;

/// Containers that there are at a time.
const CONTAINERS: usize = 3;

const RULES: &str = r#"
[[rule]]
upcall = "core"
match.container = {}
run = { in = "container", command = ["/helper", "{pid}"], timeout = "10s" }
store = { ignore_limit = true, max_size = "128KiB" }

[[rule]]
upcall = "core"
match.process = { comm = "soak-*" }
store = { ignore_limit = true, max_size = "128KiB" }

[[rule]]
upcall = "key"
match.key = { type = "user", description = "soak-*" }
answer = { payload = "soaked", ttl = "1m" }
"#;

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    HostCrash,
    Crash,
    Burst,
    HostKey,
    Key,
    Reload,
    /// The daemon is asked to end, and another one is started.
    Restart,
    /// The daemon is killed, and another one is started.
    Kill,
    NewContainer,
    /// The kernel calls by its socket from now on, or by the pipe again, where it can do both.
    OtherWay,
}

/// A container, and who is to crash in it.
struct Tenant {
    container: Container,
    crashing: Vec<u32>,
}

pub(crate) struct World {
    pub(crate) ledger: Ledger,
    tenants: Vec<Tenant>,
    /// Processes of ours on the host that crash.
    crashing: Vec<Child>,
    /// What the kernel says of core dumps, whoever handles them.
    events: Arc<AtomicU64>,
    by_socket: bool,
    daemon: Option<Daemon>,
    sockets: Sockets,
    keys: HostKeyHook,
    hook: HostHook,
    sandbox: Sandbox,
}

impl World {
    pub(crate) fn new(programs: &Programs) -> Result<Self> {
        let sandbox = Sandbox::at("/run/upcalld-soak".into(), programs.clone())?;
        sandbox.rules(RULES)?;
        for name in ["crash-me", "key-me"] {
            sandbox.program(name, &sandbox.path("bin").join(name))?;
        }
        let hook = HostHook::borrow()?;
        let sockets = Sockets::listen(&sandbox)?;
        let daemon = Daemon::start_activated(&sandbox, &sockets)?;
        hook.install_as(&sandbox, Mode::Pipe)?;
        let mut world = Self {
            ledger: Ledger::default(),
            tenants: Vec::new(),
            crashing: Vec::new(),
            events: count_events()?,
            by_socket: false,
            daemon: Some(daemon),
            sockets,
            keys: HostKeyHook::beside(&hook, &sandbox)?,
            hook,
            sandbox,
        };
        while world.tenants.len() < CONTAINERS {
            world.add_container()?;
        }
        Ok(world)
    }

    fn add_container(&mut self) -> Result<()> {
        self.ledger.containers += 1;
        let name = format!("soak{}", self.ledger.containers);
        let runc = Runc::new(&name).user_namespace().root(|root| {
            let text = "#!/bin/sh\nexec cat >/dev/null\n";
            root.file("/helper", text, 0o755)
        });
        let container = runc.start(&self.sandbox)?;
        let crashing = Vec::new();
        self.tenants.push(Tenant {
            container,
            crashing,
        });
        Ok(())
    }

    /// Does one thing; `chance` chooses where.
    pub(crate) fn step(&mut self, step: Step, chance: u64) -> Result<()> {
        let place = usize::try_from(chance % CONTAINERS as u64)?;
        match step {
            Step::HostCrash => self.crash_on_the_host(),
            Step::Crash => self.crash(place, 1),
            Step::Burst => self.crash(place, BURST),
            Step::HostKey => self.ask(None),
            Step::Key => self.ask(Some(place)),
            Step::Reload => self.reload(),
            Step::Restart => self.restart(false),
            Step::Kill => self.restart(true),
            Step::NewContainer => self.renew(place),
            Step::OtherWay => self.call_the_other_way(),
        }
    }

    fn crash_on_the_host(&mut self) -> Result<()> {
        let name = self.ledger.name();
        let mut crash = command(self.sandbox.path("bin/crash-me"));
        crash.arg(format!("--name={name}"));
        self.crashing.push(crash.stderr(Stdio::null()).spawn()?);
        self.ledger.crash(&name, 1, self.by_socket);
        self.crashing
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        Ok(())
    }

    fn crash(&mut self, place: usize, times: u64) -> Result<()> {
        let name = self.ledger.name();
        let tenant = self.tenants.get_mut(place).context("a container")?;
        let (name_word, times_word) = (format!("--name={name}"), format!("--times={times}"));
        let mut words = vec!["/crash-me", &name_word];
        if times > 1 {
            words.push(&times_word);
        }
        // A process keeps its session keyring until it is reaped, and its user has room for 200.
        tenant.container.reap();
        tenant.crashing.retain(|pid| runs(*pid));
        tenant.crashing.push(tenant.container.spawn(&words)?);
        self.ledger.crash(&name, times, self.by_socket);
        Ok(())
    }

    fn ask(&mut self, place: Option<usize>) -> Result<()> {
        let name = self.ledger.name();
        let said = if let Some(place) = place {
            let tenant = self.tenants.get(place).context("a container")?;
            let line = format!("/key-me user {name} x; :");
            tenant.container.exec(&["/bin/sh", "-c", &line])?
        } else {
            let mut ask = command(self.sandbox.path("bin/key-me"));
            let output = ask.args(["user", &name, "x"]).output()?;
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let given = said.trim() == format!("key {GIVEN}");
        anyhow::ensure!(given || said.starts_with("no "), "{said}");
        self.ledger
            .key(&name, if given { Got::Key } else { Got::Nothing });
        Ok(())
    }

    fn reload(&mut self) -> Result<()> {
        self.ledger.reloads += 1;
        let text = format!("{RULES}# {}\n", self.ledger.reloads);
        self.sandbox.rules(&text)?;
        self.daemon
            .as_ref()
            .context("a daemon")?
            .signal(Signal::SIGHUP)
    }

    fn restart(&mut self, killed: bool) -> Result<()> {
        let daemon = self.daemon.take().context("a daemon")?;
        if killed {
            self.ledger.kills += 1;
            daemon.kill()?;
        } else {
            self.ledger.restarts += 1;
            daemon.ends()?;
        }
        self.daemon = Some(Daemon::start_activated(&self.sandbox, &self.sockets)?);
        Ok(())
    }

    fn call_the_other_way(&mut self) -> Result<()> {
        self.by_socket = !self.by_socket && Need::CoreSocket.missing().is_none();
        let mode = if self.by_socket {
            Mode::Socket
        } else {
            Mode::Pipe
        };
        self.hook.install_as(&self.sandbox, mode)
    }

    /// Another container in the place of one, when everybody in it has crashed who should.
    fn renew(&mut self, place: usize) -> Result<()> {
        let tenant = self.tenants.swap_remove(place);
        crashed(&tenant.crashing)?;
        drop(tenant);
        self.add_container()
    }

    /// Waits until all is done, puts everything back, compares and says so.
    pub(crate) fn end(mut self) -> Result<u64> {
        for tenant in &self.tenants {
            crashed(&tenant.crashing)?;
        }
        for child in &mut self.crashing {
            child.wait()?;
        }
        let daemon = self.daemon.take().context("a daemon")?;
        let records = || daemon.records().all();
        // The spool is looked at within seconds, and records that stand for several are written after ten.
        let settled = until(Duration::from_secs(40), "the last records", || {
            (self.ledger.compare(&records()).difference == 0).then_some(())
        });
        drop(settled);
        let compared = self.ledger.compare(&records());
        let events = self.events.load(Ordering::Relaxed);
        let summary = self.ledger.summary();
        let (cores, log) = (self.ledger.cores(), daemon.log());
        self.tenants.clear();
        self.keys.put_back()?;
        self.hook.put_back()?;
        let left = daemon.stop(&self.sandbox);
        println!("  {summary}");
        println!("  records          {:?}", compared.outcomes);
        println!(
            "  core dumps       {cores} by the ledger, {events} by the kernel's process events"
        );
        println!(
            "  daemon killed    over {} keys, which say so",
            compared.unsure
        );
        println!("  difference       {}", compared.difference);
        for line in compared.which.iter().take(20) {
            println!("    {line}");
        }
        if compared.difference > 0 {
            eprintln!("{log}");
        }
        left.context("afterwards")?;
        println!("  left behind      nothing");
        Ok(compared.difference)
    }
}

/// Waits until these have crashed and are gone.
fn crashed(pids: &[u32]) -> Result<()> {
    until(Duration::from_secs(30), "the end of what crashed", || {
        pids.iter().all(|pid| !runs(*pid)).then_some(())
    })
}

/// Counts the kernel's own events, in a thread that ends with us.
fn count_events() -> Result<Arc<AtomicU64>> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let connector = runtime.block_on(Connector::open())?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            while let Ok(event) = connector.next().await {
                counted.fetch_add(
                    u64::from(matches!(event, Event::Core(_))),
                    Ordering::Relaxed,
                );
            }
        });
    });
    Ok(count)
}
