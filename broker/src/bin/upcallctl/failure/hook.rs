//! What to do about a hook that cannot be put in or taken out.

use upcalld::hooks::install::InstallError;
use upcalld::hooks::key::KeyHookError;
use upcalld::hooks::key::line::LineError;
use upcalld::hooks::module::ModuleHookError;
use upcalld::hooks::sysctl::SysctlError;
use upcalld::hooks::umh::UmhHookError;

use crate::context::Context;

const PROGRAM: &str = "make install, or name the directory it is in with --libexec";

/// The core hook.
pub(super) fn core(error: &InstallError, context: &Context) -> Option<String> {
    let core_pattern = "put back by hand what stood there, as in: echo core > \
                        /proc/sys/kernel/core_pattern";
    Some(match error {
        InstallError::Pattern(_) => "shorter directories for --libexec and --config".to_owned(),
        InstallError::Program { .. } => PROGRAM.to_owned(),
        InstallError::PreviousUnknown(_) => {
            format!("{core_pattern}; then {}", context.typed("install core"))
        }
        InstallError::Another(pattern) => {
            let hooks = pattern.hooks_directory();
            let config = hooks.as_deref().and_then(std::path::Path::parent);
            let config = config.map_or("DIR".into(), |config| config.display().to_string());
            format!("upcallctl --config {config} uninstall core; if that is gone, {core_pattern}")
        }
        InstallError::Sysctl(SysctlError::ReadBack { .. }) => writer("core_pattern"),
        InstallError::File(_)
        | InstallError::Lock(_)
        | InstallError::Sysctl(SysctlError::Io { .. }) => return None,
    })
}

/// The key hook.
pub(super) fn key(error: &KeyHookError, context: &Context) -> Option<String> {
    Some(match error {
        KeyHookError::Shim(_) => PROGRAM.to_owned(),
        KeyHookError::Another(_) => another("key"),
        KeyHookError::Divert(_) => {
            "dpkg-divert --list '*request-key*' says who else wants it".to_owned()
        }
        KeyHookError::Line(error) => lines_help(error, context),
        KeyHookError::File(_) | KeyHookError::Lock(_) | KeyHookError::Name(_) => return None,
    })
}

/// The module hook.
pub(super) fn module(error: &ModuleHookError) -> Option<String> {
    Some(match error {
        ModuleHookError::Shim(_) => PROGRAM.to_owned(),
        ModuleHookError::Another(_) => another("module"),
        ModuleHookError::Disabled(_) => {
            "if it is to load modules again: sysctl kernel.modprobe=/sbin/modprobe; then again"
                .to_owned()
        }
        ModuleHookError::Sysctl(SysctlError::ReadBack { .. }) => writer("kernel.modprobe"),
        ModuleHookError::Sysctl(SysctlError::Io { .. })
        | ModuleHookError::File(_)
        | ModuleHookError::Lock(_)
        | ModuleHookError::Script(_)
        | ModuleHookError::NoModules => return None,
    })
}

/// The static usermode helper.
pub(super) fn umh(error: &UmhHookError) -> Option<String> {
    Some(match error {
        UmhHookError::Shim(_) => PROGRAM.to_owned(),
        UmhHookError::Taken(path) => {
            format!(
                "if it is not needed: mv {0} {0}.old; then again",
                path.display()
            )
        }
        UmhHookError::Elsewhere(_) => "without --config".to_owned(),
        UmhHookError::File(_) | UmhHookError::Link(_) | UmhHookError::Lock(_) => return None,
    })
}

fn another(hook: &str) -> String {
    format!("upcallctl with that one's --config, uninstall {hook}; then again")
}

fn writer(setting: &str) -> String {
    format!("something else writes it at once: grep -r {setting} /etc/sysctl.d /usr/lib/sysctl.d")
}

/// What to do where lines of request-key.conf cannot be put in.
fn lines_help(error: &LineError, context: &Context) -> String {
    match error {
        LineError::Both(_) | LineError::Lost(_) => format!("{} first", context.typed("uninstall key")),
        LineError::Taken(path) => format!("move it away: mv {} /root", path.display()),
        LineError::Long => "fewer types".to_owned(),
        LineError::Type(_) => "as in --type dns_resolver".to_owned(),
        LineError::Path(_) => "other directories for --libexec and --config".to_owned(),
        LineError::Pipe { .. } => "leave that type out (--type), or --mode program".to_owned(),
        LineError::Preferred { .. } => {
            "grep -r create /etc/request-key.conf /etc/request-key.d; take that line out, or leave that type out (--type)"
                .to_owned()
        }
        LineError::Oracle(_) => "is keyutils installed?".to_owned(),
    }
}
