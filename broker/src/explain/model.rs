//! Questions and answers of explaining, as plain data.

use serde::{Deserialize, Serialize};
use upcall_config::explain::RuleExplanation;
use upcall_config::keytype::KeyUpcall;
use upcall_config::matcher::Truth;
use upcall_config::text::escape;

use crate::store::record::{Container, Module, Process, Umh};

/// The document's name and version.
pub const SCHEMA: &str = "upcalld.explanation";
/// See [`SCHEMA`].
pub const VERSION: u32 = 1;

/// The answer of `upcallctl explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Always [`VERSION`].
    pub version: u32,
    /// The record that was explained; `null`: a live process.
    pub record: Option<String>,
    /// The process, as a record would have it.
    pub process: Process,
    /// Its container.
    pub container: Option<Container>,
    /// The key that is wanted; `null`: another kind of upcall.
    #[serde(default)]
    pub key: Option<KeyText>,
    /// The module that is wanted; `null`: another kind of upcall.
    #[serde(default)]
    pub module: Option<Module>,
    /// The program that the kernel would start; `null`: another kind of upcall.
    #[serde(default)]
    pub umh: Option<Umh>,
    /// Nominees that were not believed.
    pub refused_nominees: Vec<String>,
    /// What must hold before anything may run in the container, in order.
    pub checks: Vec<Check>,
    /// Why nothing may run in a container, whatever the rules say: a reason word.
    pub host_only: Option<String>,
    /// What could not be found out, and what it was taken for.
    pub taken_for: Vec<String>,
    /// Why it is refused before any rule is looked at; `null`: it is not.
    #[serde(default)]
    pub refused: Option<String>,
    /// The rules that were looked at.
    pub rules: Vec<RuleText>,
    /// How many later rules were not.
    pub not_looked_at: usize,
    /// Rules of other kinds.
    pub other_kinds: usize,
    /// Rules in force.
    pub rules_loaded: usize,
    /// What would be done.
    pub plan: PlanText,
}

/// A key, as a record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in a record")]
pub struct KeyText {
    #[serde(rename = "type")]
    pub kind: String,
    pub description: String,
    pub callout: Option<String>,
    pub caller: String,
}

impl KeyText {
    pub(super) fn new(key: &KeyUpcall, forged: bool) -> Self {
        Self {
            kind: escape(&key.kind),
            description: escape(&key.description),
            callout: key.callout.as_deref().map(escape),
            caller: if forged {
                "forged".to_owned()
            } else {
                key.caller.to_string()
            },
        }
    }
}

/// One check that comes before all rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is checked.
    pub name: String,
    /// `yes`, `no` or `unknown`.
    pub result: String,
    /// Why not.
    pub why: Option<String>,
}

/// A rule and its conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in upcall_config::explain")]
pub struct RuleText {
    pub rule: String,
    pub name: Option<String>,
    pub result: String,
    pub takes: bool,
    pub conditions: Vec<ConditionText>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in upcall_config::explain")]
pub struct ConditionText {
    pub key: String,
    pub is: String,
    pub wants: Vec<String>,
    pub result: String,
    pub hint: Option<String>,
}

/// The plan, a line each: a word and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanText {
    /// The rule that decides; `null`: none does, and the default holds.
    pub rule: Option<String>,
    /// `run`, `store`, `pass`, `deny` …, and the sentence.
    pub lines: Vec<(String, String)>,
}

/// What is to be explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Of which process.
    pub of: Subject,
    /// What it does; of a record it is the record's.
    #[serde(flatten)]
    pub does: Does,
    /// Also the rules behind the one that matches.
    pub all: bool,
}

/// What a process is taken to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Does {
    /// It crashes by this signal, without `SIG`.
    Signal(String),
    /// It needs this key.
    Key(KeyAsked),
    /// It makes the kernel want this module; the alias as records have it.
    Module(String),
    /// It makes the kernel start this program, by what that goes by.
    Umh(String),
}

/// A key that a process is taken to need; texts as records have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAsked {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its description.
    pub description: String,
    /// The callout information.
    pub callout: String,
    /// `kernel` or `user`; `None`: whoever usually asks for such keys.
    pub caller: Option<String>,
}

/// Whose upcall is explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A live process.
    Pid(u32),
    /// The init of a running container, by name or id.
    Container(String),
    /// A record, by id or the start of one.
    Record(String),
}

impl Explanation {
    pub(super) fn new(process: Process, container: Option<Container>) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            version: VERSION,
            record: None,
            process,
            container,
            key: None,
            module: None,
            umh: None,
            refused_nominees: Vec::new(),
            checks: Vec::new(),
            host_only: None,
            taken_for: Vec::new(),
            refused: None,
            rules: Vec::new(),
            not_looked_at: 0,
            other_kinds: 0,
            rules_loaded: 0,
            plan: PlanText {
                rule: None,
                lines: Vec::new(),
            },
        }
    }
}

impl Check {
    pub(super) fn new(name: &str, result: Truth, why: Option<String>) -> Self {
        Self {
            name: name.to_owned(),
            result: result.as_str().to_owned(),
            why,
        }
    }

    pub(super) fn unless(name: &str, why: Option<String>) -> Self {
        let result = if why.is_none() { Truth::Yes } else { Truth::No };
        Self::new(name, result, why)
    }

    pub(super) fn registered(registered: bool) -> Self {
        let why = "it lives in no container that root's state proves";
        Self::unless("registered", (!registered).then(|| why.to_owned()))
    }

    pub(super) fn claims(forged: bool) -> Self {
        let why = "it claims to be the kernel";
        Self::unless("not forged", forged.then(|| why.to_owned()))
    }

    pub(super) fn dumpable(dumpable: Truth) -> Self {
        let why = "its credentials changed, so its core is root's alone";
        let why = (dumpable == Truth::No).then(|| why.to_owned());
        Self::new("dumpable is 1", dumpable, why)
    }
}

/// A rule as the answer has it.
pub(super) fn rule_text(explained: RuleExplanation) -> RuleText {
    let name = explained.rule.name.as_deref();
    RuleText {
        rule: explained.rule.to_string(),
        name: name.map(upcall_config::text::printable),
        result: explained.result.as_str().to_owned(),
        takes: explained.takes,
        conditions: explained
            .conditions
            .into_iter()
            .map(|condition| ConditionText {
                key: condition.key,
                is: condition.is.to_string(),
                wants: condition.wants.iter().map(ToString::to_string).collect(),
                result: condition.result.as_str().to_owned(),
                hint: condition.hint,
            })
            .collect(),
    }
}
