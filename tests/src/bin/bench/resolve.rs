//! What it costs to find a process's container: by runtime, and among a thousand.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use upcall_e2e::cgroup::{self, cgroup2};
use upcall_e2e::command::command;
use upcall_e2e::container::{Container, child_of, pid_of};
use upcall_e2e::containerd::Containerd;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::docker::Docker;
use upcall_e2e::hook::HostHook;
use upcall_e2e::lxc::{self, Lxc};
use upcall_e2e::nspawn::Machined;
use upcall_e2e::podman::Podman;
use upcall_e2e::programs::Programs;
use upcall_e2e::registered::{Registered, started};
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::skip::Need;
use upcalld::store::record::Record;

use crate::idle::number;
use crate::stats::median;

/// Nothing is done: it is the way there that is measured.
const RULE: &str = "[[rule]]\nupcall = \"core\"\ndeny = { reason = \"only measured\" }\n";

/// Containers of the host that has many.
const MANY: usize = 1000;

/// How deep the cgroup is of the process that nobody knows: as many components as are looked at.
const DEPTH: usize = 24;

/// A container, and the daemon of its runtime's that has to outlive it.
type Started = (Container, Option<Box<dyn Any>>);

pub(crate) fn run(programs: &Programs, rounds: usize) -> Result<()> {
    by_runtime(programs, rounds)?;
    among_many(programs, rounds)
}

fn by_runtime(programs: &Programs, rounds: usize) -> Result<()> {
    type Start = fn(&Sandbox) -> Result<Started>;
    let runtimes: [(&str, &[Need], Start); 7] = [
        ("runc", &[Need::Runc], |at| {
            Ok((Runc::new("runc").user_namespace().start(at)?, None))
        }),
        ("crun", &[Need::Crun], |at| {
            let crun = Runc::new("crun").user_namespace().crun();
            Ok((crun.start(at)?, None))
        }),
        ("podman", &[Need::Runc, Need::Podman], |at| {
            Ok((Podman::new("podman").start(at)?, None))
        }),
        ("docker", &[Need::Docker], |at| {
            let docker = Docker::start(at)?;
            let container = docker.run(at, "docker", &[])?;
            Ok((container, Some(Box::new(docker))))
        }),
        ("containerd", &[Need::Containerd], |at| {
            let containerd = Containerd::start(at)?;
            let container = containerd.run(at, "containerd", &[])?;
            Ok((container, Some(Box::new(containerd))))
        }),
        ("lxc", &[Need::Lxc], |at| {
            Ok((Lxc::new("lxc").user_namespace().start(at)?, None))
        }),
        ("nspawn", &[Need::Nspawn], |at| {
            let machined = Machined::start(at)?;
            let container = machined.run(at, "nspawn", &["--private-users=no"])?;
            machined.registered(container.id())?;
            Ok((container, Some(Box::new(machined))))
        }),
    ];
    let sandbox = Sandbox::at("/run/upcalld-one".into(), programs.clone())?;
    sandbox.rules(RULE)?;
    let settings = [
        Docker::SETTINGS,
        Containerd::SETTINGS,
        lxc::SETTINGS,
        Machined::SETTINGS,
    ];
    sandbox.settings(&settings.join("\n"))?;
    let daemon = Daemon::start_strict(&sandbox)?;
    println!("from a crash to its rule, by runtime, all of them looked for; {rounds} crashes each");
    println!("  {:<38} identify  resolve   decide", "");
    for (name, needs, start) in runtimes {
        if let Some(missing) = needs.iter().find_map(|need| need.missing()) {
            println!("  {name:<38} left out: {missing} is not installed");
            continue;
        }
        let (container, _keeps) = start(&sandbox)?;
        let hook = HostHook::borrow()?;
        hook.install(&sandbox)?;
        let records = crashes(&daemon, container.init(), rounds)?;
        hook.put_back()?;
        for record in &records {
            let found = record.container.as_ref();
            let right = found
                .is_some_and(|found| found.runtime == name && found.leader_pid == container.init());
            ensure!(right, "a crash in {name} is said to be of {found:?}");
        }
        println!(
            "  {name:<38} {:>5.0} us {:>5.0} us {:>5.0} us",
            middle(&records, |record| record.timings_us.identify),
            middle(&records, |record| record.timings_us.resolve),
            middle(&records, |record| record.timings_us.decide)
        );
    }
    println!();
    daemon.stop(&sandbox)
}

fn among_many(programs: &Programs, rounds: usize) -> Result<()> {
    if let Some(missing) = Need::Runc.missing() {
        println!("among {MANY} containers: left out: {missing} is not installed\n");
        return Ok(());
    }
    // Two daemons, of which one has a thousand containers to look through: the hook goes from one to the other.
    let few = host(programs, "/run/upcalld-one")?;
    let many = host(programs, "/run/upcalld-many")?;
    let container = Runc::new("real").user_namespace().start(&few)?;
    let state = Path::new("/run/runc")
        .join(container.id())
        .join("state.json");
    let state: Value = serde_json::from_slice(&std::fs::read(state)?)?;
    for sandbox in [&few, &many] {
        register(sandbox, container.id(), &state)?;
    }
    let crowd = Crowd::start(&many, &state)?;
    let stranger = Registered::unregistered(&few, "stranger")?;
    let mut deep = crowd.cgroup.clone();
    deep.extend((1..DEPTH).map(|depth| format!("deep-{depth}")));
    std::fs::create_dir_all(&deep)?;
    let neighbour = Registered::unregistered(&few, "neighbour")?;
    neighbour.move_here(&deep)?;
    for container in [&stranger, &neighbour] {
        // Its init gives that to its children.
        container.root().file("/dev/null", "", 0o644)?;
    }

    let hosts = [
        (&few, Daemon::start_strict(&few)?),
        (&many, Daemon::start_strict(&many)?),
    ];
    let ways = [
        ("a container's", container.init(), true),
        ("nobody's, in a cgroup of its own", stranger.init(), false),
        (
            "nobody's, deep beside the containers",
            neighbour.init(),
            false,
        ),
    ];
    println!("resolve, with one running container and with {MANY}, {rounds} crashes each");
    println!("  {:<38}        1 {MANY:>8}", "");
    let mut rows = ways.map(|_| [Vec::new(), Vec::new()]);
    let hook = HostHook::borrow()?;
    for _ in 0..rounds {
        for (host, (sandbox, daemon)) in hosts.iter().enumerate() {
            hook.install(sandbox)?;
            for ((name, init, known), row) in ways.iter().zip(&mut rows) {
                let records = crashes(daemon, *init, 1)?;
                for record in &records {
                    let found = record.container.as_ref().map(|found| found.leader_pid);
                    ensure!(
                        found == known.then_some(*init),
                        "{name} crash is said to be of {found:?}"
                    );
                }
                row.get_mut(host).context("a column")?.extend(records);
            }
        }
    }
    hook.put_back()?;
    for ((name, ..), row) in ways.iter().zip(&rows) {
        let [few, many] = row
            .each_ref()
            .map(|records| middle(records, |record| record.timings_us.resolve));
        println!("  {name:<38} {few:>5.0} us {many:>5.0} us");
    }
    let [few, many] = [resident(&hosts[0].1)?, resident(&hosts[1].1)?];
    let what = "the daemon's resident memory";
    println!("  {what:<37} {few:>5.1} MiB{many:>5.1} MiB\n");
    drop((container, stranger, neighbour, crowd));
    for (sandbox, daemon) in hosts {
        daemon.stop(sandbox)?;
    }
    Ok(())
}

/// MiB of a daemon's.
fn resident(daemon: &Daemon) -> Result<f64> {
    let status = format!("/proc/{}/status", daemon.pid());
    let kib = number(Path::new(&status), "VmRSS")?;
    Ok(f64::from(u32::try_from(kib)?) / 1024.0)
}

/// A place for a daemon, whose containers are all in a directory of its own.
fn host(programs: &Programs, place: &str) -> Result<Sandbox> {
    let sandbox = Sandbox::at(place.into(), programs.clone())?;
    // What a killed run left: this place's name is always the same.
    cgroup::sweep(sandbox.tag());
    sandbox.rules(RULE)?;
    sandbox.settings(Registered::SETTINGS)?;
    Ok(sandbox)
}

fn register(sandbox: &Sandbox, id: &str, state: &Value) -> Result<()> {
    let directory = sandbox.path("runc").join(id);
    std::fs::create_dir_all(&directory)?;
    Ok(std::fs::write(
        directory.join("state.json"),
        state.to_string(),
    )?)
}

/// Crashes children of a container's init, one after the other; what was recorded of them.
fn crashes(daemon: &Daemon, init: u32, count: usize) -> Result<Vec<Record>> {
    let crash = |_| {
        let pid = child_of(init)?;
        kill(pid_of(pid), Signal::SIGUSR1)?;
        daemon.records().of(pid)
    };
    (0..count).map(crash).collect()
}

/// The median of a step's microseconds.
fn middle(records: &[Record], step: impl Fn(&Record) -> Option<u64>) -> f64 {
    let times = records.iter().filter_map(step);
    let times = times.filter_map(|time| u32::try_from(time).ok());
    median(&times.map(f64::from).collect::<Vec<_>>())
}

/// Running containers that have all that a state needs: a live process each, in a cgroup of its own. Ended when dropped.
struct Crowd {
    tag: String,
    /// Above all of theirs.
    cgroup: PathBuf,
    members: Vec<Child>,
}

impl Crowd {
    /// One less than [`MANY`], whose states are this one but for what tells them apart.
    fn start(sandbox: &Sandbox, state: &Value) -> Result<Self> {
        let mounted = cgroup2().context("cgroup2 is not mounted")?;
        let mut crowd = Self {
            tag: sandbox.tag().to_owned(),
            cgroup: mounted.join(sandbox.tag()),
            members: Vec::new(),
        };
        let mut state = state.clone();
        for number in 1..MANY {
            let id = format!("{}-{number}", sandbox.tag());
            // A run that is killed takes them along.
            let mut member = command("setpriv");
            let member = member.args(["--pdeathsig=KILL", "--", "sleep", "100000"]);
            let member = member.spawn()?;
            let pid = member.id();
            crowd.members.push(member);
            let cgroup = crowd.cgroup.join(&id);
            std::fs::create_dir_all(&cgroup)?;
            std::fs::write(cgroup.join("cgroup.procs"), pid.to_string())?;
            let paths = state.get_mut("cgroup_paths").and_then(Value::as_object_mut);
            for path in paths.context("cgroup_paths")?.values_mut() {
                *path = cgroup.to_str().into();
            }
            for (key, value) in [
                ("id", Value::from(id.as_str())),
                ("init_process_pid", pid.into()),
                ("init_process_start", started(pid)?.into()),
            ] {
                *state.get_mut(key).context("not a state of runc's")? = value;
            }
            register(sandbox, &id, &state)?;
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for member in &mut self.members {
            drop(member.kill());
        }
        for member in &mut self.members {
            drop(member.wait());
        }
        cgroup::sweep(&self.tag);
    }
}
