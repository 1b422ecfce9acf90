//! demo: the program behind `make demo`.
//!
//! Nine processes really crash, in three containers, in a namespace that nobody registered, and on the host. What came
//! of each is shown, compared with what should have, and everything is put back: also when something fails, and on
//! Ctrl-C. `make demo` builds and installs before; here nothing is installed.

mod crashes;
mod expected;
mod inside;
mod options;
mod scene;
mod table;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use upcall_e2e::sys;

use crate::options::Options;
use crate::scene::Scene;
use crate::table::Style;

/// Exit codes, as of every program of upcalld's.
const NOT_AS_EXPECTED: u8 = 1;
const USAGE: u8 = 2;
const NOT_PERMITTED: u8 = 5;
const CANNOT: u8 = 6;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => return fail(USAGE, &wrong, "demo --help"),
    };
    if options.help {
        say(options::HELP);
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::Uid::effective().is_root() {
        return fail(
            NOT_PERMITTED,
            "the demo changes core_pattern for a moment",
            "as root: make demo",
        );
    }
    if let Err(error) = sys::note_interrupts() {
        return fail(CANNOT, &format!("sigaction: {error}"), "make check");
    }
    match run(&options) {
        Ok(Ended::AsExpected) => ExitCode::SUCCESS,
        Ok(Ended::Otherwise) => ExitCode::from(NOT_AS_EXPECTED),
        Ok(Ended::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => fail(CANNOT, &format!("{error:#}"), "make check says more"),
    }
}

/// How the demo ended, with everything put back.
enum Ended {
    AsExpected,
    Otherwise,
    Interrupted,
}

/// Plays the whole demo.
fn run(options: &Options) -> Result<Ended> {
    let start = Instant::now();
    let style = Style::of_this_terminal(options.colour);
    let tell = |line: &str| {
        if !options.json {
            say(&format!("{line}\n"));
        }
    };
    tell("upcalld demo: nine real crashes; everything is put back at the end, also on Ctrl-C");
    tell(&format!("  built      {}", options.built()));
    tell(&format!("  packages   {}", options.packages()));
    let mut scene = Scene::empty();
    let played = play(&mut scene, options, &tell);
    if let Ok(rows) = &played {
        if options.json {
            say(&table::json(rows));
        } else {
            say(&table::crashes(rows, style));
            say(&table::helpers(rows, style));
            say(&table::cores(rows));
        }
    }
    let interrupted = sys::settle();
    let put_back = scene.put_back();
    match &put_back {
        Ok(line) => tell(&format!("  put back   {line}")),
        Err(error) => tell(&format!("  put back   {} {error:#}", style.no())),
    }
    if interrupted {
        tell("interrupted");
        return put_back.map(|_| Ended::Interrupted);
    }
    let rows = played?;
    let right = rows.iter().filter(|row| row.wrong.is_none()).count();
    let (ended, next) = if right == rows.len() {
        (
            Ended::AsExpected,
            "Next: make check; your first rule is in README.md",
        )
    } else {
        (
            Ended::Otherwise,
            "What the others say after their sign is wrong",
        )
    };
    tell(&format!(
        "{right} of {} as expected, {:.1} s. {next}",
        rows.len(),
        start.elapsed().as_secs_f64()
    ));
    put_back.map(|_| ended)
}

fn play(scene: &mut Scene, options: &Options, tell: &dyn Fn(&str)) -> Result<Vec<expected::Row>> {
    tell(&format!("  daemon     {}", scene.start_daemon(options)?));
    tell(&format!("  hook       {}", scene.install_hook()?));
    tell(&format!("  started    {}", scene.start_containers()?));
    tell("");
    let crashes = crashes::all(scene)?;
    expected::compare(scene, &crashes)
}

/// To standard output, whoever reads it.
fn say(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}

fn fail(code: u8, what: &str, help: &str) -> ExitCode {
    let text = format!("error: {what}\n  help: {help}\n");
    drop(std::io::stderr().write_all(text.as_bytes()));
    ExitCode::from(code)
}
