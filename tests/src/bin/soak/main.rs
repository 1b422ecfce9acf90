//! `make soak`: crashes, keys, restarts, reloads and new containers in an order that a seed gives, and at the end a
//! comparison of what was done with what the records say. A difference is a failure.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what it is for"
)]

mod ledger;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use upcall_e2e::programs::Programs;
use world::{Step, World};

/// How often it says how far it is.
const EVERY: Duration = Duration::from_secs(30);

/// What happens, and how often among a hundred steps.
const STEPS: [(u64, Step); 10] = [
    (20, Step::HostCrash),
    (32, Step::Crash),
    (6, Step::Burst),
    (14, Step::HostKey),
    (12, Step::Key),
    (5, Step::Reload),
    (4, Step::Restart),
    (3, Step::Kill),
    (2, Step::NewContainer),
    (2, Step::OtherWay),
];

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How many upcalls are not told as they were.
fn run() -> Result<u64> {
    let mut words = std::env::args().skip(1);
    let mut programs = Programs {
        directory: std::path::PathBuf::new(),
        daemon: std::path::PathBuf::new(),
    };
    let (mut seconds, mut seed) = (600, 1);
    while let Some(word) = words.next() {
        let value = words.next();
        let value = value.with_context(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--libexec" => programs.directory = std::path::absolute(value)?,
            "--daemon" => programs.daemon = std::path::absolute(value)?,
            "--seconds" => seconds = value.parse()?,
            "--seed" => seed = value.parse()?,
            _ => anyhow::bail!(
                "unknown option {word}; soak --libexec DIR --daemon PATH [--seconds N] [--seed N]"
            ),
        }
    }
    let mut dice = Dice(seed);
    let mut world = World::new(&programs)?;
    println!("soak: {seconds} s, seed {seed}");
    let (start, mut said) = (Instant::now(), Instant::now());
    while start.elapsed() < Duration::from_secs(seconds) {
        let mut number = dice.below(100);
        let step = STEPS.iter().find(|(share, _)| {
            let here = number < *share;
            number = number.saturating_sub(*share);
            here
        });
        let (_, step) = step.context("the shares make a hundred")?;
        world
            .step(*step, dice.next())
            .with_context(|| format!("{step:?} after {:.0?}", start.elapsed()))?;
        if said.elapsed() > EVERY {
            said = Instant::now();
            eprintln!("  {:>4.0?}  {}", start.elapsed(), world.ledger.summary());
        }
    }
    world.end()
}

/// Numbers in an order that the seed gives (xorshift64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
