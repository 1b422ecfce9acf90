//! `upcallctl install key --mode line`: /sbin/request-key stays the distribution's, and some types of keys come to us.

use std::time::Duration;

use serde::Serialize;
use upcall_config::keytype;
use upcalld::hooks::key::line::{Line, Lines};

use super::super::{settled, tried};
use super::{ASKED, Unharmed, test};
use crate::cli::InstallArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::self_test;

/// The keys of the self-test.
const TRIAL: &str = "upcalld:self-test:*";

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    hook: &'static str,
    dry_run: bool,
    file: String,
    types: Vec<Type<'a>>,
    /// How long the record of the self-test took; `null`: there was none.
    self_test_us: Option<u64>,
}

#[derive(Serialize)]
struct Type<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    /// What answered it before, and `pass` means now; `null`: nothing.
    previous: Option<&'a str>,
}

/// Runs the command.
pub(super) fn run(context: &Context, asked: &InstallArgs) -> Result<(), Failure> {
    let lines = context.key.lines();
    let ours = matches!(lines.standing(), Lines::Ours(_));
    if asked.if_ours && !ours {
        return print("key: not ours; nothing is done (--if-ours)\n");
    }
    let mut kinds = asked.types.clone();
    if kinds.is_empty() {
        kinds = keytype::of_the_kernel().map(str::to_owned).collect();
    }
    if asked.dry_run {
        let planned = lines.plan(&kinds).map_err(Failure::InstallKey)?;
        return answer(context, &planned, None, true);
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(Failure::root_only(context));
    }
    let test = test(context, asked)?;
    let _unharmed = Unharmed::new();
    let trial = test.is_some().then_some(TRIAL);
    let put_in = || {
        let lock = context.key.lock()?;
        let planned = lines.plan(&kinds)?;
        let before = lines.install(&planned, trial, &lock)?;
        Ok((lock, planned, before))
    };
    let (lock, planned, before) = put_in().map_err(Failure::InstallKey)?;
    let place = lines.path().display().to_string();
    let tried = test.map(self_test::Test::run_key);
    let took = settled(context, tried, &place, || lines.undo(&before, &lock))?;
    let tried = lines.tried(&planned, &lock);
    tried.map_err(Failure::InstallKey)?;
    drop(lock);
    answer(context, &planned, took, false)
}

fn answer(
    context: &Context,
    planned: &[Line],
    took: Option<Duration>,
    dry_run: bool,
) -> Result<(), Failure> {
    let file = context.key.lines().path().display().to_string();
    if context.json.is_none() {
        return print(&text(context, &file, planned, took, dry_run));
    }
    let types = planned.iter().map(|line| Type {
        kind: &line.kind,
        previous: line.before.as_deref(),
    });
    print_json(&Document {
        schema: "upcalld.install",
        version: 1,
        hook: "key",
        dry_run,
        file,
        types: types.collect(),
        self_test_us: took.and_then(|took| u64::try_from(took.as_micros()).ok()),
    })
}

fn text(
    context: &Context,
    file: &str,
    planned: &[Line],
    took: Option<Duration>,
    dry_run: bool,
) -> String {
    let mut lines = vec![if dry_run {
        format!("{file}  written: a line for each type, and what `pass` means there")
    } else {
        format!("key: ours by {file}; {}", tried(ASKED, took))
    }];
    let width = planned.iter().map(|line| line.kind.len()).max();
    let width = width.unwrap_or(0);
    lines.extend(planned.iter().map(|line| {
        let before = line.before.as_deref().unwrap_or("nobody");
        format!("     {:width$}  before us: {before}", line.kind)
    }));
    if !dry_run {
        let undo = context.typed("uninstall key");
        lines.push(format!(
            "     all other keys go where they went (undo: {undo})"
        ));
    }
    lines.join("\n") + "\n"
}
