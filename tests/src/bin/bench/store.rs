//! How fast a large core is kept: 1 GiB, a quarter of it random and the rest zero, through a pipe as large as the kernel's,
//! written as fast as it is taken; beside what others do with it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use upcall_e2e::command::{command, pause};
use upcall_e2e::programs::Programs;

use crate::idle::number;
use crate::stats::Row;

/// What is written at once; a core comes in runs of pages.
const PART: usize = 64 << 10;
/// Parts of one core.
const PARTS: usize = (1 << 30) / PART;
/// Parts that are alike: a MiB of noise, then three of zeros.
const RUN: usize = (1 << 20) / PART;
/// Where cores are kept meanwhile: a real file system.
const DIRECTORY: &str = "/var/tmp/upcalld-bench";

/// One contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Drain,
    Cat,
    Zstd,
    Plain,
    Packed,
    PackedAndRun,
}

const WAYS: [(Way, &str); 6] = [
    (Way::Drain, "read and thrown away"),
    (Way::Cat, "cat > file"),
    (Way::Zstd, "zstd -1 > file"),
    (Way::Plain, "upcall-store, compress = none"),
    (Way::Packed, "upcall-store, compress = zstd"),
    (Way::PackedAndRun, "the same, and a helper beside it"),
];

pub(crate) fn run(programs: &Programs, rounds: usize) -> Result<()> {
    let place = Place::new(programs)?;
    let noise = noise()?;
    let mut rows = WAYS.map(|(_, name)| Row::new(name));
    let mut most = 0;
    for _ in 0..rounds {
        for ((way, _), row) in WAYS.iter().zip(&mut rows) {
            let (time, memory) = place.one(*way, &noise)?;
            row.rounds.push(vec![time.as_secs_f64() * 1000.0]);
            most = most.max(memory);
        }
    }
    println!("keeping a core of 1 GiB, a quarter of it random, {rounds} rounds");
    for row in &rows {
        let median = crate::stats::median(&row.all());
        println!("  {:<38} {:>7.0} MiB/s", row.name, 1024.0 * 1000.0 / median);
    }
    let [_, cat, zstd, plain, packed, both] = &rows;
    // Of times: how many times as fast.
    println!(
        "  none to cat                            {:.2}",
        cat.ratio(plain)
    );
    println!(
        "  zstd to zstd -1                        {:.2}",
        zstd.ratio(packed)
    );
    println!(
        "  with a helper to without               {:.2}",
        packed.ratio(both)
    );
    println!(
        "  upcall-store's most resident memory    {:.1} MiB\n",
        f64::from(u32::try_from(most)?) / 1024.0
    );
    Ok(())
}

/// A MiB that nothing makes smaller.
fn noise() -> Result<Vec<u8>> {
    let mut noise = vec![0; PART * RUN];
    std::io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut noise)?;
    Ok(noise)
}

/// The directory, gone when it is over.
struct Place {
    store: PathBuf,
    directory: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

impl Place {
    fn new(programs: &Programs) -> Result<Self> {
        let place = Self {
            store: programs.directory.join("upcall-store"),
            directory: DIRECTORY.into(),
        };
        std::fs::create_dir_all(&place.directory)?;
        Ok(place)
    }

    /// How long one takes, and the most resident memory of the storing worker, in KiB.
    fn one(&self, way: Way, noise: &[u8]) -> Result<(Duration, u64)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(1 << 20))?;
        let mut commands = self.commands(way)?;
        let first = commands.first_mut().context("a program")?;
        first.stdin(Stdio::from(read));
        let start = Instant::now();
        let mut children = commands
            .iter_mut()
            .map(Command::spawn)
            .collect::<std::io::Result<Vec<Child>>>()?;
        // The read end in the command is ours as well, and would keep the pipe open.
        drop(commands);
        write_core(File::from(write), noise)?;
        let memory = match way {
            Way::Plain | Way::Packed | Way::PackedAndRun => watch(&mut children)?,
            Way::Drain | Way::Cat | Way::Zstd => 0,
        };
        for child in &mut children {
            ensure!(child.wait()?.success(), "{way:?}");
        }
        let time = start.elapsed();
        for file in std::fs::read_dir(&self.directory)? {
            std::fs::remove_file(file?.path())?;
        }
        Ok((time, memory))
    }

    fn commands(&self, way: Way) -> Result<Vec<Command>> {
        let to_file = |mut command: Command| -> Result<Vec<Command>> {
            command.stdout(File::create(self.directory.join("core"))?);
            Ok(vec![command])
        };
        let mut cat = command("cat");
        match way {
            Way::Drain => {
                cat.stdout(Stdio::null());
                Ok(vec![cat])
            }
            Way::Cat => to_file(cat),
            Way::Zstd => {
                let mut zstd = command("zstd");
                zstd.args(["-q", "-1"]);
                to_file(zstd)
            }
            Way::Plain => Ok(vec![self.store("", "")]),
            Way::Packed => Ok(vec![self.store("zstd=1", "")]),
            Way::PackedAndRun => {
                let fifo = self.directory.join("feed");
                nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
                // Both ends wait for each other.
                cat.arg(&fifo).stdout(Stdio::null());
                Ok(vec![self.store("zstd=1", "6>feed"), cat])
            }
        }
    }

    /// As the launcher starts it: descriptors by their numbers, which a shell can say.
    fn store(&self, format: &str, feed: &str) -> Command {
        let script = format!(
            "exec \"$0\" id=aaaaaaaa slot=1 name=core max_size=99999999999 keep_free=0 {format} \
             3<. 4>/dev/null 5>>record {feed}"
        );
        let mut shell = command("/bin/sh");
        shell.arg("-c").arg(script).arg(&self.store);
        shell.current_dir(&self.directory);
        shell
    }
}

fn write_core(mut pipe: File, noise: &[u8]) -> Result<()> {
    let zeros = vec![0; PART];
    for part in 0..PARTS {
        let inside = part % RUN;
        let bytes = match part / RUN % 4 {
            0 => noise
                .get(inside * PART..(inside + 1) * PART)
                .context("noise")?,
            _ => &zeros,
        };
        pipe.write_all(bytes)?;
    }
    Ok(())
}

/// The most memory of the first until it ends.
fn watch(children: &mut [Child]) -> Result<u64> {
    let child = children.first_mut().context("a child")?;
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait()?.is_none() {
        // It may end meanwhile; then it has no memory any more.
        most = most.max(number(Path::new(&status), "VmHWM").unwrap_or(0));
        pause(Duration::from_millis(1));
    }
    Ok(most)
}
