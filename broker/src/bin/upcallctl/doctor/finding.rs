//! What a check says.

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// A weaker path is in use, or something will go wrong later.
    Warning,
    /// Upcalls are lost, or a rule does not hold.
    Error,
    /// It could not be looked at.
    Unknown,
}

/// One check's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The check's name: a stable word.
    pub(super) check: &'static str,
    /// How bad it is.
    pub(super) level: Level,
    /// What was found.
    pub(super) what: String,
    /// Why it matters on this host.
    pub(super) why: Option<String>,
    /// What helps.
    pub(super) cure: Option<String>,
}

impl Level {
    /// The word that is shown.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Unknown => "unknown",
        }
    }
}

impl Finding {
    /// As it should be.
    pub(super) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, what.into())
    }

    /// Not quite.
    pub(super) fn warning(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, what.into())
    }

    /// Not at all.
    pub(super) fn error(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Error, what.into())
    }

    /// Nobody knows.
    pub(super) fn unknown(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Level::Unknown, what.into())
    }

    fn new(check: &'static str, level: Level, what: String) -> Self {
        Self {
            check,
            level,
            what,
            why: None,
            cure: None,
        }
    }

    /// Why it matters.
    pub(super) fn why(self, why: impl Into<String>) -> Self {
        Self {
            why: Some(why.into()),
            ..self
        }
    }

    /// What helps.
    pub(super) fn cure(self, cure: impl Into<String>) -> Self {
        Self {
            cure: Some(cure.into()),
            ..self
        }
    }
}
