//! `upcallctl uninstall`: what stood in the kernel's hooks before us stands there again.

use serde::Serialize;
use upcall_config::text::printable;
use upcalld::explain;
use upcalld::hooks::install::{Uninstalled, uninstall};
use upcalld::hooks::key::Standing;
use upcalld::hooks::key::line::Lines;
use upcalld::store::space;

use crate::cli::Hook;
use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::install::{Sysctls, failed};
use crate::output::{print, print_json};

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    hook: &'static str,
    /// `restored` or `foreign`.
    state: &'static str,
    /// What stands there now.
    current: Sysctls<'a>,
    /// What became of the key hook, where that was asked for too.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'static str>,
}

/// The JSON document of the key hook alone.
#[derive(Serialize)]
struct KeyDocument {
    schema: &'static str,
    version: u32,
    hook: &'static str,
    /// `restored`, `lines_removed`, `foreign` or `not_installed`.
    state: &'static str,
}

/// Runs the command.
pub(crate) fn run(context: &Context, hook: Option<Hook>) -> Result<(), Failure> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Failure::root_only(context));
    }
    let key = match hook {
        Some(Hook::Core) => None,
        None | Some(Hook::Key) => Some(key(context)),
    };
    match (hook, key) {
        (Some(Hook::Key), Some(state)) if context.json.is_some() => print_json(&KeyDocument {
            schema: "upcalld.uninstall",
            version: 1,
            hook: "key",
            state: state?,
        }),
        (Some(Hook::Key), Some(state)) => print(&key_text(context, state?)),
        // One that cannot be given back is no reason to keep the other.
        (_, Some(Err(error))) => core(context, None).and(Err(error)),
        (_, key) => core(context, key.and_then(Result::ok)),
    }
}

/// Gives /sbin/request-key back, or takes our lines out; says what became of it.
fn key(context: &Context) -> Result<&'static str, Failure> {
    let lines = context.key.lines().uninstall();
    if let Lines::Ours(_) = lines.map_err(Failure::InstallKey)? {
        return Ok("lines_removed");
    }
    let installed = context.key.path().exists();
    let standing = context.key.uninstall().map_err(Failure::InstallKey)?;
    Ok(match (standing, installed) {
        (Standing::Ours, _) => "restored",
        (_, true) => "foreign",
        (_, false) => "not_installed",
    })
}

fn key_text(context: &Context, state: &str) -> String {
    let place = context.key.place();
    let place = place.display();
    match state {
        "lines_removed" => {
            let file = context.key.lines().path();
            format!(
                "key: {} is removed; {place} goes by what is left\n",
                file.display()
            )
        }
        "restored" => format!("key: {place} is again what it was before us\n"),
        "foreign" => format!(
            "key: {place} was not ours any more and is left alone; our file about it is removed\n"
        ),
        _ => "key: not installed\n".to_owned(),
    }
}

fn core(context: &Context, key: Option<&'static str>) -> Result<(), Failure> {
    let lock = context.sysctl.lock();
    let lock = lock.map_err(|error| failed(context, error.into()))?;
    if let Some(file) = &context.sysctl_d {
        let path = file.path().to_owned();
        file.remove()
            .map_err(|source| Failure::File { path, source })?;
    }
    let done = uninstall(&context.sysctl, &context.hooks, &lock);
    let done = done.map_err(|error| failed(context, error))?;
    drop(lock);
    if context.json.is_some() {
        let (state, standing) = match &done {
            Uninstalled::Restored(standing) => ("restored", standing),
            Uninstalled::Foreign { standing, .. } => ("foreign", standing),
        };
        return print_json(&Document {
            schema: "upcalld.uninstall",
            version: 1,
            hook: "core",
            state,
            current: standing.into(),
            key,
        });
    }
    let key = key.filter(|state| *state != "not_installed");
    let key = key.map(|state| key_text(context, state));
    print(&(key.unwrap_or_default() + &text(&done) + &kept(context)))
}

fn text(done: &Uninstalled) -> String {
    match done {
        Uninstalled::Restored(standing) => format!(
            "core: back to {}, core_pipe_limit {}; read back\n",
            shown(standing.pattern.text()),
            standing.pipe_limit
        ),
        Uninstalled::Foreign { standing, had_file } => {
            let pattern = shown(standing.pattern.text());
            if *had_file {
                format!(
                    "core: foreign, and left alone: {pattern}, core_pipe_limit {}; \
                     our own file about it is removed\n",
                    standing.pipe_limit
                )
            } else {
                format!("core: not installed; core_pattern is {pattern}\n")
            }
        }
    }
}

/// An empty pattern is one too.
fn shown(pattern: &str) -> String {
    if pattern.is_empty() {
        "\"\"".to_owned()
    } else {
        printable(pattern)
    }
}

/// What stays.
fn kept(context: &Context) -> String {
    let cores = space::kept(&explain::cores(&context.state)).map_or(0, |kept| kept.cores);
    let spooled = space::kept(&context.state.join("spool")).map_or(0, |kept| kept.cores);
    let records = context
        .records()
        .entries()
        .map_or(0, |entries| entries.len());
    let spooled = match spooled {
        0 => String::new(),
        spooled => format!(", {} in the spool", format::count(spooled, "core")),
    };
    format!(
        "kept: {}{spooled}, {}, your rules\n",
        format::count(cores, "core"),
        format::count(records, "record")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use upcalld::hooks::pattern::Pattern;
    use upcalld::hooks::sysctl::Standing;

    #[test]
    fn what_was_done() {
        let standing = |pattern: &str| Standing {
            pattern: Pattern::parse(pattern),
            pipe_limit: 16,
        };
        let foreign = |had_file| Uninstalled::Foreign {
            standing: standing("|/usr/share/apport/apport -p%p"),
            had_file,
        };
        let texts = [
            text(&Uninstalled::Restored(standing(
                "|/usr/lib/systemd/systemd-coredump %P",
            ))),
            text(&Uninstalled::Restored(standing(""))),
            text(&foreign(true)),
            text(&foreign(false)),
        ];
        insta::assert_snapshot!(texts.concat());
    }
}
