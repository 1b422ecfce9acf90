//! `upcallctl install`: our hook goes in, is tried, and goes out again if it does not work.

use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use upcall_config::text::printable;
use upcalld::control::Status;
use upcalld::hooks::errno_name;
use upcalld::hooks::install::{InstallError, Installation, Mode, Wishes};
use upcalld::hooks::lock::{Lock, LockError};
use upcalld::hooks::sysctl_d::SysctlD;

use crate::cli::{self, InstallArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::output::{complain, print, print_json};
use crate::self_test;

mod key;
mod module;
mod report;
mod umh;

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
    let only = |option: &str, hook: &str| Failure::Usage {
        what: format!("--{option} is for {hook}"),
        help: "without it".to_owned(),
    };
    if asked.mode != cli::Mode::Auto && !matches!(asked.hook, cli::Hook::Core | cli::Hook::Key) {
        return Err(only("mode", "core and key"));
    }
    if asked.again && asked.hook != cli::Hook::Module {
        return Err(only("again", "module"));
    }
    if asked.path.is_some() && asked.hook != cli::Hook::Umh {
        return Err(only("path", "umh"));
    }
    match asked.hook {
        cli::Hook::Core => core(context, asked),
        cli::Hook::Key => key::run(context, asked),
        cli::Hook::Module => module::run(context, asked),
        cli::Hook::Umh => umh::run(context, asked),
    }
}

/// Before anything is changed: without a daemon there would be nothing to try.
fn test(context: &Context, asked: &InstallArgs) -> Result<Option<self_test::Test>, Failure> {
    let test = (!asked.no_self_test).then(|| self_test::Test::prepare(context));
    test.transpose()
}

/// What was tried works, and it says how long that took; or what was put in is taken out again.
fn settled<E: std::fmt::Display>(
    context: &Context,
    tried: Option<Result<Duration, self_test::Problem>>,
    place: &str,
    undo: impl FnOnce() -> Result<(), E>,
) -> Result<Option<Duration>, Failure> {
    let problem = match tried {
        None => return Ok(None),
        Some(Ok(took)) => return Ok(Some(took)),
        Some(Err(problem)) => problem,
    };
    let what = match undo() {
        Ok(()) => format!("{problem}; {place} is what it was again"),
        Err(error) => format!("{problem}; and {place} could not be put back: {error}"),
    };
    Err(Failure::SelfTest {
        what,
        notes: Vec::new(),
        help: format!(
            "journalctl -u upcalld -n 20; is {} this upcalld's?",
            context.run.display()
        ),
    })
}

/// What is said of a self-test: `did` is what the child did.
fn tried(did: &str, took: Option<Duration>) -> String {
    let Some(took) = took else {
        return "not tried (--no-self-test)".to_owned();
    };
    let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    format!(
        "self-test: a child of this command {did}, its record came after {}",
        format::duration(took)
    )
}

fn core(context: &Context, asked: &InstallArgs) -> Result<(), Failure> {
    let ours = context.sysctl.read();
    if asked.if_ours && !ours.is_ok_and(|ours| ours.pattern.is_of(&context.hooks)) {
        return print("core: not ours; nothing is done (--if-ours)\n");
    }
    let daemon = context.daemon();
    let choice = Choice::new(context, asked.mode, daemon.as_ref())?;
    let wishes = wishes(context, daemon.as_ref());
    if asked.dry_run {
        let planned = Installation::plan(&context.sysctl, &by(&wishes, choice.first));
        let planned = planned.map_err(|error| failed(context, error))?;
        return answer(
            context,
            &report::document(&planned, None, true),
            &report::dry(context, &planned, choice.note.as_deref()),
        );
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Failure::root_only(context));
    }
    // Before anything is changed: without a daemon there would be nothing to try.
    let tried = !asked.no_self_test;
    let mut test = tried
        .then(|| self_test::Test::prepare(context))
        .transpose()?;
    let _unharmed = Unharmed::new();
    let lock = context.sysctl.lock();
    let lock = lock.map_err(|error| failed(context, error.into()))?;
    let mut note = choice.note.clone();
    let mut put_in = put_in(context, &by(&wishes, choice.first), test.take(), &lock);
    if let (Err(failure), Some(other)) = (&put_in, choice.otherwise) {
        note = Some(match other {
            Mode::PlainSocket => format!("the kernel does not ask first: {failure}"),
            Mode::Pipe | Mode::Socket => format!("not in socket mode: {failure}"),
        });
        test = tried
            .then(|| self_test::Test::prepare(context))
            .transpose()?;
        put_in = self::put_in(context, &by(&wishes, other), test, &lock);
    }
    let (planned, took) = put_in?;
    if let Some(file) = &context.sysctl_d {
        keep(file, &planned);
    }
    drop(lock);
    answer(
        context,
        &report::document(&planned, took, false),
        &report::done(context, &planned, took, note.as_deref()),
    )
}

/// Which way first, which way if that does not work, and why not a better one.
struct Choice {
    first: Mode,
    otherwise: Option<Mode>,
    note: Option<String>,
}

impl Choice {
    fn new(context: &Context, asked: cli::Mode, daemon: Option<&Status>) -> Result<Self, Failure> {
        let kernel = context.sysctl.has_socket();
        let listens = daemon.map(|daemon| daemon.kernel_socket.as_deref());
        let pipe = |note: Option<&str>| Self {
            first: Mode::Pipe,
            otherwise: None,
            note: note.map(str::to_owned),
        };
        let kept = "upcalld.socket keeps no socket for the kernel, and without one crashes would be lost while upcalld \
                    is started again";
        Ok(match (asked, kernel, listens) {
            (cli::Mode::Program | cli::Mode::Line, ..) => {
                return Err(Failure::Usage {
                    what: "this --mode is for keys".to_owned(),
                    help: "auto, pipe or socket".to_owned(),
                });
            }
            (cli::Mode::Pipe, ..) => pipe(None),
            (cli::Mode::Auto, Err(why), _) => pipe(Some(&format!("not in socket mode: {why}"))),
            (cli::Mode::Auto, Ok(()), Some(Some("kept"))) => Self {
                first: Mode::Socket,
                otherwise: Some(Mode::Pipe),
                note: None,
            },
            (cli::Mode::Auto, Ok(()), Some(_)) => {
                pipe(Some(&format!("not in socket mode: {kept}")))
            }
            (cli::Mode::Auto, Ok(()), None) => {
                pipe(Some("not in socket mode: upcalld does not run"))
            }
            (cli::Mode::Socket, Err(why), _) => return Err(Failure::NoSocket { why }),
            (cli::Mode::Socket, Ok(()), listens) => Self {
                first: Mode::Socket,
                // A kernel between 6.16 and 6.17 does not ask.
                otherwise: Some(Mode::PlainSocket),
                note: (listens != Some(Some("kept"))).then(|| format!("take care: {kept}")),
            },
        })
    }
}

fn by(wishes: &Wishes, mode: Mode) -> Wishes {
    Wishes {
        mode,
        ..wishes.clone()
    }
}

/// Puts it in and tries it; what does not work is out again.
fn put_in(
    context: &Context,
    wishes: &Wishes,
    test: Option<self_test::Test>,
    lock: &Lock,
) -> Result<(Installation, Option<Duration>), Failure> {
    let planned = Installation::plan(&context.sysctl, wishes);
    let planned = planned.map_err(|error| failed(context, error))?;
    planned
        .apply(&context.sysctl, lock)
        .map_err(|error| failed(context, error))?;
    let problem = match test.map(|test| test.run(context)) {
        None => return Ok((planned, None)),
        Some(Ok(took)) => return Ok((planned, Some(took))),
        Some(Err(problem)) => problem,
    };
    let now = context.sysctl.read();
    let undone = planned.undo(&context.sysctl, lock);
    let now = now.ok().map(|now| now.pattern);
    let changed = now.filter(|now| *now != planned.ours.pattern);
    let changed = changed.map(|now| printable(now.text()));
    Err(report::self_test_failed(
        context,
        &planned,
        &problem,
        changed,
        undone.err(),
    ))
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

fn wishes(context: &Context, daemon: Option<&Status>) -> Wishes {
    let keep_free = daemon.map(|daemon| daemon.keep_free);
    let keep_free = keep_free.unwrap_or_else(|| {
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
        InstallError::Sysctl(Io { source, .. })
        | InstallError::File(Write { source, .. })
        | InstallError::Lock(LockError::Io { source, .. }) => source,
        InstallError::Sysctl(_)
        | InstallError::Lock(LockError::Busy(_))
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
