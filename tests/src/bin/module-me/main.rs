//! Makes the kernel want a module: what the tests of the module hook have in containers.
//!
//! `module-me [--threads N] [--times N] socket FAMILY` opens sockets of a family, by its number; `… fs NAME` asks for a
//! file system, which takes CAP_SYS_ADMIN in the own user namespace. `{}` in NAME is the number of the thread. Prints
//! `made` or `no ERROR` for the last one, and how many microseconds the slowest took; with `--each`, for one thread, `: ` and
//! how many each took.

mod sys;

use std::ffi::CString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;

#[expect(clippy::print_stdout, reason = "it is what the program is for")]
fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let each = words.first().is_some_and(|word| word == "--each");
    words.drain(..usize::from(each));
    let mut option = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        let value = words.drain(at..=at + 1).nth(1)?;
        value.parse::<u32>().ok()
    };
    let threads = option("--threads").unwrap_or(1);
    let times = option("--times").unwrap_or(1);
    if each {
        let took = (0..times).map(|_| {
            let start = Instant::now();
            // Each is refused, or there is none.
            let _ = ask(&words, 0);
            start.elapsed().as_micros().to_string()
        });
        println!("asked: {}", took.collect::<Vec<_>>().join(" "));
        return ExitCode::SUCCESS;
    }
    let started: Vec<_> = (0..threads)
        .map(|number| {
            let words = words.clone();
            std::thread::spawn(move || {
                let asked = (0..times).map(|_| {
                    let start = Instant::now();
                    (ask(&words, number), start.elapsed())
                });
                asked.reduce(|(_, slowest), (result, took)| (result, slowest.max(took)))
            })
        })
        .collect();
    let mut last = Err(Errno::EINVAL);
    let mut slowest = Duration::ZERO;
    for thread in started {
        if let Ok(Some((result, took))) = thread.join() {
            (last, slowest) = (result, slowest.max(took));
        }
    }
    let word = match last {
        Ok(()) => "made".to_owned(),
        Err(errno) => format!("no {errno:?}"),
    };
    println!("{word} {}", slowest.as_micros());
    ExitCode::SUCCESS
}

fn ask(words: &[String], number: u32) -> Result<(), Errno> {
    let [kind, what] = words else {
        return Err(Errno::EINVAL);
    };
    match kind.as_str() {
        "socket" => sys::socket(what.parse().map_err(|_| Errno::EINVAL)?),
        "fs" => {
            let name = what.replace("{}", &number.to_string());
            sys::fsopen(&CString::new(name).map_err(|_| Errno::EINVAL)?)
        }
        _ => Err(Errno::EINVAL),
    }
}
