//! upcalld: the daemon. Everything is in the library; here is what a process needs around it.

use std::io::Write;
use std::process::ExitCode;

use upcalld::options::{Asked, Options};

fn main() -> ExitCode {
    let asked = match Options::parse(std::env::args_os().skip(1)) {
        Ok(asked) => asked,
        Err(error) => {
            say(&format!("error: {error}\n  help: upcalld --help\n"));
            return ExitCode::from(2);
        }
    };
    match asked {
        Asked::Print(text) => {
            drop(std::io::stdout().write_all(text.as_bytes()));
            ExitCode::SUCCESS
        }
        Asked::Start(options) => match upcalld::daemon::run(*options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("error: {error:#}\n"));
                ExitCode::FAILURE
            }
        },
    }
}

fn say(text: &str) {
    drop(std::io::stderr().write_all(text.as_bytes()));
}
