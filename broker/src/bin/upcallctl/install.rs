//! `upcallctl install core`: our hook goes in, is tried, and goes out again if it does not work.

use nix::sys::signal::{SigSet, SigmaskHow};
use upcall_config::text::printable;
use upcalld::hooks::errno_name;
use upcalld::hooks::install::{InstallError, Installation, Wishes};
use upcalld::hooks::sysctl_d::SysctlD;

use crate::cli::InstallArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{complain, print, print_json};
use crate::self_test;

mod report;

pub(crate) use report::Sysctls;

/// Signals of an impatient admin wait while the hook is half in: something must be left to put it back.
struct Unharmed(SigSet);

impl Unharmed {
    fn new() -> Self {
        // Which signals were blocked before; a failure leaves all as they are.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
        Self(before.unwrap_or_else(|_| SigSet::empty()))
    }
}

impl Drop for Unharmed {
    fn drop(&mut self) {
        let _ = self.0.thread_set_mask();
    }
}

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &InstallArgs) -> Result<(), Failure> {
    if asked.dry_run {
        let planned = Installation::plan(&context.sysctl, &wishes(context));
        let planned = planned.map_err(|error| failed(context, error))?;
        return answer(
            context,
            &report::document(&planned, None, true),
            &report::dry(context, &planned),
        );
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Failure::root_only(context));
    }
    // Before anything is changed: without a daemon there would be nothing to try.
    let test = if asked.no_self_test {
        None
    } else {
        Some(self_test::Test::prepare(context)?)
    };
    let _unharmed = Unharmed::new();
    let lock = context.sysctl.lock();
    let lock = lock.map_err(|error| failed(context, error.into()))?;
    let planned = Installation::plan(&context.sysctl, &wishes(context));
    let planned = planned.map_err(|error| failed(context, error))?;
    planned
        .apply(&context.sysctl, &lock)
        .map_err(|error| failed(context, error))?;
    let took = match test.map(|test| test.run(context)) {
        None => None,
        Some(Ok(took)) => Some(took),
        Some(Err(problem)) => {
            let now = context.sysctl.read();
            let undone = planned.undo(&context.sysctl, &lock);
            let now = now.ok().map(|now| now.pattern);
            let changed = now.filter(|now| *now != planned.ours.pattern);
            let changed = changed.map(|now| printable(now.text()));
            return Err(report::self_test_failed(
                context,
                &planned,
                &problem,
                changed,
                undone.err(),
            ));
        }
    };
    if let Some(file) = &context.sysctl_d {
        keep(file, &planned);
    }
    drop(lock);
    answer(
        context,
        &report::document(&planned, took, false),
        &report::done(context, &planned, took),
    )
}

/// What cannot be kept is no failure: the hook is in, and looked after by the daemon.
fn keep(file: &SysctlD, planned: &Installation) {
    if let Err(error) = file.keep(&planned.ours) {
        let (path, error) = (file.path().display(), errno_name(&error));
        complain(&format!(
            "warning: {path}: {error}; when systemd-sysctl runs, the hook may be another's\n"
        ));
    }
}

fn wishes(context: &Context) -> Wishes {
    let daemon = context.daemon().map(|daemon| daemon.keep_free);
    let keep_free = daemon.unwrap_or_else(|| {
        upcall_config::file::load(&context.config)
            .settings
            .store
            .keep_free
    });
    Wishes::usual(
        &context.libexec,
        &context.hooks,
        &context.run,
        &context.state,
        keep_free,
    )
}

/// What is not permitted is no question of the hook.
pub(crate) fn failed(context: &Context, error: InstallError) -> Failure {
    use upcalld::hooks::file::HookFileError::Write;
    use upcalld::hooks::sysctl::SysctlError::Io;
    let source = match &error {
        InstallError::Sysctl(Io { source, .. }) | InstallError::File(Write { source, .. }) => {
            source
        }
        InstallError::Sysctl(_)
        | InstallError::File(_)
        | InstallError::Pattern(_)
        | InstallError::PreviousUnknown(_)
        | InstallError::Program { .. }
        | InstallError::Another(_) => return Failure::Install(error),
    };
    if source.kind() == std::io::ErrorKind::PermissionDenied {
        Failure::root_only(context)
    } else {
        Failure::Install(error)
    }
}

fn answer(context: &Context, document: &report::Document<'_>, text: &str) -> Result<(), Failure> {
    if context.json.is_some() {
        print_json(document)
    } else {
        print(text)
    }
}
