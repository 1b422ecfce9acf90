//! `upcallctl uninstall`: what stood in the kernel's hooks before us stands there again.

use serde::Serialize;
use upcall_config::text::printable;
use upcalld::explain;
use upcalld::hooks::install::{Uninstalled, uninstall};
use upcalld::hooks::key::Standing;
use upcalld::hooks::key::line::Lines;
use upcalld::hooks::module::Uninstalled as Modprobe;
use upcalld::hooks::umh::Standing as Helper;
use upcalld::store::space;

use crate::cli::{Hook, UninstallArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::install::{Sysctls, failed};
use crate::output::{print, print_json};

/// The word for a hook that never was ours.
const NOT_INSTALLED: &str = "not_installed";

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
    /// And of the module hook.
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'static str>,
    /// And of the static usermode helper.
    #[serde(skip_serializing_if = "Option::is_none")]
    umh: Option<&'static str>,
}

/// The JSON document of another hook alone.
#[derive(Serialize)]
struct OtherDocument {
    schema: &'static str,
    version: u32,
    hook: &'static str,
    /// `restored`, `lines_removed`, `foreign` or `not_installed`.
    state: &'static str,
}

/// What became of another hook than core.
struct Other {
    state: &'static str,
    text: String,
}

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &UninstallArgs) -> Result<(), Failure> {
    if asked.for_now && asked.hook != Some(Hook::Module) {
        return Err(Failure::Usage {
            what: "--for-now is for module".to_owned(),
            help: "without it".to_owned(),
        });
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Failure::root_only(context));
    }
    match asked.hook {
        Some(Hook::Core) => core(context, [None; 3]),
        Some(Hook::Key) => alone(context, "key", &key(context)?),
        Some(Hook::Module) => alone(context, "module", &module(context, asked.for_now)?),
        Some(Hook::Umh) => alone(context, "umh", &umh(context)?),
        None => {
            // One that cannot be given back is no reason to keep the others.
            let others = [key(context), module(context, false), umh(context)];
            core(context, others.each_ref().map(|other| other.as_ref().ok()))?;
            others.into_iter().try_for_each(|other| other.map(drop))
        }
    }
}

fn alone(context: &Context, hook: &'static str, other: &Other) -> Result<(), Failure> {
    if context.json.is_none() {
        return print(&other.text);
    }
    print_json(&OtherDocument {
        schema: "upcalld.uninstall",
        version: 1,
        hook,
        state: other.state,
    })
}

/// Gives /sbin/request-key back, or takes our lines out.
fn key(context: &Context) -> Result<Other, Failure> {
    let lines = context.key.lines();
    if let Lines::Ours(_) = lines.uninstall().map_err(Failure::InstallKey)? {
        let file = lines.path();
        let text = format!(
            "key: {} is removed; {} goes by what is left\n",
            file.display(),
            context.key.place().display()
        );
        let state = "lines_removed";
        return Ok(Other { state, text });
    }
    let installed = context.key.path().exists();
    let standing = context.key.uninstall().map_err(Failure::InstallKey)?;
    let place = context.key.place();
    let place = place.display();
    let (state, text) = match (standing, installed) {
        (Standing::Ours, _) => (
            "restored",
            format!("key: {place} is again what it was before us\n"),
        ),
        (_, true) => (
            "foreign",
            format!(
                "key: {place} was not ours any more and is left alone; our file about it is removed\n"
            ),
        ),
        (_, false) => (NOT_INSTALLED, "key: not installed\n".to_owned()),
    };
    Ok(Other { state, text })
}

/// Gives kernel.modprobe back.
fn module(context: &Context, for_now: bool) -> Result<Other, Failure> {
    let done = context.module.uninstall(for_now);
    let (state, text) = match done.map_err(Failure::InstallModule)? {
        Modprobe::Restored(value) => (
            "restored",
            format!(
                "module: kernel.modprobe is back to {}; read back\n",
                printable(&value)
            ),
        ),
        Modprobe::Foreign(value) => (
            "foreign",
            format!(
                "module: kernel.modprobe was not ours any more and is left alone: {}\n",
                shown(&value)
            ),
        ),
        Modprobe::NotInstalled => (NOT_INSTALLED, "module: not installed\n".to_owned()),
    };
    Ok(Other { state, text })
}

/// Takes the static usermode helper out.
fn umh(context: &Context) -> Result<Other, Failure> {
    let installed = context.umh.path().exists();
    let standing = context.umh.uninstall().map_err(Failure::InstallUmh)?;
    let place = context.umh.place().display();
    let (state, text) = match (standing, installed) {
        (Helper::Ours, _) => (
            "restored",
            format!("umh: {place} is removed; a kernel that wants it starts nothing now\n"),
        ),
        (_, true) => (
            "foreign",
            format!("umh: {place} was not ours any more; our file about it is removed\n"),
        ),
        (_, false) => (NOT_INSTALLED, "umh: not installed\n".to_owned()),
    };
    Ok(Other { state, text })
}

fn core(context: &Context, others: [Option<&Other>; 3]) -> Result<(), Failure> {
    let [key, module, umh] = others;
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
            key: key.map(|other| other.state),
            module: module.map(|other| other.state),
            umh: umh.map(|other| other.state),
        });
    }
    let others = others.into_iter().flatten();
    let others = others.filter(|other| other.state != NOT_INSTALLED);
    let others: String = others.map(|other| other.text.as_str()).collect();
    print(&(others + &text(&done) + &kept(context)))
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
