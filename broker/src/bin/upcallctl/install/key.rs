//! `upcallctl install key`: our program goes to /sbin/request-key, or a line to it, is tried, and goes out again if it does
//! not work.

use std::time::Duration;

use serde::Serialize;
use upcalld::hooks::key::{KeyHook, Standing};

use super::{Unharmed, settled, test, tried};
use crate::cli::{InstallArgs, Mode};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::self_test;

mod line;

/// What the child of the self-test did.
const ASKED: &str = "asked for a key and got it";

/// The JSON document.
#[derive(Serialize)]
struct Document {
    schema: &'static str,
    version: u32,
    hook: &'static str,
    dry_run: bool,
    /// What the kernel starts.
    program: String,
    /// What that was before, and `pass` means now.
    previous: String,
    /// Whether dpkg is told.
    diverted: bool,
    file: String,
    /// How long the record of the self-test took; `null`: there was none.
    self_test_us: Option<u64>,
}

/// Runs the command.
pub(super) fn run(context: &Context, asked: &InstallArgs) -> Result<(), Failure> {
    let wrong = |what: &str, help: &str| {
        Err(Failure::Usage {
            what: what.to_owned(),
            help: help.to_owned(),
        })
    };
    match asked.mode {
        Mode::Pipe | Mode::Socket => wrong("this --mode is for core", "program or line"),
        Mode::Line => line::run(context, asked),
        Mode::Auto | Mode::Program if !asked.types.is_empty() => wrong(
            "--type goes with --mode line",
            "without it every key comes to upcalld",
        ),
        Mode::Auto | Mode::Program => program(context, asked),
    }
}

fn program(context: &Context, asked: &InstallArgs) -> Result<(), Failure> {
    let hook = &context.key;
    let standing = hook.standing();
    if asked.if_ours && standing != Standing::Ours {
        return print("key: not ours; nothing is done (--if-ours)\n");
    }
    if asked.dry_run {
        return answer(context, None, true, &dry(hook, &standing));
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Failure::root_only(context));
    }
    let test = test(context, asked)?;
    let _unharmed = Unharmed::new();
    let put_in = || {
        let lock = hook.lock()?;
        let before = hook.install(&lock)?;
        Ok((lock, before))
    };
    let (lock, before) = put_in().map_err(Failure::InstallKey)?;
    let place = hook.place().display().to_string();
    let tried = test.map(self_test::Test::run_key);
    let took = settled(context, tried, &place, || hook.undo(&before, &lock))?;
    drop(lock);
    answer(context, took, false, &done(context, took))
}

fn dry(hook: &KeyHook, standing: &Standing) -> String {
    let (place, was) = (hook.place(), hook.was());
    let (place, was) = (place.display(), was.display());
    let what = match standing {
        Standing::Ours => format!("{place}  ours (as it is)\n"),
        Standing::Nothing => format!("{place}  new: the shim; there is none now\n"),
        Standing::Another => format!("{place}  another upcalld's: it would be left\n"),
        Standing::Lost | Standing::Foreign => {
            format!("{place}  -> {was}, and the shim in its place\n")
        }
    };
    let told = if hook.is_diverted() {
        "dpkg-divert       --local --no-rename, so that upgrades leave it\n"
    } else {
        "no dpkg           an upgrade of keyutils may take it back\n"
    };
    let file = hook.path();
    format!(
        "{what}{told}{}  written: socket, `pass` means {was}\n",
        file.display()
    )
}

fn done(context: &Context, took: Option<Duration>) -> String {
    let tried = tried(ASKED, took);
    format!(
        "key: ours; {tried}\n     `pass` means {} (undo: {})\n",
        context.key.was().display(),
        context.typed("uninstall key")
    )
}

fn answer(
    context: &Context,
    took: Option<Duration>,
    dry_run: bool,
    text: &str,
) -> Result<(), Failure> {
    let hook = &context.key;
    if context.json.is_none() {
        return print(text);
    }
    print_json(&Document {
        schema: "upcalld.install",
        version: 1,
        hook: "key",
        dry_run,
        program: hook.place().display().to_string(),
        previous: hook.was().display().to_string(),
        diverted: hook.is_diverted(),
        file: hook.path().display().to_string(),
        self_test_us: took.and_then(|took| u64::try_from(took.as_micros()).ok()),
    })
}
