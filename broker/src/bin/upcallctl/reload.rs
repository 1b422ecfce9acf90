//! `upcallctl reload`: the daemon reads its rules again, and keeps what it has if there is a mistake.

use serde_json::json;
use upcalld::control::{Reload, Reloaded};

use crate::check::{self, Document, Summary};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_json};

/// Runs the command.
pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    let colour = context.look.colour && context.json.is_none();
    let answer = context.connect()?.call("Reload", json!(Reload { colour }));
    let reloaded: Reloaded = answer.map_err(|error| Failure::call(context, error))?;
    let summary = Summary {
        files: reloaded.files.len(),
        rules: reloaded.rules,
        errors: reloaded.errors,
        warnings: reloaded.warnings,
    };
    if context.json.is_some() {
        let diagnostics = reloaded.diagnostics.iter();
        print_json(&Document {
            schema: "upcalld.reload",
            version: 1,
            replaced: Some(reloaded.replaced),
            files: &reloaded.files,
            summary: summary.into(),
            diagnostics: diagnostics.map(|d| d.plain.clone()).collect(),
        })?;
    } else {
        let mut text: String = reloaded
            .diagnostics
            .iter()
            .map(|diagnostic| diagnostic.text.clone() + "\n")
            .collect();
        let settings = reloaded
            .files
            .iter()
            .any(|file| file.ends_with("/upcalld.toml"));
        let next = match (reloaded.replaced, settings) {
            (false, _) => check::keeps(reloaded.loaded, &context.look),
            (true, false) => "in force".to_owned(),
            (true, true) => "in force; settings count from upcalld's next start".to_owned(),
        };
        text += &summary.text(Some(&next));
        print(&text)?;
    }
    if reloaded.replaced {
        Ok(())
    } else {
        Err(Failure::BadNews)
    }
}
