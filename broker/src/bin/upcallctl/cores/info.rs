//! `cores info`: the record, and what the core itself has to say.

use serde::Serialize;
use upcall_config::text::printable;
use upcalld::corefile::{Crash, Frame, Module, Sender};
use upcalld::store::record::Record;

use super::args::InfoArgs;
use super::list::Found;
use super::look::look;
use super::root;
use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::output::{print, print_json};
use crate::show::{self, Page};

/// So many files are shown; all with `--all`, and in JSON.
const FILES_SHOWN: usize = 12;

/// So many functions of the stack are shown; all that were walked through with `--all`, and in JSON.
const FRAMES_SHOWN: usize = 64;

/// So many threads' ids are shown.
const THREADS_SHOWN: usize = 16;

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: &'static str,
    version: u32,
    record: &'a Record,
    state: &'static str,
    /// What the core says; `null` where it is not here or cannot be read.
    crash: Option<&'a Crash>,
    /// Why it is not there.
    unread: Option<&'a str>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, asked: &InfoArgs) -> Result<(), Failure> {
    let found = Found::of(context, super::record(context, &asked.id)?);
    let files = root::of(context, &found.record, asked.sysroot.as_deref());
    let crash = match super::open(context, &found.record) {
        Ok(stored) => look(&stored, files.as_ref().ok().map(|root| &root.directory))
            .map(|crash| without(crash, files.as_ref().err()))
            .map_err(|error| format!("cannot be read: {error}")),
        Err(Failure::NotFound { what, .. }) => Err(what),
        Err(Failure::NotPermitted { .. }) => Err("the core is root's alone".to_owned()),
        Err(failure) => return Err(failure),
    };
    if context.json.is_some() {
        return print_json(&Document {
            schema: "upcalld.core",
            version: 1,
            record: &found.record,
            state: found.state.word.as_str(),
            crash: crash.as_ref().ok(),
            unread: crash.as_ref().err().map(String::as_str),
        });
    }
    let mut text = show::text(&found.record, &context.look);
    let mut page = Page::new(&context.look);
    page.section("core", [found.state.text(&found.record)]);
    match &crash {
        Ok(crash) => sections(&mut page, crash, asked.all),
        Err(why) => page.section("", [printable(why)]),
    }
    text += &page.text;
    print(&text)
}

/// A crash whose stack could not be walked because there are no files.
fn without(mut crash: Crash, why: Option<&String>) -> Crash {
    crash
        .unread
        .extend(why.map(|why| format!("stack: no files: {why}; --sysroot DIR has them")));
    crash
}

/// What a core says.
fn sections(page: &mut Page<'_>, crash: &Crash, all: bool) {
    page.section("signal", signal(crash));
    page.section("command", crash.command.iter().map(|text| printable(text)));
    page.section("threads", [threads(crash)]);
    let most = |some| if all { usize::MAX } else { some };
    let more = |all: usize, shown: usize| {
        let more = all.saturating_sub(shown);
        (more > 0).then(|| format!("and {} (--all)", format::count(more, "other")))
    };
    let shown = most(FRAMES_SHOWN);
    let frames = crash.frames.iter().enumerate().take(shown).map(frame);
    page.section("stack", frames.chain(more(crash.frames.len(), shown)));
    let shown = most(FILES_SHOWN);
    let files = crash.modules.iter().take(shown).map(file);
    page.section("files", files.chain(more(crash.modules.len(), shown)));
    page.section("not read", crash.unread.iter().map(|text| printable(text)));
}

fn signal(crash: &Crash) -> Option<String> {
    let signal = crash.signal?;
    let name = upcall_config::upcall::Signal::from_number(signal);
    let mut parts = vec![name.map_or_else(|| signal.to_string(), |name| name.to_string())];
    match (&crash.code_name, crash.code) {
        (Some(name), _) => parts.push(format!(" {}", printable(name))),
        (None, Some(code)) => parts.push(format!(" code {code}")),
        (None, None) => {}
    }
    let address = crash.address;
    parts.extend(address.map(|address| format!(" at {address:#x}")));
    parts.extend(crash.sender.map(|sender| {
        let Sender { pid, uid } = sender;
        format!(", sent by process {pid} of uid {uid}, numbers inside")
    }));
    parts.push(format!("; {}", printable(&crash.machine)));
    Some(parts.concat())
}

fn threads(crash: &Crash) -> String {
    let Some((crashed, others)) = crash.threads.split_first() else {
        return "none".to_owned();
    };
    let name = crash.comm.as_deref().map(printable);
    let name = name.map_or_else(String::new, |name| format!(" \"{name}\""));
    let more = if crash.more_threads { " and more" } else { "" };
    let count = crash.threads.len();
    let mut parts = vec![format!("{count}{more}, crashed: {crashed}{name}")];
    if !others.is_empty() {
        let shown = others.iter().take(THREADS_SHOWN).map(u32::to_string);
        let mut shown: Vec<String> = shown.collect();
        if others.len() > THREADS_SHOWN || crash.more_threads {
            shown.push("...".to_owned());
        }
        parts.push(format!("others: {}", shown.join(" ")));
    }
    parts.join("; ")
}

fn frame((number, frame): (usize, &Frame)) -> String {
    let number = format!("#{number}");
    let symbol = match (&frame.symbol, frame.symbol_offset) {
        (Some(symbol), Some(offset)) => format!("{} + {offset:#x}", printable(symbol)),
        (Some(symbol), None) => printable(symbol),
        (None, _) => "n/a".to_owned(),
    };
    let place = match (&frame.module, frame.offset) {
        (Some(module), Some(offset)) => format!("{} + {offset:#x}", printable(module)),
        (Some(module), None) => printable(module),
        (None, _) => "no file".to_owned(),
    };
    format!("{number:<4}{:#018x}  {symbol}  ({place})", frame.address)
}

fn file(module: &Module) -> String {
    let id = module.build_id.as_deref().map(printable);
    let id = id.map_or_else(String::new, |id| format!("  build-id {id}"));
    format!("{:#018x}  {}{id}", module.start, printable(&module.path))
}
