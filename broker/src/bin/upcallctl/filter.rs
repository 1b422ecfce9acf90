//! Which records are meant: the same filters for tables, JSON and the live view.

use clap::Args;
use upcall_config::facts::Reason;
use upcalld::store::record::{Container, Outcome, Record};

use crate::cli::signal;
use crate::row::file_name;

/// Actions that a record can name.
const ACTIONS: [&str; 8] = [
    "run",
    "store",
    "deliver",
    "file",
    "pass",
    "answer",
    "deny",
    "self_test",
];

/// The filters; all that are given must hold.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Filter {
    #[command(flatten)]
    pub(crate) whose: Whose,
    /// Only this kind
    #[arg(long, value_name = "KIND", value_parser = ["core", "key", "module", "umh"])]
    pub(crate) kind: Option<String>,
    /// Only with this action (run, store, deliver, file, pass, answer, deny), outcome (done, partial, failed, refused, lost, missed) or
    /// reason (rate_limit, helper_exit, …)
    #[arg(long, value_name = "WORD", value_parser = verdict)]
    pub(crate) verdict: Option<String>,
}

/// Whose upcalls: what `list`, `watch` and `cores` have in common.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Whose {
    /// Only of this container: name, id or the start of one, runtime/name; `*` and `?` as in file names
    #[arg(long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Only of this pod: name or namespace/name; `*` and `?` as in file names
    #[arg(long, value_name = "NAME")]
    pub(crate) pod: Option<String>,
    /// Only of containers of this image; `*` and `?` as in file names
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Option<String>,
    /// Only of this program: its path or the last part of it; `*` and `?` as in file names
    #[arg(long, value_name = "PATH")]
    pub(crate) exe: Option<String>,
    /// Only crashes by this signal, by name or number
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    pub(crate) signal: Option<String>,
}

impl Filter {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            whose,
            kind,
            verdict,
        } = self;
        whose.is_empty() && kind.is_none() && verdict.is_none()
    }

    /// Whether a record is meant.
    pub(crate) fn takes(&self, record: &Record) -> bool {
        self.whose.takes(record)
            && holds(self.kind.as_ref(), |kind| record.kind == kind)
            && holds(self.verdict.as_ref(), |word| is_verdict(record, word))
    }
}

impl Whose {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            container,
            pod,
            image,
            exe,
            signal,
        } = self;
        [container, pod, image, exe, signal]
            .iter()
            .all(|filter| filter.is_none())
    }

    /// Whether a record is meant.
    pub(crate) fn takes(&self, record: &Record) -> bool {
        let container = record.container.as_ref();
        let of = |test: &dyn Fn(&Container) -> bool| container.is_some_and(test);
        let exe = record.process.exe.as_deref();
        let signal = record.core.as_ref().and_then(|core| core.signal.as_deref());
        holds(self.container.as_ref(), |name| {
            of(&|container| is_container(container, name))
        }) && holds(self.pod.as_ref(), |name| {
            of(&|container| is_pod(container, name))
        }) && holds(self.image.as_ref(), |name| {
            of(&|container| {
                let image = container.image.as_deref();
                image.is_some_and(|image| matches(name, image))
            })
        }) && holds(self.exe.as_ref(), |wanted| {
            exe.is_some_and(|exe| matches(wanted, exe) || matches(wanted, file_name(exe)))
        }) && holds(self.signal.as_ref(), |wanted| signal == Some(wanted))
    }
}

fn holds(filter: Option<&String>, test: impl Fn(&str) -> bool) -> bool {
    filter.is_none_or(|filter| test(filter))
}

fn is_container(container: &Container, wanted: &str) -> bool {
    let Container {
        runtime, id, name, ..
    } = container;
    let name = name.as_deref().unwrap_or(id);
    matches(wanted, name)
        || matches(wanted, &format!("{runtime}/{name}"))
        || matches(wanted, id)
        || (wanted.len() >= 4 && id.starts_with(wanted))
}

fn is_pod(container: &Container, wanted: &str) -> bool {
    let Some(pod) = &container.pod else {
        return false;
    };
    let name = pod.name.as_deref().unwrap_or_default();
    let namespace = pod.namespace.as_deref().unwrap_or_default();
    matches(wanted, name) || matches(wanted, &format!("{namespace}/{name}"))
}

fn is_verdict(record: &Record, word: &str) -> bool {
    let verdict = &record.verdict;
    record.outcome.as_str() == word
        || record.reason.as_deref() == Some(word)
        || verdict.actions.iter().any(|action| action == word)
        || record
            .actions
            .iter()
            .any(|action| action.action == word || action.reason.as_deref() == Some(word))
}

/// A word that a verdict can have.
fn verdict(word: &str) -> Result<String, String> {
    const OUTCOMES: [Outcome; 6] = [
        Outcome::Done,
        Outcome::Partial,
        Outcome::Failed,
        Outcome::Refused,
        Outcome::Lost,
        Outcome::Missed,
    ];
    let outcomes = OUTCOMES.iter().map(|outcome| outcome.as_str());
    let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
    let words: Vec<&str> = ACTIONS.into_iter().chain(outcomes).chain(reasons).collect();
    if words.contains(&word) {
        Ok(word.to_owned())
    } else {
        Err(format!(
            "not a word of a verdict; known are {}",
            words.join(" ")
        ))
    }
}

/// Whether the text fits a pattern of letters, `*` (any of them) and `?` (one).
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0, 0);
    // The last star, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match (pattern.get(at), text.get(seen)) {
            (Some(b'*'), _) => {
                star = Some((at, seen));
                at += 1;
            }
            (Some(wanted), Some(found)) if *wanted == b'?' || wanted == found => {
                at += 1;
                seen += 1;
            }
            _ => match &mut star {
                Some((place, taken)) => {
                    *taken += 1;
                    (at, seen) = (*place + 1, *taken);
                }
                None => return false,
            },
        }
    }
    let rest = pattern.get(at..).unwrap_or_default();
    rest.iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given;

    #[test]
    fn stars_and_question_marks_are_as_in_file_names() {
        for (pattern, text, fits) in [
            ("web", "web", true),
            ("web", "web-1", false),
            ("web-*", "web-1", true),
            ("*", "", true),
            ("w?b*", "wab", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn all_filters_must_hold() {
        let record = given::shop();
        let takes = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter.takes(&record)
        };
        assert!(takes(|_| {}));
        assert!(takes(|f| f.whose.container = Some("web".into())));
        assert!(takes(|f| f.whose.container = Some("3f9c1e".into())));
        assert!(takes(|f| f.whose.container = Some("containerd/w*".into())));
        assert!(takes(|f| f.whose.pod = Some("shop/web-*".into())));
        assert!(takes(|f| f.whose.pod = Some("web-7c9f-x2lqk".into())));
        assert!(takes(|f| f.whose.image = Some("registry.local/*".into())));
        assert!(takes(|f| f.whose.exe = Some("shopd".into())));
        assert!(takes(|f| f.whose.exe = Some("/usr/bin/*".into())));
        assert!(takes(|f| f.whose.signal = Some("SEGV".into())));
        for word in ["run", "store", "done"] {
            let filter = Filter {
                verdict: verdict(word).ok(),
                ..Filter::default()
            };
            assert!(filter.takes(&record), "{word}");
        }
        assert!(!takes(|f| f.whose.pod = Some("shop".into())));
        assert!(!takes(|f| f.whose.image = Some("shop".into())));
        assert!(!takes(|f| f.whose.exe = Some("shop".into())));
        assert!(!takes(|f| f.whose.signal = Some("ABRT".into())));
        assert!(!takes(|f| f.verdict = Some("refused".into())));
        assert!(!takes(|f| {
            f.whose.container = Some("web".into());
            f.kind = Some("key".into());
        }));
        let host = given::host();
        let filter = Whose {
            container: Some("*".into()),
            ..Whose::default()
        };
        assert!(!filter.takes(&host));
    }

    #[test]
    fn a_verdict_is_a_known_word() {
        assert!(verdict("rate_limit").is_ok() && verdict("pass").is_ok());
        let error = verdict("refuse").unwrap_err();
        assert!(
            error.contains("refused") && error.contains("rate_limit"),
            "{error}"
        );
    }
}
