//! A rule for what was refused, to be read by an admin before it is put anywhere.
//!
//! Names and aliases are tenants' words in part. What goes into a rule is of letters that have no meaning in a pattern or
//! in TOML; what has others is told of in a comment, escaped, and left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use upcalld::store::record::{Container, Outcome};

use super::Asked;
use crate::row::file_name;

/// Aliases in one rule.
const ALIASES_MAX: usize = 64;

/// What one container was refused.
#[derive(Default)]
struct Refused<'a> {
    aliases: BTreeSet<&'a str>,
    odd: BTreeSet<&'a str>,
    times: u64,
    anybody: bool,
    /// The rule that refused it last.
    by: Option<String>,
}

/// The rules, with comments.
pub(super) fn rules(all: &[Asked]) -> String {
    let mut of: BTreeMap<String, Refused<'_>> = BTreeMap::new();
    let (mut unregistered, mut unnamed) = (0_u64, 0_u64);
    for asked in all {
        let record = &asked.last;
        let by_rule =
            record.outcome == Outcome::Refused && record.reason.as_deref() == Some("rule");
        let (true, Some(module)) = (by_rule, &record.module) else {
            continue;
        };
        let Some(container) = &record.container else {
            unregistered = unregistered.saturating_add(asked.times);
            continue;
        };
        let Some(name) = named(container) else {
            unnamed = unnamed.saturating_add(asked.times);
            continue;
        };
        let refused = of.entry(name).or_default();
        if is_plain(&module.alias) && refused.aliases.len() < ALIASES_MAX {
            refused.aliases.insert(&module.alias);
            let who = module.who_can_ask.as_deref();
            refused.anybody |= who.is_some_and(|who| who.starts_with("any_user"));
        } else {
            refused.odd.insert(&module.alias);
        }
        refused.times = refused.times.saturating_add(asked.times);
        let rule = record.verdict.rule.as_ref();
        refused.by = rule.map(|rule| format!("{}:{}", file_name(&rule.file), rule.line));
    }
    let mut text = String::new();
    for (name, refused) in &of {
        text += &rule(name, refused);
    }
    if unregistered > 0 {
        let _ = writeln!(
            text,
            "# {unregistered} more were refused to processes in no registered container: nothing is suggested for those."
        );
    }
    if unnamed > 0 {
        let _ = writeln!(
            text,
            "# {unnamed} more were refused to containers whose id or pod no rule can name: nothing is suggested for those."
        );
    }
    if text.is_empty() {
        "# No rule has refused a container a module.\n".clone_into(&mut text);
    }
    text
}

/// One rule, or why there is none.
fn rule(name: &str, refused: &Refused<'_>) -> String {
    let mut text = String::new();
    let by = refused.by.as_deref().unwrap_or("the rule that refused it");
    let times = refused.times;
    let _ = writeln!(
        text,
        "# Refused: {times}. A module that is loaded is there for every container."
    );
    if refused.anybody {
        text += "# Some of it any user in the container can have loaded, by a system call.\n";
    }
    for odd in refused.odd.iter().take(ALIASES_MAX) {
        let _ = writeln!(
            text,
            "# Left out, because of its letters or their number: {}",
            plain_comment(odd)
        );
    }
    if refused.aliases.is_empty() {
        return text + "\n";
    }
    let aliases = refused.aliases.iter().map(|alias| format!("\"{alias}\""));
    let aliases: Vec<String> = aliases.collect();
    let _ = writeln!(
        text,
        "# Put this before {}, then: upcallctl check && upcallctl reload\n\
         [[rule]]\n{name}\nmatch.module    = [{}]\npass   = {{}}\nlimit  = {{ rate = \"60/min\", concurrent = 4 }}\n",
        plain_comment(by),
        aliases.join(", "),
    );
    text
}

/// The lines that name a container, and the rule: by its name if that is a usable one, else by its id. `None` where what
/// is left would name others too.
fn named(container: &Container) -> Option<String> {
    let runtime = &container.runtime;
    let plain = |text: Option<&str>| text.filter(|text| is_plain(text)).map(str::to_owned);
    let (key, word) = match plain(container.name.as_deref()) {
        Some(name) => ("name", name),
        None => ("id", plain(Some(&container.id))?),
    };
    let pod = container.pod.as_ref();
    let namespace = match pod.and_then(|pod| pod.namespace.as_deref()) {
        Some(namespace) => Some(plain(Some(namespace))?),
        None => None,
    };
    let before = namespace.as_ref().map(|namespace| format!("{namespace}/"));
    let before = before.unwrap_or_default();
    let owner = container.owner_uid;
    let mut text = format!(
        "name   = \"{before}{word} may have what it asked for\"\nupcall = \"module\"\n\
         match.container = {{ runtime = \"{runtime}\", {key} = \"{word}\", owner = {owner} }}"
    );
    if let Some(namespace) = namespace {
        let _ = write!(
            text,
            "\nmatch.pod       = {{ namespace = \"{namespace}\" }}"
        );
    }
    Some(text)
}

/// Letters without a meaning in patterns and texts.
fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,:+()".contains(&byte);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(plain)
}

/// A record's text has no control characters; what is not ASCII could still turn a line around.
fn plain_comment(text: &str) -> String {
    text.escape_default().take(200).collect()
}
