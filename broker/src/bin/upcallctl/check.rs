//! `upcallctl check`: every mistake in rules and settings, with its place.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use upcall_config::diagnostic::Diagnostic;
use upcall_config::file::{Loaded, load_texts};
use upcalld::policy;

use crate::context::Context;
use crate::failure::Failure;
use crate::format;
use crate::look::Look;
use crate::output::{print, print_json};

/// The name by which a file is known to hold settings.
const SETTINGS: &str = "upcalld.toml";

/// Runs the command.
pub(crate) fn run(context: &Context, files: &[PathBuf]) -> Result<(), Failure> {
    let loaded = if files.is_empty() {
        policy::check(&context.config)
    } else {
        read(files)?
    };
    // Files of the admin's own choice say nothing about what upcalld has.
    let daemon = context.daemon().filter(|_| files.is_empty());
    if context.json.is_some() {
        let plain = |diagnostic: &Diagnostic| serde_json::to_value(diagnostic.plain());
        let diagnostics: Result<_, _> = loaded.diagnostics.iter().map(plain).collect();
        let files = loaded.files.iter().map(|file| file.display().to_string());
        let files: Vec<String> = files.collect();
        print_json(&Document {
            schema: "upcalld.check",
            version: 1,
            replaced: None,
            files: &files,
            summary: Summary::of(&loaded).into(),
            diagnostics: diagnostics.map_err(|error| Failure::Output(error.into()))?,
        })?;
    } else {
        let look = &context.look;
        let mut text: String = loaded
            .diagnostics
            .iter()
            .map(|diagnostic| diagnostic.render(look.colour) + "\n")
            .collect();
        let summary = Summary::of(&loaded);
        let next = match (summary.errors, daemon) {
            (0, Some(daemon)) if daemon.unchanged => Some("upcalld has these rules".to_owned()),
            (0, Some(_)) => Some(format!(
                "to have them in force: {}",
                context.typed("reload")
            )),
            (1.., Some(daemon)) => Some(keeps(daemon.loaded, look)),
            (_, None) => None,
        };
        text += &summary.text(next.as_deref());
        print(&text)?;
    }
    if loaded.errors() > 0 {
        return Err(Failure::BadNews);
    }
    Ok(())
}

/// Which rules stay where those on disk have mistakes.
pub(crate) fn keeps(loaded: u64, look: &Look) -> String {
    let when = format::clock(format::timestamp(loaded), look.now, &look.zone);
    format!("upcalld keeps the rules of {when}")
}

fn read(files: &[PathBuf]) -> Result<Loaded, Failure> {
    let (mut settings, mut rules) = (None, Vec::new());
    for path in files {
        let text = std::fs::read(path).and_then(|bytes| {
            String::from_utf8(bytes)
                .map_err(|_| std::io::Error::new(ErrorKind::InvalidData, "not UTF-8 text"))
        });
        let text = text.map_err(|source| Failure::File {
            path: path.clone(),
            source,
        })?;
        if path.file_name().is_some_and(|name| name == SETTINGS) {
            settings = Some((path.as_path(), text));
        } else {
            rules.push((path.as_path(), text));
        }
    }
    let settings = settings.as_ref().map(|(path, text)| (*path, text.as_str()));
    let rules: Vec<(&Path, &str)> = rules
        .iter()
        .map(|(path, text)| (*path, text.as_str()))
        .collect();
    Ok(policy::with_programs(load_texts(settings, &rules)))
}

/// What was looked at, and what is wrong with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) files: usize,
    pub(crate) rules: usize,
    pub(crate) errors: usize,
    pub(crate) warnings: usize,
}

impl Summary {
    fn of(loaded: &Loaded) -> Self {
        Self {
            files: loaded.files.len(),
            rules: loaded.rules,
            errors: loaded.errors(),
            warnings: loaded.warnings(),
        }
    }

    /// The last line; `next`: what follows from it.
    pub(crate) fn text(self, next: Option<&str>) -> String {
        let files = format::count(self.files, "file");
        let rules = format::count(self.rules, "rule");
        let errors = (self.errors > 0).then(|| format::count(self.errors, "error"));
        let warnings = (self.warnings > 0).then(|| format::count(self.warnings, "warning"));
        let wrong: Vec<String> = errors.into_iter().chain(warnings).collect();
        let wrong = if wrong.is_empty() {
            "nothing is wrong".to_owned()
        } else {
            wrong.join(", ")
        };
        let next = next.map_or_else(String::new, |next| format!("; {next}"));
        format!("checked {files}, {rules}: {wrong}{next}\n")
    }
}

/// The JSON document of `check` and of `reload`.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    pub(crate) schema: &'static str,
    pub(crate) version: u32,
    /// `reload`: whether what was read is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replaced: Option<bool>,
    pub(crate) files: &'a [String],
    #[serde(flatten)]
    pub(crate) summary: Counts,
    pub(crate) diagnostics: Vec<Value>,
}

/// The numbers of the document.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Counts {
    rules: usize,
    errors: usize,
    warnings: usize,
}

impl From<Summary> for Counts {
    fn from(summary: Summary) -> Self {
        Self {
            rules: summary.rules,
            errors: summary.errors,
            warnings: summary.warnings,
        }
    }
}
