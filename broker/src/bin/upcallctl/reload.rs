//! `upcallctl reload`: the daemon reads its rules again, and keeps what it has if there is a mistake.

use serde_json::json;
use upcalld::control::{Reload, Reloaded};

use crate::check::{self, Summary};
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
        let diagnostics: Vec<_> = reloaded.diagnostics.iter().map(|d| &d.plain).collect();
        let mut document = check::document(&summary, &reloaded.files, &json!(diagnostics));
        if let Some(document) = document.as_object_mut() {
            document.insert("schema".to_owned(), json!("upcalld.reload"));
            document.insert("replaced".to_owned(), json!(reloaded.replaced));
        }
        print_json(&document)?;
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
