//! `make bench`: what upcalld costs, side by side with what the kernel and other handlers cost, in one run.
//!
//! Rounds go from handler to handler, so whatever else the machine does is shared by all of them. Figures are medians;
//! ratios are the median of the rounds' ratios. Nothing fails by the clock.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what it is for"
)]

mod crash;
mod idle;
mod key;
mod modules;
mod records;
mod refuse;
mod resolve;
mod shim;
mod stats;
mod store;
mod storm;

use std::process::ExitCode;

use anyhow::{Context, Result};
use upcall_e2e::programs::Programs;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mut programs = Programs {
        directory: std::path::PathBuf::new(),
        daemon: std::path::PathBuf::new(),
    };
    let (mut rounds, mut only) = (15, None);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--libexec" => programs.directory = std::path::absolute(value)?,
            "--daemon" => programs.daemon = std::path::absolute(value)?,
            "--rounds" => rounds = value.parse()?,
            "--only" => only = Some(value),
            _ => anyhow::bail!(
                "unknown option {word}; bench --libexec DIR --daemon PATH [--rounds N] [--only crash|shim|refuse|key|modules|storm|store|records|resolve|idle]"
            ),
        }
    }
    println!(
        "upcalld bench: medians of one run; {} processors\n",
        std::thread::available_parallelism()?
    );
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("crash") {
        crash::run(&programs, rounds)?;
    }
    if wanted("shim") {
        shim::run(&programs, rounds * 20)?;
    }
    if wanted("refuse") {
        refuse::run(&programs, rounds)?;
    }
    if wanted("key") {
        // More would be more keys than its container may have: the kernel forgets them after minutes.
        key::run(&programs, rounds.min(7))?;
    }
    if wanted("modules") {
        modules::run(&programs, rounds)?;
    }
    if wanted("storm") {
        storm::run(&programs, rounds)?;
    }
    if wanted("store") {
        store::run(&programs, rounds.min(9))?;
    }
    if wanted("records") {
        records::run(&programs)?;
    }
    if wanted("resolve") {
        resolve::run(&programs, rounds)?;
    }
    if wanted("idle") {
        idle::run(&programs)?;
    }
    Ok(())
}
