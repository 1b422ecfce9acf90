//! The decision: a pure function of the policy, the upcall and the facts.
//!
//! The only constructor of a [`Plan`] is here. What it does not do: look at the clock, count, read a file. So the
//! daemon, `upcallctl explain` and a test that call it with the same facts get the same answer.

use std::sync::Arc;

use crate::facts::{Confinement, ContainerFacts, Facts, Reason, UserNamespace};
use crate::matcher::{self, Truth, View};
use crate::plan::{OnFailure, Place, Plan, Refusal, Run, User};
use crate::rule::{Action, Actions, Policy, Rule, RunRule};
use crate::template::Placeholder;
use crate::upcall::Upcall;

/// What the policy says about one upcall, and why.
#[derive(Debug, Clone)]
#[must_use]
pub struct Decision {
    /// What is to be done.
    pub verdict: Verdict,
    /// Position of the rule that matched; `None`: none did, and the kind's default holds.
    pub rule: Option<usize>,
    /// The rules that were looked at.
    pub trace: Trace,
}

/// Refuse, or do what the plan says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Nothing is done; the kernel is told so.
    Deny(Denial),
    /// This is done and nothing else.
    Do(Plan),
}

/// Why a rule refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The admin's own words, `deny.reason`.
    pub reason: Arc<str>,
}

/// Which rules were looked at, with what result. Small: texts are made by [`crate::explain::explain`] on demand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    pub(crate) steps: Vec<Step>,
}

/// One rule that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its position in the policy.
    pub rule: usize,
    /// Whether its conditions hold.
    pub result: Truth,
    /// The condition that says why not: the first that does not hold, else the first that is unknown.
    pub condition: Option<usize>,
}

impl Trace {
    /// The rules of the upcall's kind that were looked at, in order; the last one matched, if any did.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// Decides: the first rule of the upcall's kind whose conditions hold; no such rule: `pass`.
///
/// `record_id` is filled in for `{record}`.
pub fn decide(policy: &Policy, upcall: &Upcall, facts: &Facts, record_id: &str) -> Decision {
    let mut steps = Vec::with_capacity(policy.rules.len());
    for (position, rule) in policy.rules.iter().enumerate() {
        if rule.kind != upcall.kind() {
            continue;
        }
        let view = View::new(rule, upcall, facts);
        let (result, condition) = matcher::evaluate(rule, &view);
        steps.push(Step {
            rule: position,
            result,
            condition,
        });
        if matcher::takes(rule, result) {
            let context = Context {
                rule,
                upcall,
                facts,
                container: view.container(),
                record_id,
            };
            return Decision {
                verdict: context.verdict(),
                rule: Some(position),
                trace: Trace { steps },
            };
        }
    }
    Decision {
        verdict: Verdict::Do(pass(None)),
        rule: None,
        trace: Trace { steps },
    }
}

fn pass(rule: Option<&Rule>) -> Plan {
    Plan {
        run: None,
        run_refused: None,
        store: None,
        pass: true,
        on_failure: OnFailure::Store,
        limit: rule.and_then(|rule| rule.limit),
    }
}

/// A rule that matched, and what it matched.
struct Context<'a> {
    rule: &'a Rule,
    upcall: &'a Upcall,
    facts: &'a Facts,
    container: Option<&'a ContainerFacts>,
    record_id: &'a str,
}

impl Context<'_> {
    fn verdict(&self) -> Verdict {
        match &self.rule.action {
            Action::Deny { reason } => Verdict::Deny(Denial {
                reason: Arc::clone(reason),
            }),
            Action::Pass => Verdict::Do(pass(Some(self.rule))),
            Action::Do(actions) => Verdict::Do(self.plan(actions)),
        }
    }

    fn plan(&self, actions: &Actions) -> Plan {
        let mut plan = Plan {
            run: None,
            run_refused: None,
            store: actions.store,
            pass: false,
            on_failure: actions.on_failure,
            limit: self.rule.limit,
        };
        let Some(run) = &actions.run else {
            return plan;
        };
        match self.refusal(run) {
            None => plan.run = Some(self.run(run)),
            Some((reason, why)) => {
                plan = plan.after_failed_run();
                let instead = match (plan.store, plan.pass) {
                    (_, true) => "passed to what stood before us",
                    (Some(_), false) => "kept on the host",
                    (None, false) => "dropped",
                };
                let Why { what, help } = why;
                let help = help.map_or_else(String::new, |help| format!("; help: {help}"));
                plan.run_refused = Some(Refusal {
                    reason,
                    message: format!("{what}; {instead}{help}"),
                });
            }
        }
        plan
    }

    /// Why this rule's helper may not run for this upcall. Running on the host needs no container and is never refused.
    fn refusal(&self, run: &RunRule) -> Option<(Reason, Why)> {
        if run.place == Place::Host {
            return None;
        }
        if let Some(reason) = self.facts.host_only {
            return Some((reason, host_only(reason)));
        }
        let Some(container) = self.container else {
            return Some((Reason::Unregistered, self.unregistered()));
        };
        let title = container.title();
        if container.confinement > Confinement::UserNamespace && !run.without_user_namespace {
            let its_own = self.facts.process.user_namespace == Some(UserNamespace::Container);
            let why = if its_own {
                format!("the user namespace of {title} has the host's root in it")
            } else {
                format!("{title} shares the host's user namespace")
            };
            return Some((
                Reason::UntrustedContainer,
                Why::new(
                    why,
                    format!(
                        "write `without_user_namespace = true` in `run` at {}",
                        self.rule.source
                    ),
                ),
            ));
        }
        if container.confinement == Confinement::Privileged && !run.trusted_container {
            return Some((
                Reason::UntrustedContainer,
                Why::new(
                    format!("the init of {title} could take over the host"),
                    format!(
                        "write `trusted_container = true` in `run` at {}",
                        self.rule.source
                    ),
                ),
            ));
        }
        let process = &self.facts.process;
        match run.user {
            User::Root if !container.root_is_mapped => Some((
                Reason::UidNotMapped,
                Why::new(
                    format!("user = \"root\", and uid 0 or gid 0 is not mapped in {title}"),
                    "leave `user` out, its init's ids are mapped".to_owned(),
                ),
            )),
            User::Origin if process.uid_inside.is_none() || process.gid_inside.is_none() => Some((
                Reason::UidNotMapped,
                Why::new(
                    format!("user = \"origin\", and the process's ids are not mapped in {title}"),
                    "leave `user` out, its init's ids are mapped".to_owned(),
                ),
            )),
            User::Init | User::Root | User::Origin => None,
        }
    }

    fn unregistered(&self) -> Why {
        match &self.facts.container {
            Some(rootless) => Why::new(
                format!(
                    "{} is proven by nothing but files of uid {}",
                    rootless.title(),
                    rootless.owner
                ),
                format!("name `match.container.owner` at {}", self.rule.source),
            ),
            None => Why {
                what: "the process lives in no registered container".to_owned(),
                help: None,
            },
        }
    }

    fn run(&self, run: &RunRule) -> Run {
        let inside = run.place == Place::Container;
        Run {
            place: run.place,
            program: run.program,
            argv: run
                .argv
                .iter()
                .map(|word| word.fill(|placeholder, out| self.fill(placeholder, inside, out)))
                .collect(),
            user: run.user,
            timeout: run.timeout,
            cgroup: run.cgroup,
            memory: run.memory,
            address_space: run.address_space,
        }
    }

    fn fill(&self, placeholder: Placeholder, inside: bool, out: &mut Vec<u8>) {
        let process = &self.facts.process;
        let Upcall::Core(core) = self.upcall;
        let either = |there, here| if inside { there } else { here };
        match placeholder {
            Placeholder::Pid => push_number(out, either(process.pid_inside, process.pid)),
            Placeholder::Tid => push_number(out, either(process.tid_inside, process.tid)),
            Placeholder::Uid => push_number(out, either(process.uid_inside, process.uid)),
            Placeholder::Gid => push_number(out, either(process.gid_inside, process.gid)),
            Placeholder::Signal => match core.signal {
                Some(signal) => out.extend_from_slice(signal.to_string().as_bytes()),
                None => out.extend_from_slice(UNKNOWN),
            },
            Placeholder::Exe => push_text(out, process.exe.as_deref()),
            Placeholder::Comm => push_text(out, process.comm.as_deref()),
            Placeholder::Time => push_number(out, core.time),
            Placeholder::Container => out.extend_from_slice(match self.container {
                Some(container) => container.name.as_deref().unwrap_or(&container.id),
                None => b"-",
            }),
            Placeholder::Record => out.extend_from_slice(self.record_id.as_bytes()),
        }
    }
}

/// What stands for a fact that nobody knows.
const UNKNOWN: &[u8] = b"unknown";

fn push_number(out: &mut Vec<u8>, number: Option<impl ToString>) {
    match number {
        Some(number) => out.extend_from_slice(number.to_string().as_bytes()),
        None => out.extend_from_slice(UNKNOWN),
    }
}

fn push_text(out: &mut Vec<u8>, text: Option<&[u8]>) {
    out.extend_from_slice(text.unwrap_or(UNKNOWN));
}

/// What is wrong, and the edit that helps.
struct Why {
    what: String,
    help: Option<String>,
}

impl Why {
    fn new(what: String, help: String) -> Self {
        Self {
            what,
            help: Some(help),
        }
    }
}

fn host_only(reason: Reason) -> Why {
    Why {
        what: format!("nothing may run inside: {}", reason.meaning()),
        help: None,
    }
}
