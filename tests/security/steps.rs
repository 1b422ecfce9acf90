//! Attacks at every step of whoever enters: he is stopped behind each of his system calls, and the container goes at him.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use upcall_e2e::command::until;
use upcall_e2e::container::Container;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::leader::Leader;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcall_e2e::steps::{Followed, Step};
use upcalld::store::record::Outcome;

use super::entry::BOTH;
use crate::scene::{Scene, script};

/// One launch is held up for no longer: its keeper gives five seconds.
const HELD: Duration = Duration::from_secs(2);

/// What takes longer leaves steps out.
pub(super) const LONG: Duration = Duration::from_mins(1);

/// With a user namespace of its own, or without.
fn kind(name: &str, own: bool) -> Runc {
    let runc = Runc::new(name);
    if own { runc.user_namespace() } else { runc }
}

/// A process of the container's root that robs whom it is told to.
struct Robber {
    ask: File,
    answer: File,
}

impl Robber {
    fn start(container: &Container) -> Result<Self> {
        let open = |name: &str| -> Result<File> {
            let path = container.root().inside("/tmp").join(name);
            drop(std::fs::remove_file(&path));
            mkfifo(&path, Mode::empty())?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666))?;
            // Both sides of a FIFO, so that nobody waits for the other.
            let mut options = OpenOptions::new();
            options.custom_flags(OFlag::O_NONBLOCK.bits());
            Ok(options.read(true).write(true).open(path)?)
        };
        let robber = Self {
            ask: open("ask")?,
            answer: open("answer")?,
        };
        let rob = "exec /hostile rob - < /tmp/ask > /tmp/answer";
        container.spawn(&["/bin/sh", "-c", rob])?;
        Ok(robber)
    }

    /// What he gained of a process, by the host's number of it.
    fn rob(&mut self, pid: u32) -> Result<String> {
        let inside = Leader::read(pid)?.field("NSpid").to_owned();
        let inside = inside.split_whitespace().last().context("NSpid")?;
        writeln!(self.ask, "{inside}")?;
        let mut said = Vec::new();
        until(Duration::from_secs(5), "a robber's answer", || {
            drop(self.answer.read_to_end(&mut said));
            said.ends_with(b"\n").then_some(())
        })?;
        let said = String::from_utf8(said)?;
        let gained = said.trim_end().strip_prefix(inside);
        let gained = gained.and_then(|gained| gained.strip_prefix(':'));
        let gained = gained.with_context(|| format!("asked about {inside}, told {said}"))?;
        Ok(gained.trim().to_owned())
    }
}

/// Crashes of a container whose init is killed at a later step each time, and how many steps there were.
fn killed_at_every_step(scene: &Scene, own: bool, signal: &str) -> Result<usize> {
    let begun = Instant::now();
    let mut step = 1;
    loop {
        let name = format!("{signal}-{own}-{step}");
        let container = kind(&name, own).start(&scene.sandbox)?;
        let dump = CoreDump::of(container.init())?
            .bytes(1000)
            .word("%s", signal);
        let before = scene.ids();
        let keeper = scene.daemon.keeper()?;
        let (mut joiner, started) = Followed::child_of(keeper, || dump.start(&scene.sandbox))?;
        let mut over = false;
        for _ in 0..step {
            over = joiner.step()? != Step::Call;
            if over {
                break;
            }
        }
        container.kill()?;
        drop(joiner);
        started.wait()?;
        let record = scene
            .daemon
            .records()
            .wait("this dump", |r| !before.contains(&r.id))?;
        let run = action(&record, "run")?;
        assert_ne!(run.outcome, Outcome::Open, "at step {step}: {record:?}");
        container
            .ended()
            .with_context(|| format!("at step {step}"))?;
        if over {
            return Ok(step);
        }
        // Each system call has two sides, and one is enough; a slow machine tries some of them.
        step += if begun.elapsed() < LONG { 2 } else { 25 };
    }
}

#[test]
fn at_no_step_does_the_end_of_a_containers_init_leave_anything() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(BOTH)?;
    let descriptors = || {
        Ok::<_, std::io::Error>(
            std::fs::read_dir(format!("/proc/{}/fd", scene.daemon.pid()))?.count(),
        )
    };
    let before = descriptors()?;
    let steps = killed_at_every_step(&scene, true, "6")?;
    assert!(steps > 50, "{steps} steps");
    until(
        Duration::from_secs(5),
        "its descriptors to be closed",
        || (descriptors().ok()? <= before + 2).then_some(()),
    )?;
    scene.end()
}

/// Whoever has taken the container's ids or users, and has not executed yet, has no way out and not the kernel's pipe.
fn only_what_he_needs(pid: u32, container: &Container, pipe: &Path) -> Result<()> {
    let (joiner, init) = (Leader::read(pid)?, container.leader()?);
    let joined = joiner.namespaces.get("user") == init.namespaces.get("user");
    if !joined || joiner.field("NoNewPrivs") == "0" && container.name() == "plain" {
        return Ok(());
    }
    let file = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let root = file(container.root().path())?;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let to = std::fs::read_link(entry.path())?;
        assert_ne!(to, pipe, "the kernel's pipe");
        // A /proc of the host's, which is no way to the host's files without the right to trace.
        let own = to == Path::new("/proc") || file(&entry.path())? == root;
        let text = to.to_string_lossy();
        let known = ["pipe:", "anon_inode:", "/memfd:", "/dev/null", "/helper"];
        assert!(
            own || known.iter().any(|known| text.starts_with(known)),
            "{text}"
        );
    }
    Ok(())
}

/// Robs whoever enters at every one of his steps, and has him enter until none is left; how many there were.
fn at_every_step(scene: &Scene, container: &Container, signal: &str) -> Result<usize> {
    let mut robber = Robber::start(container)?;
    let dump = CoreDump::of(container.init())?
        .bytes(1000)
        .word("%s", signal);
    let (mut done, mut in_vain) = (0, 0);
    loop {
        let before = scene.ids();
        let keeper = scene.daemon.keeper()?;
        let (mut joiner, started) = Followed::child_of(keeper, || dump.start(&scene.sandbox))?;
        let pipe = std::fs::read_link(format!("/proc/{}/fd/0", started.shim()))?;
        let (begun, mut at) = (Instant::now(), 0);
        let (mut over, done_before) = (false, done);
        while begun.elapsed() < HELD {
            match joiner.step()? {
                Step::Call => at += 1,
                Step::Executed => {
                    over = true;
                    break;
                }
                // A slow machine was too slow for its keeper: once more from there.
                Step::Ended if at > done_before => break,
                Step::Ended => bail!("it ended at step {at}"),
            }
            only_what_he_needs(joiner.pid(), container, &pipe)?;
            if at > done {
                let gained = robber.rob(joiner.pid())?;
                assert_eq!(gained, "", "{}, {signal}, at step {at}", container.name());
                done = at;
            }
        }
        drop(joiner);
        started.wait()?;
        // Who was held up for too long may have been too late; the last one of all is not held up.
        let records = scene.daemon.records();
        records.wait("this dump", |r| !before.contains(&r.id))?;
        // One that does not get further in its time is as far as this machine gets.
        in_vain = if done == done_before { in_vain + 1 } else { 0 };
        if over || in_vain == 5 {
            let (record, _) = scene.dump(&dump)?;
            assert_eq!(record.outcome, Outcome::Done, "{record:?}");
            return Ok(done);
        }
    }
}

#[test]
fn at_no_step_can_a_container_look_into_whoever_enters_it() -> Result<()> {
    // CVE-2016-9962, and what everybody may read in /proc: the host's mounts and sockets.
    needs!(Root, Runc);
    let scene = Scene::new(BOTH)?;
    for own in [true, false] {
        let helper = script("/helper", "cat > /dev/null");
        let name = if own { "own" } else { "plain" };
        let container = kind(name, own).root(helper).start(&scene.sandbox)?;
        for signal in ["11", "6"] {
            let steps = at_every_step(&scene, &container, signal)?;
            assert!(steps > 50, "{steps} steps");
        }
    }
    scene.end()
}
