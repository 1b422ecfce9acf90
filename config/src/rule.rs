//! Rules after checking: what is left is right, bounded, and ready to be decided by.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::decide::Denial;
use crate::diagnostic::{Code, Diagnostic, Label};
use crate::facts::{Runtime, UserNamespace};
use crate::field::Field;
use crate::keytype::Caller;
use crate::pattern::Pattern;
use crate::placed::Protocol;
use crate::plan::{Answer, Cgroup, Limit, OnFailure, Place, Program, Store, User};
use crate::template::Template;
use crate::text::{Escaped, printable};
use crate::upcall::{Kind, Signal};

/// All rules, in the order in which they are looked at. First match wins; no match: `pass`.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    pub(crate) rules: Vec<Rule>,
    pub(crate) host_programs: Vec<HostProgram>,
    pub(crate) containers: Vec<Declared>,
}

impl Policy {
    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule with this position, as a [`crate::decide::Decision`] names it.
    pub fn rule(&self, index: usize) -> Option<&Rule> {
        self.rules.get(index)
    }

    /// Every program of the host that a rule starts, for checks that need the program itself.
    pub fn host_programs(&self) -> &[HostProgram] {
        &self.host_programs
    }

    /// Containers that the admin declares, in the order of their files.
    pub fn containers(&self) -> &[Declared] {
        &self.containers
    }
}

/// One `[[container]]`: what no runtime registers.
#[derive(Debug, Clone)]
pub struct Declared {
    pub(crate) name: Arc<str>,
    pub(crate) found_by: FoundBy,
    /// Its `name`.
    pub(crate) place: Label,
}

impl Declared {
    /// What rules and records call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is found.
    pub fn found_by(&self) -> &FoundBy {
        &self.found_by
    }
}

/// How a declared container is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundBy {
    /// It is this service or scope of systemd's.
    Unit(Arc<str>),
    /// It is this cgroup, by its absolute path as the host sees it, without `.`, `..` and double slashes.
    Cgroup(Arc<str>),
    /// Its init's number is in this file.
    PidFile(Arc<Path>),
}

/// One `[[rule]]`.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(crate) source: RuleRef,
    pub(crate) kind: Kind,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) names_owner: bool,
    pub(crate) action: Action,
    /// What runs on the host when all is done.
    pub(crate) post: Option<Vec<Template>>,
    pub(crate) limit: Option<Limit>,
    /// What to underline when the rule as a whole is meant: its `match`, else its header.
    pub(crate) place: Label,
    /// Its `name`.
    pub(crate) name_place: Option<Label>,
}

impl Rule {
    /// Where it stands and what it is called.
    pub fn source(&self) -> &RuleRef {
        &self.source
    }

    /// Whose upcalls it is for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// All must hold; in the order in which they are looked at.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Whether it names `match.container.owner`, and so sees containers whose state a user wrote.
    pub fn names_owner(&self) -> bool {
        self.names_owner
    }

    /// Whether it refuses; then a condition that is unknown counts as one that holds.
    pub fn denies(&self) -> bool {
        matches!(self.action, Action::Deny(_))
    }

    /// The words of its actions, as records name them.
    pub fn actions(&self) -> Vec<&'static str> {
        match &self.action {
            Action::Deny(_) => vec!["deny"],
            Action::Pass(_) => vec!["pass"],
            Action::Answer(_) => vec!["answer"],
            Action::Do(actions) => {
                let words = [
                    actions.run.as_ref().map(|_| "run"),
                    actions.store.as_ref().map(|_| "store"),
                    actions.deliver.as_ref().map(|_| "deliver"),
                    actions.file.as_ref().map(|_| "file"),
                ];
                words.into_iter().flatten().collect()
            }
        }
    }

    /// Its `limit`.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }
}

/// Where a rule stands; cheap to clone. Displayed as people cite it: `50-shop.toml:12`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// The file.
    pub file: Arc<Path>,
    /// The line of its `[[rule]]`, from 1.
    pub line: u32,
    /// Its `name`.
    pub name: Option<Arc<str>>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.file.file_name().unwrap_or(self.file.as_os_str());
        write!(f, "{}:{}", printable(&name.to_string_lossy()), self.line)
    }
}

/// One thing that must hold.
#[derive(Debug, Clone)]
pub struct Condition {
    pub(crate) field: Field,
    pub(crate) label: Option<Box<str>>,
    pub(crate) test: Test,
    /// Its key in the rule's file.
    pub(crate) span: Range<usize>,
}

impl Condition {
    /// What is looked at.
    pub fn field(&self) -> Field {
        self.field
    }

    /// The key as rules write it, without `match.`: `container.runtime`, `pod.label.tier`.
    pub fn key(&self) -> String {
        match &self.label {
            Some(label) => format!("{}.{}", self.field.key(), printable(label)),
            None => self.field.key().to_owned(),
        }
    }
}

/// What a condition wants; one of the values must fit.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    /// It is there.
    Present,
    Numbers(Vec<RangeInclusive<u32>>),
    Text(Vec<Pattern>),
    Runtimes(Vec<Runtime>),
    UserNamespaces(Vec<UserNamespace>),
    Signals(Vec<Signal>),
    Callers(Vec<Caller>),
    Flags(Vec<bool>),
}

/// What a rule does.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Deny(Denial),
    /// The capabilities that whatever it goes to may have.
    Pass(u64),
    /// A key's payload.
    Answer(Answer),
    Do(Actions),
}

/// The actions that may stand together.
#[derive(Debug, Clone)]
pub(crate) struct Actions {
    pub(crate) run: Option<RunRule>,
    pub(crate) store: Option<Store>,
    pub(crate) deliver: Option<DeliverRule>,
    pub(crate) file: Option<FileRule>,
    pub(crate) on_failure: OnFailure,
}

/// `run`, as written.
#[derive(Debug, Clone)]
pub(crate) struct RunRule {
    pub(crate) place: Place,
    pub(crate) program: Program,
    pub(crate) argv: Vec<Template>,
    pub(crate) user: User,
    pub(crate) timeout: Duration,
    pub(crate) cgroup: Cgroup,
    pub(crate) memory: Option<u64>,
    pub(crate) address_space: Option<u64>,
    pub(crate) without_user_namespace: bool,
    pub(crate) trusted_container: bool,
    /// Whether its standard input is the core.
    pub(crate) core: bool,
    /// Files of the container that a program beside it sees.
    pub(crate) files: Vec<String>,
}

/// `deliver`, as written.
#[derive(Debug, Clone)]
pub(crate) struct DeliverRule {
    pub(crate) protocol: Protocol,
    pub(crate) socket: Arc<str>,
    pub(crate) timeout: Duration,
    pub(crate) without_user_namespace: bool,
    pub(crate) trusted_container: bool,
}

/// `file`, as written.
#[derive(Debug, Clone)]
pub(crate) struct FileRule {
    pub(crate) path: Template,
    pub(crate) ignore_limit: bool,
}

/// A program of the host that a rule starts: `host_program`, or `command` with `in = "host"`.
#[derive(Debug, Clone)]
pub struct HostProgram {
    pub(crate) rule: usize,
    pub(crate) program: Program,
    pub(crate) place: Label,
    pub(crate) path: Arc<Path>,
}

impl HostProgram {
    /// The position of its rule.
    pub fn rule(&self) -> usize {
        self.rule
    }

    /// [`Program::HostElf`] must be static, because it runs among a container's libraries; a
    /// [`Program::Path`] need only be there.
    pub fn program(&self) -> Program {
        self.program
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mistake of naming a program that needs libraries of the host; `interpreter` is what its ELF header asks
    /// for, such as `/lib64/ld-linux-x86-64.so.2`.
    pub fn is_dynamic(&self, interpreter: &[u8]) -> Diagnostic {
        let shown = printable(&self.path.to_string_lossy());
        let needs = format!("it needs {}", Escaped(interpreter));
        Diagnostic::at(
            Code::DynamicHostProgram,
            format!("{shown} cannot be executed inside a container"),
            self.place.saying(needs),
        )
        .help("link it statically, or have it in the image and use `command`")
    }

    /// The warning that the program cannot be started as things are; `why` is one clause, such as
    /// `ENOENT: there is no such file`.
    pub fn is_missing(&self, why: &str) -> Diagnostic {
        let shown = printable(&self.path.to_string_lossy());
        Diagnostic::at(
            Code::MissingHostProgram,
            format!("{shown} cannot be started on this host"),
            self.place.saying(why),
        )
        .help("until it is there, `on_failure` decides what happens instead")
    }
}
