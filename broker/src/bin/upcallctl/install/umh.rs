//! `upcallctl install umh`: our program becomes the one that the kernel starts for everything, if it is such a kernel; it
//! is tried, and goes out again if nothing comes.

use std::time::Duration;

use serde::Serialize;
use upcalld::hooks::umh::{Standing, UmhHook};

use super::{Unharmed, settled, test, tried};
use crate::cli::InstallArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::self_test;

/// The JSON document.
#[derive(Serialize)]
struct Document {
    schema: &'static str,
    version: u32,
    hook: &'static str,
    dry_run: bool,
    /// What the kernel starts.
    program: String,
    file: String,
    /// How long the record of the self-test took; `null`: there was none.
    self_test_us: Option<u64>,
}

/// Runs the command.
pub(super) fn run(context: &Context, asked: &InstallArgs) -> Result<(), Failure> {
    let hook = match &asked.path {
        Some(path) => context.umh.clone().at(path),
        None => context.umh.clone(),
    };
    if asked.if_ours && hook.standing() != Standing::Ours {
        return print("umh: not ours; nothing is done (--if-ours)\n");
    }
    if asked.dry_run {
        return answer(context, &hook, None, true);
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
    let (lock, before) = put_in().map_err(Failure::InstallUmh)?;
    let tried = test.map(self_test::Test::run_umh);
    let place = hook.place().display().to_string();
    let took = settled(context, tried, &place, || hook.undo(&before, &lock))?;
    drop(lock);
    answer(context, &hook, took, false)
}

fn text(context: &Context, hook: &UmhHook, took: Option<Duration>, dry_run: bool) -> String {
    let (place, file) = (hook.place().display(), hook.path());
    let file = file.display();
    if !dry_run {
        return format!(
            "umh: {place} is ours; {}\n     what the kernel starts is asked about (undo: {})\n",
            tried("caused one to be started", took),
            context.typed("uninstall umh")
        );
    }
    match hook.standing() {
        Standing::Ours => format!("{place}  ours (as it is)\n{file}  written again\n"),
        Standing::Nothing => format!("{place}  made: a link to the shim\n{file}  written\n"),
        Standing::Foreign => format!("{place}  somebody else's: it would be left\n"),
    }
}

fn answer(
    context: &Context,
    hook: &UmhHook,
    took: Option<Duration>,
    dry_run: bool,
) -> Result<(), Failure> {
    if context.json.is_none() {
        return print(&text(context, hook, took, dry_run));
    }
    print_json(&Document {
        schema: "upcalld.install",
        version: 1,
        hook: "umh",
        dry_run,
        program: hook.place().display().to_string(),
        file: hook.path().display().to_string(),
        self_test_us: took.and_then(|took| u64::try_from(took.as_micros()).ok()),
    })
}
