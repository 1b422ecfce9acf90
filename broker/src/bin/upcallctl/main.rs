//! upcallctl: what an admin asks upcalld, and how the kernel's hooks are put in and taken out.
//!
//! One file per command. A command makes its whole text with pure functions of plain data and hands it to
//! [`output`]; what goes wrong is a [`failure::Failure`], which knows its exit status and what helps. Nothing is
//! decided here: rules, records and hooks are the library's.

mod check;
mod cli;
mod client;
mod context;
mod cores;
mod doctor;
mod explain;
mod failure;
mod filter;
mod format;
mod generate;
mod install;
mod list;
mod look;
mod metrics;
mod modules;
mod newest;
mod output;
mod reload;
mod row;
mod self_test;
mod show;
mod since;
mod status;
mod table;
mod uninstall;
mod watch;

#[cfg(test)]
mod given;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use context::Context;
use failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, the rest is wrong usage; nobody may be there to read either.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let context = Context::new(&cli);
    match run(cli.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.text(&context));
            ExitCode::from(failure.status())
        }
    }
}

fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Status => status::run(context),
        Command::Doctor(asked) => doctor::run(context, &asked),
        Command::Metrics => metrics::run(context),
        Command::List(asked) => list::run(context, &asked),
        Command::Watch(filter) => watch::run(context, &filter),
        Command::Cores(asked) => cores::run(context, &asked),
        Command::Show { id } => show::run(context, &id),
        Command::Modules(asked) => modules::run(context, &asked),
        Command::Explain(asked) => explain::run(context, &asked),
        Command::Check { files } => check::run(context, &files),
        Command::Reload => reload::run(context),
        Command::Install(asked) => install::run(context, &asked),
        Command::Uninstall(asked) => uninstall::run(context, &asked),
        Command::Generate { what, directory } => generate::run(what, &directory),
        Command::LookAtCore(asked) => cores::worker::run(&asked),
        Command::SelfTestChild { hook } => self_test::child(hook),
    }
}
