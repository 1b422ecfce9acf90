//! From directories to a policy: read everything, check everything, say everything that is wrong in one go.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use crate::check::{self, Report};
use crate::diagnostic::{Code, Diagnostic, Label, Severity, Source};
use crate::dropin::{self, Directories, Found};
use crate::rule::Policy;
use crate::settings::Settings;

/// Most mistakes of the grammar shown for one file; more are mostly one mistake's echo.
const MAX_SYNTAX_ERRORS: usize = 10;

/// What came of reading.
#[derive(Debug, Clone)]
#[must_use]
pub struct Loaded {
    /// The rules, if nothing is wrong. Which policy holds otherwise is up to the caller, who has the last good one.
    pub policy: Option<Arc<Policy>>,
    /// The settings. Where something is wrong with one of them, its default; then there is no policy either.
    pub settings: Settings,
    /// All mistakes of all files, in the order of the files and of the places in them.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that were read: settings first, then rules in their order.
    pub files: Vec<PathBuf>,
    /// How many rules were looked at, right or wrong.
    pub rules: usize,
}

impl Loaded {
    /// Number of mistakes that keep the files from being used.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// Number of mistakes that do not.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|d| d.severity() == severity)
            .count()
    }
}

/// Reads and checks everything in these directories. A directory, `rules.d` or `upcalld.toml` that is not there is
/// no mistake.
pub fn load(directories: &Directories) -> Loaded {
    let files = dropin::read(directories);
    check_all(files.settings, files.rules, files.diagnostics)
}

/// Checks texts as if they had been read from files with these paths: the settings, and rules in this order.
pub fn load_texts(settings: Option<(&Path, &str)>, rules: &[(&Path, &str)]) -> Loaded {
    let found = |(path, text): &(&Path, &str)| Found {
        path: (*path).into(),
        bytes: text.as_bytes().to_vec(),
    };
    check_all(
        settings.as_ref().map(found),
        rules.iter().map(found).collect(),
        Vec::new(),
    )
}

fn check_all(
    settings: Option<Found>,
    rules: Vec<Found>,
    mut diagnostics: Vec<Diagnostic>,
) -> Loaded {
    let mut files = Vec::new();
    let mut checked_settings = Settings::default();
    if let Some(found) = settings {
        files.push(found.path.to_path_buf());
        parse(found, &mut diagnostics, |report, document| {
            checked_settings = check::settings(report, document);
        });
    }
    let mut policy = check::PolicyBuilder::default();
    for found in rules {
        files.push(found.path.to_path_buf());
        parse(found, &mut diagnostics, |report, document| {
            check::rules(report, document, &mut policy);
        });
    }
    let rules = policy.seen();
    let policy = policy.finish(&mut diagnostics);
    sort(&mut diagnostics, &files);
    let usable = diagnostics.iter().all(|d| d.severity() != Severity::Error);
    Loaded {
        policy: usable.then(|| Arc::new(policy)),
        settings: checked_settings,
        diagnostics,
        files,
        rules,
    }
}

/// Parses one file and has it checked; a file that is not TOML is only told so, for the rest would be guesses.
fn parse(
    found: Found,
    diagnostics: &mut Vec<Diagnostic>,
    check: impl FnOnce(&mut Report, &DeTable<'_>),
) {
    let text = match String::from_utf8(found.bytes) {
        Ok(text) => text,
        Err(error) => {
            diagnostics.push(not_text(found.path, &error));
            return;
        }
    };
    let source = Source::new(found.path, text);
    let (document, errors) = DeTable::parse_recoverable(source.text());
    if errors.is_empty() {
        let mut report = Report::new(&source);
        check(&mut report, document.get_ref());
        diagnostics.extend(report.finish());
        return;
    }
    let end = source.text().len();
    for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
        let span = error.span().unwrap_or(end..end);
        let label = Label::new(&source, span, "");
        diagnostics.push(Diagnostic::at(Code::Syntax, error.message(), label));
    }
}

fn not_text(path: Arc<Path>, error: &std::string::FromUtf8Error) -> Diagnostic {
    let good = error.utf8_error().valid_up_to();
    let line = error
        .as_bytes()
        .iter()
        .take(good)
        .filter(|b| **b == b'\n')
        .count()
        + 1;
    Diagnostic::in_file(Code::Syntax, format!("line {line} is not UTF-8 text"), path)
        .help("save the file as UTF-8; bytes that are no text cannot be written in a rule, `?` and `*` match them")
}

fn sort(diagnostics: &mut [Diagnostic], files: &[PathBuf]) {
    let position = |d: &Diagnostic| files.iter().position(|file| file == d.file());
    diagnostics.sort_by_cached_key(|d| {
        let place = d.primary.as_ref().map(|label| label.span.start);
        (position(d), d.file().to_owned(), place)
    });
}
