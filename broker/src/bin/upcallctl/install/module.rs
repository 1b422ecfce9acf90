//! `upcallctl install module`: our program goes into kernel.modprobe, is tried, and goes out again if it does not work.

use std::time::Duration;

use serde::Serialize;
use upcall_config::text::printable;
use upcalld::hooks::module::{ModuleHook, ModuleHookError, Standing};

use super::{Unharmed, settled, test, tried};
use crate::cli::InstallArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::self_test;

/// The kernel's setting, as people call it.
const SETTING: &str = "kernel.modprobe";

/// The JSON document.
#[derive(Serialize)]
struct Document {
    schema: &'static str,
    version: u32,
    hook: &'static str,
    dry_run: bool,
    /// What the kernel starts.
    program: String,
    /// What stood there before.
    previous: Option<String>,
    file: String,
    /// How long the record of the self-test took; `null`: there was none.
    self_test_us: Option<u64>,
}

/// Runs the command.
pub(super) fn run(context: &Context, asked: &InstallArgs) -> Result<(), Failure> {
    let hook = &context.module;
    let standing = hook.standing();
    let standing = standing.map_err(|error| Failure::InstallModule(error.into()))?;
    if asked.if_ours && standing != Standing::Ours {
        return print("module: not ours; nothing is done (--if-ours)\n");
    }
    if asked.again && !hook.is_wanted() {
        return print("module: it was not in; nothing is done (--again)\n");
    }
    if asked.dry_run {
        return answer(context, None, true, &dry(hook, &standing));
    }
    if standing == Standing::NoModules {
        return Err(Failure::InstallModule(ModuleHookError::NoModules));
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
    let (lock, before) = put_in().map_err(Failure::InstallModule)?;
    let tried = test.map(self_test::Test::run_module);
    let took = settled(context, tried, SETTING, || hook.undo(&before, &lock))?;
    drop(lock);
    answer(context, took, false, &done(context, took))
}

fn dry(hook: &ModuleHook, standing: &Standing) -> String {
    let ours = hook.ours();
    let ours = ours.display();
    let file = hook.path();
    let file = file.display();
    let written = |previous: &str| {
        let previous = printable(previous);
        format!(
            "{SETTING}  {previous} -> {ours}\n{file}  written: socket, `pass` means {previous}\n"
        )
    };
    match standing {
        Standing::Ours => format!("{SETTING}  {ours} (as it is)\n{file}  written again\n"),
        Standing::Another(value) => {
            format!(
                "{SETTING}  {}, another upcalld's: it would be left\n",
                printable(value)
            )
        }
        Standing::NoModules => format!("{SETTING}  is not there: this kernel has no modules\n"),
        Standing::Foreign(value) if value.starts_with('/') => written(value),
        Standing::Foreign(value) => format!(
            "{SETTING}  \"{}\": this kernel loads nothing by itself, and would be left so\n",
            printable(value)
        ),
    }
}

fn done(context: &Context, took: Option<Duration>) -> String {
    let program = context.module.program();
    format!(
        "module: ours; {}\n        `pass` means {} (undo: {})\n",
        tried("asked for a module", took),
        printable(&program.to_string_lossy()),
        context.typed("uninstall module")
    )
}

fn answer(
    context: &Context,
    took: Option<Duration>,
    dry_run: bool,
    text: &str,
) -> Result<(), Failure> {
    let hook = &context.module;
    if context.json.is_none() {
        return print(text);
    }
    let standing = match hook.standing() {
        Ok(Standing::Foreign(value) | Standing::Another(value)) => Some(value),
        Ok(Standing::Ours | Standing::NoModules) | Err(_) => hook.previous(),
    };
    print_json(&Document {
        schema: "upcalld.install",
        version: 1,
        hook: "module",
        dry_run,
        program: hook.ours().display().to_string(),
        previous: standing,
        file: hook.path().display().to_string(),
        self_test_us: took.and_then(|took| u64::try_from(took.as_micros()).ok()),
    })
}
