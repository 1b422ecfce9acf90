//! What is said about an installation: what would be done, what was, and why it went wrong.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use upcall_config::text::printable;
use upcalld::explain;
use upcalld::hooks::file::CoreHook;
use upcalld::hooks::install::{InstallError, Installation};
use upcalld::hooks::sysctl::Standing;

use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::self_test::Problem;

/// The JSON document.
#[derive(Serialize)]
pub(super) struct Document<'a> {
    schema: &'static str,
    version: u32,
    hook: &'static str,
    mode: &'static str,
    dry_run: bool,
    /// What was or would be put in.
    ours: Sysctls<'a>,
    /// What stood there until now.
    current: Sysctls<'a>,
    /// What `uninstall` puts back.
    previous: Sysctls<'a>,
    file: String,
    /// How long the record of the self-test took; `null`: there was none.
    self_test_us: Option<u64>,
}

/// Both settings of the kernel.
#[derive(Serialize)]
pub(crate) struct Sysctls<'a> {
    pub(crate) core_pattern: &'a str,
    pub(crate) core_pipe_limit: u64,
}

impl<'a> From<&'a Standing> for Sysctls<'a> {
    fn from(standing: &'a Standing) -> Self {
        Self {
            core_pattern: standing.pattern.text(),
            core_pipe_limit: standing.pipe_limit,
        }
    }
}

pub(super) fn document(
    planned: &Installation,
    took: Option<Duration>,
    dry_run: bool,
) -> Document<'_> {
    Document {
        schema: "upcalld.install",
        version: 1,
        hook: "core",
        mode: planned.ours.pattern.mode(),
        dry_run,
        ours: (&planned.ours).into(),
        current: (&planned.current).into(),
        previous: Sysctls {
            core_pattern: planned.file.previous.text(),
            core_pipe_limit: planned.file.previous_pipe_limit,
        },
        file: CoreHook::path(&planned.hooks).display().to_string(),
        self_test_us: took.and_then(|took| u64::try_from(took.as_micros()).ok()),
    }
}

/// What would be changed.
pub(super) fn dry(context: &Context, planned: &Installation, note: Option<&str>) -> String {
    let Installation {
        ours,
        current,
        file,
        hooks,
        ..
    } = planned;
    let limit = if ours.pipe_limit == current.pipe_limit {
        format!("{} (as it is)", ours.pipe_limit)
    } else {
        format!("{} -> {}", current.pipe_limit, ours.pipe_limit)
    };
    let pattern = if ours.pattern == current.pattern {
        "(as it is)".to_owned()
    } else {
        format!("\n{:24}-> {}", "", printable(ours.pattern.text()))
    };
    let new = if planned.replaces_file() {
        "written again"
    } else {
        "new"
    };
    let path = CoreHook::path(hooks).display().to_string();
    let previous = if ours.pattern == current.pattern || current.pattern.is_of(hooks) {
        format!("previous \"{}\"", printable(file.previous.text()))
    } else {
        "previous".to_owned()
    };
    let kept = format!(
        "{new}: socket, spool {}, deadline {}s, absent: spool, {previous}",
        format::size_set(file.spool_max).replace(' ', ""),
        file.deadline_ms / 1000
    );
    let keeps = context.sysctl_d.as_ref().map(|file| {
        let path = file.path().display().to_string();
        format!("{path:25}  {new}: the same, for systemd-sysctl, until the next boot\n")
    });
    let keeps = keeps.unwrap_or_default();
    let note = note.map_or_else(String::new, |note| format!("{:27}{note}\n", ""));
    format!(
        "{:27}{}{pattern}\n{note}{:27}{limit}\n{path:25}  {kept}\n{keeps}{:27}{}          undo: {}\n",
        "kernel.core_pattern",
        printable(current.pattern.text()),
        "kernel.core_pipe_limit",
        "`pass` will mean",
        explain::passed(Some(&file.previous)),
        "upcallctl uninstall core",
    )
    .replace("\n\n", "\n")
}

/// What was done.
pub(super) fn done(
    context: &Context,
    planned: &Installation,
    took: Option<Duration>,
    note: Option<&str>,
) -> String {
    let tried = super::tried("crashed", took);
    let previous = printable(planned.file.previous.text());
    let mode = planned.ours.pattern.mode();
    let note = note.map_or_else(String::new, |note| format!("      {note}\n"));
    format!(
        "core: ours, {mode} mode; {tried}\n{note}      before: {previous} (undo: {})\n      `pass` means {}\n",
        context.typed("uninstall core"),
        explain::passed(Some(&planned.file.previous)),
    )
}

pub(super) fn self_test_failed(
    context: &Context,
    planned: &Installation,
    problem: &Problem,
    changed: Option<String>,
    undone: Option<InstallError>,
) -> Failure {
    let current = printable(planned.current.pattern.text());
    let what = match undone {
        None => format!("{problem}; core_pattern is {current} again"),
        Some(error) => {
            format!("{problem}; and core_pattern could not be put back to {current}: {error}")
        }
    };
    let (note, help) = match (changed, problem) {
        (Some(changed), _) => (
            Some(format!(
                "it read back right and then changed to {changed}: something else writes it"
            )),
            "find it and stop it: grep -r core_pattern /etc/sysctl.d /usr/lib/sysctl.d \
             /usr/lib/systemd /etc/init.d; then again"
                .to_owned(),
        ),
        (None, Problem::Silence { dumped: true }) => (
            Some(format!(
                "the kernel started {}, and upcalld recorded nothing",
                runnable(&context.libexec)
            )),
            format!(
                "journalctl -u upcalld -n 20; is {} this upcalld's?",
                context.run.display()
            ),
        ),
        (None, Problem::Silence { dumped: false }) => (
            Some("the kernel dumped nothing".to_owned()),
            format!(
                "dmesg | grep -i core; is {} a program that can be started?",
                runnable(&context.libexec)
            ),
        ),
        (None, Problem::Elsewhere) => (None, "give both the same --config DIR".to_owned()),
        (
            None,
            Problem::Daemon(_)
            | Problem::Child(_)
            | Problem::NoKey { .. }
            | Problem::NoModule
            | Problem::NoHelper,
        ) => (None, "see what it says, then again".to_owned()),
    };
    Failure::SelfTest {
        what,
        notes: note.into_iter().collect(),
        help,
    }
}

fn runnable(libexec: &Path) -> String {
    libexec.join("core").display().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::wishes;
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt;
    use upcalld::hooks::install::Wishes;
    use upcalld::hooks::sysctl::CoreSysctl;

    /// An installation over this pattern, with paths as an installed system has them.
    fn planned(pattern: &str, limit: u64) -> Option<Installation> {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: the program must be root's");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let core = directory.path().join("core");
        std::fs::write(directory.path().join("core_pattern"), pattern).unwrap();
        std::fs::write(directory.path().join("core_pipe_limit"), limit.to_string()).unwrap();
        std::fs::write(&core, "").unwrap();
        std::fs::set_permissions(&core, PermissionsExt::from_mode(0o755)).unwrap();
        let context = Context::new(&Cli::parse_from(["upcallctl", "install", "core"]));
        let wishes = Wishes {
            program: core,
            hooks: "/etc/upcalld/hooks".into(),
            ..wishes(&context, None)
        };
        let mut planned =
            Installation::plan(&CoreSysctl::below(directory.path()), &wishes).unwrap();
        let text = planned.ours.pattern.text().replace(
            &directory.path().display().to_string(),
            "/usr/libexec/upcalld",
        );
        planned.ours.pattern = upcalld::hooks::pattern::Pattern::parse(&text);
        Some(planned)
    }

    #[test]
    fn what_would_be_changed() {
        let systemd = "|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h %d %F";
        for (name, pattern, limit) in [
            ("over_a_pipe", systemd, 16),
            ("over_a_file", "core", 0),
            ("over_a_socket", "@@/run/systemd/coredump-kernel", 1024),
        ] {
            let Some(planned) = planned(pattern, limit) else {
                return;
            };
            let context = Context::new(&Cli::parse_from(["upcallctl", "install", "core"]));
            insta::assert_snapshot!(name, dry(&context, &planned, None));
        }
    }

    #[test]
    fn what_was_done() {
        let Some(planned) = planned("core", 0) else {
            return;
        };
        let context = Context::new(&Cli::parse_from(["upcallctl", "install", "core"]));
        let tried = done(&context, &planned, Some(Duration::from_micros(4213)), None);
        let not_tried = done(
            &context,
            &planned,
            None,
            Some("not in socket mode: upcalld does not run"),
        );
        insta::assert_snapshot!(format!("{tried}{not_tried}"));
    }

    #[test]
    fn why_the_self_test_failed() {
        let Some(planned) = planned("|/usr/share/apport/apport -p%p", 0) else {
            return;
        };
        let context = Context::new(&Cli::parse_from(["upcallctl", "install", "core"]));
        let changed = Some("|/usr/share/apport/apport -p%p".to_owned());
        let silent = |dumped| Problem::Silence { dumped };
        let texts = [
            self_test_failed(&context, &planned, &silent(true), changed, None),
            self_test_failed(&context, &planned, &silent(true), None, None),
            self_test_failed(&context, &planned, &silent(false), None, None),
            self_test_failed(&context, &planned, &Problem::Elsewhere, None, None),
        ]
        .map(|failure| {
            assert_eq!(failure.status(), 6);
            failure.text(&context)
        });
        insta::assert_snapshot!(texts.concat());
    }
}
