//! crash-me: what lives, and crashes, in the containers of the tests and the demo.
//!
//! Started as `init` it is a container's PID 1: SIGUSR1 crashes it, SIGUSR2 starts a child that waits to crash, SIGTERM
//! ends it; it reaps what is left to it. By any other name it crashes, in the way its words say. `--wait` waits for
//! SIGUSR1 first, so that somebody outside can learn its pid.

mod hostile;
mod receiver;
mod sys;

use std::ffi::CString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::prctl::{set_dumpable, set_name};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Uid, chdir, chroot, setuid};

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match std::path::Path::new(&name)
        .file_name()
        .map(OsStrExt::as_bytes)
    {
        Some(b"init") => init(&words),
        Some(b"hostile") => hostile::run(&words),
        Some(b"receiver") => receiver::run(&words),
        _ => victim(&words),
    }
}

/// A container's PID 1.
fn init(words: &[String]) -> ExitCode {
    let signals: SigSet = [
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGCHLD,
        Signal::SIGTERM,
    ]
    .into_iter()
    .collect();
    let Some(signals) = block(&signals) else {
        return ExitCode::FAILURE;
    };
    loop {
        match next(&signals) {
            Some(Signal::SIGUSR1) => victim(&without_wait(words)),
            Some(Signal::SIGUSR2) => start_child(),
            Some(Signal::SIGTERM) | None => return ExitCode::SUCCESS,
            Some(_) => {
                reap();
                continue;
            }
        };
    }
}

fn without_wait(words: &[String]) -> Vec<String> {
    words
        .iter()
        .filter(|word| *word != "--wait")
        .cloned()
        .collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the daemon's rule; this is no daemon"
)]
fn start_child() -> ExitCode {
    let started = Command::new("/crash-me")
        .arg("--wait")
        .stdin(Stdio::null())
        .spawn();
    started.map_or(ExitCode::FAILURE, |_| ExitCode::SUCCESS)
}

fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Something that crashes.
fn victim(words: &[String]) -> ExitCode {
    let mut memory = Vec::new();
    let (mut threads, mut leader_exits, mut times, mut waiting) = (0_u32, false, None, false);
    let (mut in_thread, mut name) = (false, None);
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = value.parse::<u64>().unwrap_or(0);
        match key {
            "--wait" => waiting = true,
            "--mib" => memory = vec![0x5a_u8; usize::try_from(number << 20).unwrap_or(0)],
            "--sparse-gib" if sys::sparse(number << 30).is_ok() => {}
            "--mappings" if sys::mappings(number).is_ok() => {}
            "--threads" => threads = u32::try_from(number).unwrap_or(0),
            "--leader-exits" => leader_exits = true,
            "--in-thread" => in_thread = true,
            "--name" => name = Some(value),
            "--uid" => drop(setuid(Uid::from_raw(u32::try_from(number).unwrap_or(0)))),
            "--chroot" => drop(chroot(value).and_then(|()| chdir("/"))),
            "--undumpable" => drop(set_dumpable(false).ok()),
            "--core-limit" => drop(setrlimit(Resource::RLIMIT_CORE, number, number)),
            "--times" => times = Some(number),
            _ => return ExitCode::from(2),
        }
    }
    if waiting {
        wait();
    }
    if let Some(times) = times {
        return burst(times, name);
    }
    if let Some(name) = name.and_then(|name| CString::new(name).ok()) {
        let _ = set_name(&name);
    }
    for _ in 0..threads {
        std::thread::spawn(std::thread::park);
    }
    if leader_exits {
        std::thread::spawn(|| {
            pause(Duration::from_millis(100));
            sys::crash()
        });
        sys::end_this_thread()
    }
    if in_thread {
        std::thread::spawn(|| sys::crash());
        loop {
            std::thread::park();
        }
    }
    std::hint::black_box(&memory);
    sys::crash()
}

fn wait() {
    let signals: SigSet = [Signal::SIGUSR1].into_iter().collect();
    if let Some(signals) = block(&signals) {
        next(&signals);
    }
}

/// Blocks signals, to be read one by one. Not sigwait(3): while it waits, /proc shows its signals as not blocked.
fn block(signals: &SigSet) -> Option<SignalFd> {
    signals.thread_block().ok()?;
    SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC).ok()
}

fn next(signals: &SignalFd) -> Option<Signal> {
    let signal = signals.read_signal().ok()??;
    Signal::try_from(signal.ssi_signo.cast_signed()).ok()
}

/// Crashes so many times, a few children at a time, by this name; prints how many dumped core.
#[expect(
    clippy::disallowed_methods,
    reason = "the daemon's rule; this is no daemon"
)]
fn burst(times: u64, name: Option<&str>) -> ExitCode {
    const AT_ONCE: usize = 8;
    let mut dumped = 0;
    let mut running = Vec::new();
    let mut reap = |child: &mut std::process::Child| {
        use std::os::unix::process::ExitStatusExt;
        dumped += u64::from(child.wait().is_ok_and(|status| status.core_dumped()));
    };
    for _ in 0..times {
        if running.len() == AT_ONCE {
            reap(&mut running.remove(0));
        }
        let name = name.map(|name| format!("--name={name}"));
        match Command::new("/crash-me").args(name).spawn() {
            Ok(child) => running.push(child),
            Err(_) => return ExitCode::FAILURE,
        }
    }
    running.iter_mut().for_each(&mut reap);
    let line = format!("{dumped} of {times} dumped core\n");
    drop(std::io::stdout().write_all(line.as_bytes()));
    ExitCode::SUCCESS
}

#[expect(
    clippy::disallowed_methods,
    reason = "the daemon's rule; this is no daemon"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
