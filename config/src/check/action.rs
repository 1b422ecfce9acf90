//! What a rule does, apart from the details of `run`.

use std::ops::Range;

use toml::de::DeValue;

use super::table::{Item, Table, wrong_type};
use super::{Report, key, placed, run, value};
use crate::capability;
use crate::decide::Denial;
use crate::diagnostic::{Code, Diagnostic};
use crate::keys::{self, Keys};
use crate::plan::{Compress, Limit, OnFailure, Rate, Store};
use crate::rule::{Action, Actions};
use crate::upcall::Kind;

/// The actions that may stand together, and what each would do.
const TOGETHER: [(&str, &str); 4] = [
    ("run", "would run a helper"),
    ("store", "would keep a copy of the core"),
    ("deliver", "would give it to a socket"),
    ("file", "would write it to a file"),
];
/// The actions that stand alone.
const ALONE: [(&str, &str, &str); 3] = [
    (
        "answer",
        "a rule that answers can do nothing else",
        "gives the key its payload",
    ),
    (
        "deny",
        "a rule that denies can do nothing else",
        "refuses the upcall",
    ),
    (
        "pass",
        "a rule that passes can do nothing else",
        "gives it to what stood before us",
    ),
];
/// The rule's action, and the place of its program if it has a helper; `None` if something is wrong with it.
pub(super) fn action(
    report: &mut Report,
    table: &Table<'_>,
    header: Range<usize>,
    kind: Kind,
) -> Option<(Action, Option<Range<usize>>)> {
    conflicts(report, table);
    let before = report.errors();
    let run = table.item("run").map(|item| run::run(report, &item, kind));
    let store = table.item("store").map(|item| store(report, &item));
    let deliver = table
        .item("deliver")
        .map(|item| placed::deliver(report, &item));
    let file = table
        .item("file")
        .map(|item| placed::file(report, &item, kind));
    let deny = table.item("deny").map(|item| deny(report, &item, kind));
    let answer = table.item("answer").map(|item| key::answer(report, &item));
    let pass = table.item("pass").map(|item| pass(report, &item, kind));
    let on_failure = on_failure(report, table, kind);
    let kept = run.is_some() || store.is_some() || deliver.is_some() || file.is_some();
    if !kept && deny.is_none() && pass.is_none() && answer.is_none() {
        report.mistake_with_help(
            Code::NoAction,
            header,
            "this rule does nothing",
            match kind {
                Kind::Key => "add `run`, `answer`, `pass` or `deny`",
                Kind::Module | Kind::Umh => "add `pass` or `deny`",
                Kind::Core => "add `run`, `store`, `deliver`, `file`, `pass` or `deny`",
            },
        );
        return None;
    }
    if report.errors() != before {
        return None;
    }
    if let Some(denial) = deny {
        return Some((Action::Deny(denial?), None));
    }
    if let Some(answer) = answer {
        return Some((Action::Answer(answer?), None));
    }
    if let Some(capabilities) = pass {
        return Some((Action::Pass(capabilities?), None));
    }
    let (run, program) = match run {
        Some(run) => run.map(|(run, program)| (Some(run), Some(program)))?,
        None => (None, None),
    };
    let actions = Actions {
        run,
        store: store.flatten(),
        deliver: deliver.flatten(),
        file: file.flatten(),
        on_failure: on_failure.unwrap_or(if kind == Kind::Core {
            OnFailure::Store
        } else {
            OnFailure::Drop
        }),
    };
    Some((Action::Do(actions), program))
}

fn conflicts(report: &mut Report, table: &Table<'_>) {
    let together = TOGETHER.map(|(word, does)| (table.item(word), does));
    let alone = ALONE.map(|(word, _, does)| (table.item(word), does));
    let present = |list: &[(Option<Item<'_>>, &'static str)]| -> Vec<(Range<usize>, &'static str)> {
        list.iter()
            .filter_map(|(item, does)| Some((item.as_ref()?.key.clone(), *does)))
            .collect()
    };
    let (alone, together) = (present(&alone), present(&together));
    let Some(((first, does), others)) = alone.split_first() else {
        return;
    };
    if others.is_empty() && together.is_empty() {
        return;
    }
    let message = ALONE
        .iter()
        .find(|(_, _, d)| d == does)
        .map_or("these actions exclude each other", |(_, message, _)| {
            message
        });
    let label = report.label(first.clone(), *does);
    let mut diagnostic = Diagnostic::at(Code::ConflictingActions, message, label);
    for (span, does) in others.iter().chain(&together) {
        diagnostic = diagnostic.with(report.label(span.clone(), *does));
    }
    report.push(diagnostic);
}

/// `pass`: the capabilities that whatever it goes to may have.
fn pass(report: &mut Report, item: &Item<'_>, kind: Kind) -> Option<u64> {
    let table = item.rule_table(report)?;
    let Some(item) = table.item("capabilities") else {
        return Some(capability::ALL);
    };
    if !matches!(kind, Kind::Module | Kind::Umh) {
        let message = "`pass.capabilities` goes with `upcall = \"module\"` and `\"umh\"` only";
        let label = format!("this rule is for {kind}");
        report.mistake(Code::WrongKind, item.key.clone(), message, label);
        return None;
    }
    let known = keys::Words::Capabilities.list();
    let sets = item.one_or_more(report, |report, value| {
        item.word_of(report, value, "a capability", &known, capability::one)
    })?;
    Some(sets.into_iter().fold(0, |all, one| all | one))
}

fn store(report: &mut Report, item: &Item<'_>) -> Option<Store> {
    let table = item.rule_table(report)?;
    let max_size = table
        .item("max_size")
        .map(|item| size(report, &item, &keys::RULES));
    let ignore_limit = table.item("ignore_limit").map(|item| item.flag(report));
    Some(Store {
        compress: compress(report, &table)?,
        max_size: max_size.unwrap_or(Some(Store::DEFAULT_MAX_SIZE))?,
        ignore_limit: ignore_limit.unwrap_or(Some(false))?,
    })
}

fn compress(report: &mut Report, table: &Table<'_>) -> Option<Compress> {
    let find = |word: &str| match word {
        "zstd" => Some(true),
        "none" => Some(false),
        _ => None,
    };
    let zstd = table
        .item("compress")
        .map(|item| item.word(report, "how a core can be kept", &["zstd", "none"], find));
    let level = table.item("level").map(|item| {
        let Some(keys::Value::Count(least, most)) =
            keys::RULES.find(&item.name).map(|key| key.value)
        else {
            return None;
        };
        if zstd == Some(Some(false)) {
            let message = "`store.level` is of zstd, and `store.compress` is \"none\"";
            report.mistake(Code::MissingKey, item.key.clone(), message, "remove it");
        }
        item.count(report, least, most)
            .and_then(|level| u8::try_from(level).ok())
    });
    match (zstd.unwrap_or(Some(true))?, level) {
        (false, _) => Some(Compress::None),
        (true, None) => Some(Store::DEFAULT_COMPRESS),
        (true, Some(level)) => Some(Compress::Zstd(level?)),
    }
}

fn deny(report: &mut Report, item: &Item<'_>, kind: Kind) -> Option<Denial> {
    let table = item.rule_table(report)?;
    let refusal = key::denial(report, &table, kind);
    let Some(reason) = table.item("reason") else {
        report.mistake_with_help(
            Code::MissingKey,
            item.key.clone(),
            "`deny` does not say why",
            "add `reason = \"...\"`; it is shown to whoever asks what became of the upcall",
        );
        return None;
    };
    let reason = reason.text(report)?.into();
    let (errno, ttl) = refusal?;
    Some(Denial { reason, errno, ttl })
}

fn on_failure(report: &mut Report, table: &Table<'_>, kind: Kind) -> Option<OnFailure> {
    let item = table.item("on_failure")?;
    let find = |word: &str| match word {
        "store" => Some(OnFailure::Store),
        "pass" => Some(OnFailure::Pass),
        "drop" => Some(OnFailure::Drop),
        _ => None,
    };
    let known = ["store", "pass", "drop"];
    let on_failure = item.word(report, "what can be done instead", &known, find)?;
    if kind == Kind::Key && on_failure == OnFailure::Store {
        report.mistake(
            Code::WrongKind,
            item.value.span(),
            "a key cannot be stored",
            "write \"drop\" (the key is refused) or \"pass\"",
        );
    }
    if !["run", "deliver", "file"]
        .iter()
        .any(|word| table.item(word).is_some())
    {
        report.mistake(
            Code::MissingKey,
            item.key.clone(),
            "`on_failure` says what happens when `run`, `deliver` or `file` fails, and there is none of them",
            "remove it",
        );
    }
    if let Some(store) = table
        .item("store")
        .filter(|_| on_failure == OnFailure::Pass)
    {
        let label = report.label(item.key.clone(), "would give it away as well");
        let message = "a core of which a copy is kept cannot be passed on as well";
        let kept = report.label(store.key, "keeps a copy, also when the helper fails");
        report.push(Diagnostic::at(Code::ConflictingActions, message, label).with(kept));
    }
    Some(on_failure)
}

/// `limit`.
pub(super) fn limit(report: &mut Report, item: &Item<'_>) -> Option<Limit> {
    let table = item.rule_table(report)?;
    let rate = table.item("rate").map(|item| rate(report, &item));
    let concurrent = table
        .item("concurrent")
        .map(|item| item.count(report, 1, 1024));
    if rate.is_none() && concurrent.is_none() {
        report.mistake_with_help(
            Code::MissingKey,
            item.key.clone(),
            "`limit` limits nothing",
            "add `rate = \"10/min\"`, `concurrent = 2` or both",
        );
    }
    Some(Limit {
        rate: rate.flatten(),
        concurrent: concurrent.flatten().and_then(|n| u32::try_from(n).ok()),
    })
}

fn rate(report: &mut Report, item: &Item<'_>) -> Option<Rate> {
    let Some(text) = item.value.get_ref().as_str() else {
        wrong_type(report, item, item.value, "a rate such as \"10/min\"");
        return None;
    };
    match value::rate(text) {
        Ok(rate) => Some(rate),
        Err(help) => {
            let message = format!("`{text}` is not a rate");
            report.mistake(Code::BadRate, item.value.span(), message, help);
            None
        }
    }
}

/// A size, not less than its key allows.
pub(super) fn size(report: &mut Report, item: &Item<'_>, keys: &Keys) -> Option<u64> {
    let bytes = match item.value.get_ref() {
        DeValue::String(text) => match value::size(text) {
            Ok(bytes) => bytes,
            Err(help) => {
                let message = format!("`{text}` is not a size");
                report.mistake(Code::BadSize, item.value.span(), message, help);
                return None;
            }
        },
        DeValue::Integer(_) => {
            let number = item.integer_of(report, item.value)?;
            let Ok(bytes) = u64::try_from(number) else {
                let message = format!("`{}` is a number of bytes", item.name);
                report.mistake(Code::BadSize, item.value.span(), message, "not less than 0");
                return None;
            };
            bytes
        }
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            wrong_type(report, item, item.value, "a size such as \"4GiB\"");
            return None;
        }
    };
    let least = match keys.find(&item.name).map(|key| key.value) {
        Some(keys::Value::Size(least)) => least,
        _ => 0,
    };
    if bytes < least {
        let message = format!("`{}` is at least {}", item.name, value::size_text(least));
        report.mistake(
            Code::BadRange,
            item.value.span(),
            message,
            "too small to be of use",
        );
        return None;
    }
    Some(bytes)
}
