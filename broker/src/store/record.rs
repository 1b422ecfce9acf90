//! One upcall as it is remembered: the fields of its JSON document (upcalld.record(5)), in one place.
//!
//! The rule for change: fields and words may be added; nothing is renamed, removed or given another meaning within a
//! `version`. Every field is always there; `null` is what does not apply or could not be found out, and the latter is
//! named in `unknown`. Text that a tenant chose is escaped ([`upcall_config::text`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The document's name and version.
pub const SCHEMA: &str = "upcalld.record";
/// See [`SCHEMA`].
pub const VERSION: u32 = 1;

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Record {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Always [`VERSION`].
    pub version: u32,
    /// Eight characters.
    pub id: String,
    /// `core`, `key`, `module` or `umh`.
    pub kind: String,
    /// When the kernel asked: RFC 3339, UTC.
    pub time: String,
    /// The host's name.
    pub node: String,
    /// How many upcalls this record stands for; over 1 for refusals by rate.
    pub count: u64,
    /// Fields that could not be found out, as `container.image`.
    pub unknown: Vec<String>,
    /// The process that caused it.
    pub process: Process,
    /// The registered container it lives in or came into.
    pub container: Option<Container>,
    /// How we know.
    pub evidence: Evidence,
    /// What the policy said.
    pub verdict: Verdict,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it ended so, where it did not simply work: a stable word.
    pub reason: Option<String>,
    /// The same for people, and what to do.
    pub message: Option<String>,
    /// How long each step took.
    pub timings_us: Timings,
    /// What was done, in order.
    pub actions: Vec<Action>,
    /// What is particular to a core.
    pub core: Option<Core>,
    /// What is particular to a key.
    #[serde(default)]
    pub key: Option<Key>,
    /// What is particular to a module.
    #[serde(default)]
    pub module: Option<Module>,
    /// What is particular to any other program that the kernel starts.
    #[serde(default)]
    pub umh: Option<Umh>,
}

/// How an upcall ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not ended yet.
    Open,
    /// Everything that was to be done was done.
    Done,
    /// Some of it was.
    Partial,
    /// None of it was; what `on_failure` says may have been.
    Failed,
    /// A rule or a limit refused it.
    Refused,
    /// The kernel gave it and its data is gone.
    Lost,
    /// The kernel had it and we were not asked.
    Missed,
}

impl Outcome {
    /// The word used in records and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Missed => "missed",
        }
    }
}

/// The process. Numbers are the host's; `_inside` is the container's view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[expect(missing_docs, reason = "the names say it")]
pub struct Process {
    pub pid: Option<u32>,
    pub tid: Option<u32>,
    pub pid_inside: Option<u32>,
    pub tid_inside: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub uid_inside: Option<u32>,
    pub gid_inside: Option<u32>,
    pub comm: Option<String>,
    pub exe: Option<String>,
    pub cmdline: Option<Vec<String>>,
    pub cgroup: Option<String>,
    /// `initial`, `container` or `other`.
    pub user_namespace: Option<String>,
    pub kernel_thread: Option<bool>,
    pub dumpable: Option<u8>,
    pub no_new_privs: Option<bool>,
    /// `none`, `strict` or `filter`.
    pub seccomp: Option<String>,
    pub label: Option<String>,
    /// Inodes of its namespaces, by name.
    pub namespaces: BTreeMap<String, u64>,
}

/// The container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[expect(missing_docs, reason = "the names say it")]
pub struct Container {
    pub runtime: String,
    pub id: String,
    pub name: Option<String>,
    pub image: Option<String>,
    /// Without those that are over 1 KiB; `unknown` says so then.
    pub labels: Option<BTreeMap<String, String>>,
    pub owner_uid: u32,
    pub leader_pid: u32,
    /// Namespaces that it does not share with the host.
    pub own_namespaces: Vec<String>,
    pub pod: Option<Pod>,
}

/// The pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[expect(missing_docs, reason = "the names say it")]
pub struct Pod {
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub uid: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
}

/// How we know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Evidence {
    /// `kernel_pidfd`, `number_checked`, `auth_key`, `kprobe`, `scan`; `null` where the process is not known.
    pub process: Option<String>,
    /// How many processes it could have been.
    pub candidates: u32,
    /// What the container was accepted by.
    pub container: Vec<String>,
    /// Who claimed to be the container and was not believed, and why.
    pub refused_nominees: Vec<String>,
}

/// What the policy said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verdict {
    /// The rule that matched; `null`: none, and the default (`pass`) holds.
    pub rule: Option<Rule>,
    /// What was to be done: `run`, `store`, `pass`, `answer`, `deny`; `self_test`: nothing, it was the hook that was tried.
    pub actions: Vec<String>,
    /// Why nothing may run in a container for it: a reason word.
    pub host_only: Option<String>,
    /// The rules that were looked at, the nearest misses and the one that matched.
    pub trace: Vec<TraceStep>,
}

/// A rule, as it is cited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[expect(missing_docs, reason = "the names say it")]
pub struct Rule {
    pub file: String,
    pub line: u32,
    pub name: Option<String>,
}

/// One rule that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TraceStep {
    /// The rule's file.
    pub file: String,
    /// The line of its `[[rule]]`.
    pub line: u32,
    /// `yes`, `no` or `unknown`.
    #[serde(rename = "match")]
    pub result: String,
    /// The condition that said so; `null` for a match.
    pub key: Option<String>,
    /// What was found.
    pub is: Option<String>,
    /// What would have fitted.
    pub wants: Vec<String>,
}

/// Microseconds. `held` is how long the kernel waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[expect(missing_docs, reason = "the steps of docs/architecture.md")]
pub struct Timings {
    pub accept: Option<u64>,
    pub identify: Option<u64>,
    pub resolve: Option<u64>,
    pub decide: Option<u64>,
    pub admit: Option<u64>,
    pub launch: Option<u64>,
    pub actions: Option<u64>,
    pub record: Option<u64>,
    pub held: Option<u64>,
}

/// One thing that was done or tried.
#[expect(
    clippy::struct_field_names,
    reason = "the document's field is `action`"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Action {
    /// `run`, `store`, `deliver`, `file`, `pass` or `answer`.
    pub action: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, where it did not simply work.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// The step at which a program could not be started (upcall-enter(8)).
    pub stage: Option<String>,
    /// The error of that step, by name.
    pub errno: Option<String>,
    /// From the launch to the end.
    pub duration_us: Option<u64>,
    /// All but `store`: the program and its words.
    pub argv: Option<Vec<String>>,
    /// The code it exited with.
    pub exit_code: Option<u8>,
    /// The signal that killed it.
    pub signal: Option<String>,
    /// `run` in a container: the namespaces it was in, verified before it was executed.
    pub namespaces: Option<BTreeMap<String, u64>>,
    /// As whom, seen from the host.
    pub uid: Option<u32>,
    /// As whom, seen from the host.
    pub gid: Option<u32>,
    /// As whom, seen from inside.
    pub uid_inside: Option<u32>,
    /// As whom, seen from inside.
    pub gid_inside: Option<u32>,
    /// What it was allowed of capabilities.
    pub capabilities: Option<Vec<String>>,
    /// Its cgroup.
    pub cgroup: Option<String>,
    /// Bytes that it was given.
    pub fed_bytes: Option<u64>,
    /// The first of what it wrote.
    pub output: Option<String>,
    /// `store`: where it is.
    pub path: Option<String>,
    /// Bytes of the core, as far as it is kept.
    pub size_bytes: Option<u64>,
    /// Bytes that were written for them.
    pub stored_bytes: Option<u64>,
    /// How it is kept: `zstd` or `none`.
    pub compress: Option<String>,
    /// Whether there was more.
    pub truncated: Option<bool>,
    /// `kept`, or why it is there no more: `evicted` for another one of the same share, `expired`, `removed` by an
    /// admin.
    pub state: Option<String>,
    /// Whose share of the space for cores it takes: `runc/web`, `user/1000`.
    pub share: Option<String>,
}

impl Action {
    /// Why a core that was kept is there no more: the word of `state`; `None` while it is.
    pub fn gone(&self) -> Option<&str> {
        let state = self.state.as_deref();
        state.filter(|state| *state != "kept")
    }

    /// One that has not ended.
    pub fn new(action: &str) -> Self {
        Self {
            action: action.to_owned(),
            outcome: Outcome::Open,
            reason: None,
            message: None,
            stage: None,
            errno: None,
            duration_us: None,
            argv: None,
            exit_code: None,
            signal: None,
            namespaces: None,
            uid: None,
            gid: None,
            uid_inside: None,
            gid_inside: None,
            capabilities: None,
            cgroup: None,
            fed_bytes: None,
            output: None,
            path: None,
            size_bytes: None,
            stored_bytes: None,
            compress: None,
            truncated: None,
            state: None,
            share: None,
        }
    }
}

/// What the kernel wants loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Module {
    /// What it is asked for by, the tenant's own words in part.
    pub alias: String,
    /// The family of such aliases, as `net-pf-*`; `null` for one that is not known.
    pub family: Option<String>,
    /// Who can make the kernel ask: `any_user`, `any_user_namespace` (root of one), `host_root`; `null`: not known.
    pub who_can_ask: Option<String>,
}

/// Any other program that the kernel starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Umh {
    /// What it goes by: its path as the kernel has it, or the name of its setting.
    pub name: String,
    /// What is executed; `null`: nothing stood there before us.
    pub program: Option<String>,
    /// The kernel's words for it.
    pub words: Vec<String>,
    /// Whether the kernel is known to start it, with such words.
    pub known: bool,
}

/// What the kernel said about a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Core {
    /// `pipe`.
    pub hook: String,
    /// The signal's name.
    pub signal: Option<String>,
    /// Its number.
    pub signal_number: Option<u8>,
    /// Threads of the process.
    pub threads: Option<u32>,
    /// Its soft core limit; `null` is none.
    pub limit_bytes: Option<u64>,
}

/// What the kernel said about a key, and what it got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Key {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its description, the tenant's own words where the caller is a user.
    pub description: String,
    /// Its callout information, likewise.
    pub callout: Option<String>,
    /// Its serial number.
    pub serial: u32,
    /// `kernel`, `user`; `forged`: a user who claims to be the kernel.
    pub caller: String,
    /// `instantiated`: it got a payload of ours; `helper`: who was started answered, or what stood before us did;
    /// `rejected`: it was refused with `errno`; `null`: nobody answered, or nobody knows.
    pub answer: Option<String>,
    /// Bytes of the payload that we gave it.
    pub payload_bytes: Option<u64>,
    /// How long the answer is good for, in microseconds; `null`: for ever, or for the helper to say.
    pub ttl_us: Option<u64>,
    /// The error it was refused with, by name.
    pub errno: Option<String>,
}

#[cfg(test)]
mod tests;
