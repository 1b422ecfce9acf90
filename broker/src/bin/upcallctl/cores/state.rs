//! What became of a core: a word for programs, a few words for people.

use clap::ValueEnum;
use serde::Serialize;
use upcalld::store::record::{Action, Outcome, Record};

use crate::look::Paint;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Word {
    /// On this host, whole.
    Kept,
    /// On this host, but not all of it.
    Truncated,
    /// Not on this host: a helper or a service in the container had it.
    Delivered,
    /// Given to what stood in the hook before.
    Passed,
    /// A rule or a limit refused the upcall.
    Refused,
    /// Nothing of it was kept, and `reason` says why.
    NotKept,
    /// Was kept, and had to make room for others.
    Evicted,
    /// Was kept, for as long as `store.max_age` says.
    Expired,
    /// Was kept, and somebody removed it.
    Removed,
    /// The kernel gave it and its data is gone.
    Lost,
    /// The kernel had it and upcalld was not asked.
    Missed,
}

/// What became of one record's core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) word: Word,
    /// Why, where it was not simply kept: a reason of the record's.
    pub(crate) reason: Option<String>,
    /// The same for people.
    pub(crate) message: Option<String>,
    /// What else was done with it, for people.
    also: Option<String>,
}

/// The action that kept it, or was to.
pub(crate) fn store(record: &Record) -> Option<&Action> {
    let mut actions = record.actions.iter();
    actions.find(|action| action.action == "store")
}

impl State {
    /// As the record says; `there` is whether its file is on disk, for whoever may look.
    pub(crate) fn of(record: &Record, there: Option<bool>) -> Self {
        let store = store(record);
        let kept = store.filter(|store| store.stored_bytes.is_some_and(|bytes| bytes > 0));
        let given = record.actions.iter().find(|action| {
            action.outcome == Outcome::Done && !["store", "pass"].contains(&&*action.action)
        });
        let passed = record.actions.iter().any(|action| action.action == "pass");
        let (word, why) = match (kept, record.outcome) {
            (Some(kept), _) => (on_disk(kept, there), Some(kept)),
            (None, Outcome::Refused) => (Word::Refused, None),
            (None, Outcome::Lost) => (Word::Lost, None),
            (None, Outcome::Missed) => (Word::Missed, None),
            (None, _) if given.is_some() => (Word::Delivered, None),
            (None, _) if store.is_none() && passed => (Word::Passed, None),
            (None, _) => (Word::NotKept, store),
        };
        let told = why.filter(|why| why.reason.is_some() || why.message.is_some());
        let (reason, message) = match told {
            Some(action) => (action.reason.clone(), action.message.clone()),
            None if matches!(word, Word::Kept | Word::Delivered | Word::Passed) => (None, None),
            None => (record.reason.clone(), record.message.clone()),
        };
        Self {
            word,
            reason,
            message,
            also: given.map(receiver),
        }
    }

    /// For a table on a terminal.
    pub(crate) fn text(&self, record: &Record) -> String {
        let also = |how: &str| {
            let given = self.also.as_ref();
            given.map_or_else(String::new, |to| format!("{how}{to}"))
        };
        let because = |start: &str| match (&self.reason, &self.message) {
            (Some(reason), Some(message)) => format!("{start}: {reason} ({})", first(message)),
            (Some(why), None) | (None, Some(why)) => format!("{start}: {}", first(why)),
            (None, None) => start.to_owned(),
        };
        match self.word {
            Word::Kept if record.process.dumpable.is_some_and(|mode| mode != 1) => {
                let mode = record.process.dumpable.unwrap_or_default();
                format!("kept, root only: dumpable is {mode}")
            }
            Word::Kept => format!("kept{}", also("; also given to ")),
            Word::Truncated => because("truncated"),
            Word::Delivered => format!("delivered{}", also(": ")),
            Word::Passed => "passed on to what stood in the hook before".to_owned(),
            Word::Refused => because("refused"),
            Word::NotKept => because("not kept"),
            Word::Evicted => because("evicted"),
            Word::Expired => because("expired"),
            Word::Removed => because("removed"),
            Word::Lost => because("lost"),
            Word::Missed => because("missed"),
        }
    }

    /// For a table in a pipe.
    pub(crate) fn cell(&self) -> String {
        let word = self.word.as_str();
        match &self.reason {
            Some(reason) => format!("{word}:{reason}"),
            None => word.to_owned(),
        }
    }

    /// The colour.
    pub(crate) fn paint(&self) -> Paint {
        match self.word {
            Word::Kept | Word::Delivered | Word::Passed => Paint::Plain,
            Word::Lost | Word::Missed => Paint::Bad,
            Word::Truncated
            | Word::Refused
            | Word::NotKept
            | Word::Evicted
            | Word::Expired
            | Word::Removed => Paint::Doubt,
        }
    }
}

impl Word {
    /// As in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Truncated => "truncated",
            Self::Delivered => "delivered",
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::NotKept => "not_kept",
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::Removed => "removed",
            Self::Lost => "lost",
            Self::Missed => "missed",
        }
    }
}

fn on_disk(kept: &Action, there: Option<bool>) -> Word {
    match (kept.gone(), there) {
        (Some("evicted"), _) => Word::Evicted,
        (Some("expired"), _) => Word::Expired,
        (Some(_), _) | (None, Some(false)) => Word::Removed,
        _ if kept.truncated == Some(true) => Word::Truncated,
        _ => Word::Kept,
    }
}

/// Who got it: the program, or the kind of action.
fn receiver(action: &Action) -> String {
    let program = action.argv.as_ref().and_then(|argv| argv.first());
    program.unwrap_or(&action.action).clone()
}

/// A message as far as its advice.
fn first(message: &str) -> &str {
    message.split("; ").next().unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given;

    fn text(record: &Record, there: Option<bool>) -> String {
        State::of(record, there).text(record)
    }

    #[test]
    fn what_was_kept_is_kept_until_its_file_is_gone() {
        let mut record = given::shop();
        let kept = "kept; also given to /usr/local/bin/on-crash";
        assert_eq!(text(&record, None), kept);
        assert_eq!(text(&record, Some(true)), kept);
        assert_eq!(text(&record, Some(false)), "removed");
        for word in ["evicted", "expired", "removed"] {
            // Who may not look at the files believes the record.
            let mut gone = record.clone();
            gone.actions[1].state = Some(word.to_owned());
            gone.actions[1].message = Some("why".to_owned());
            assert_eq!(text(&gone, None), format!("{word}: why"));
            assert_eq!(text(&gone, Some(false)), format!("{word}: why"));
        }
        record.process.dumpable = Some(2);
        assert_eq!(text(&record, None), "kept, root only: dumpable is 2");
        record.actions[1].truncated = Some(true);
        assert_eq!(text(&record, None), "truncated");
        assert_eq!(State::of(&record, None).cell(), "truncated");
    }

    #[test]
    fn what_was_not_kept_says_why() {
        let gone = given::gone();
        let why = "not kept: core_limit (its core limit is 0 (store.ignore_limit is false))";
        assert_eq!(text(&gone, Some(false)), why);
        assert_eq!(State::of(&gone, None).cell(), "not_kept:core_limit");
        let storm = given::storm();
        let why = "refused: rate_limit (90-default.toml:9 allows 10 in 60 s)";
        assert_eq!(text(&storm, Some(false)), why);
        let host = given::host();
        assert_eq!(State::of(&host, None).word, Word::Passed);
        let mut record = given::shop();
        record.actions.truncate(1);
        let given = "delivered: /usr/local/bin/on-crash";
        assert_eq!(text(&record, Some(false)), given);
        // The copy was kept although the helper failed; that is the helper's story.
        let missing = given::missing();
        assert_eq!(State::of(&missing, Some(true)).cell(), "kept");
    }

    #[test]
    fn words_are_the_same_in_json_and_on_the_command_line() {
        for word in Word::value_variants() {
            let json = serde_json::to_value(word).unwrap();
            assert_eq!(json, word.as_str());
            let value = word.to_possible_value().unwrap();
            assert_eq!(value.get_name(), word.as_str());
        }
    }
}
