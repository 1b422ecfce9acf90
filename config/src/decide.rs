//! The decision: a pure function of the policy, the upcall and the facts.
//!
//! The only constructor of a [`Plan`] is here. What it does not do: look at the clock, count, read a file. So the
//! daemon, `upcallctl explain` and a test that call it with the same facts get the same answer.

mod refuse;

use std::sync::Arc;
use std::time::Duration;

use crate::capability;
use crate::facts::{ContainerFacts, Facts};
use crate::keytype;
use crate::matcher::{self, Truth, View};
use crate::placed::{self, Delivery};
use crate::plan::{OnFailure, Place, Plan, Program, Run, User};
use crate::rule::{Action, Actions, DeliverRule, FileRule, Policy, Rule, RunRule};
use crate::template::{Placeholder, Template};
use crate::upcall::Upcall;
use refuse::Why;

/// What the policy says about one upcall, and why.
#[derive(Debug, Clone)]
#[must_use]
pub struct Decision {
    /// What is to be done.
    pub verdict: Verdict,
    /// What runs on the host when all of that is done, whatever came of it.
    pub post: Option<Run>,
    /// Position of the rule that matched; `None`: none did, and the kind's default holds.
    pub rule: Option<usize>,
    /// The rules that were looked at.
    pub trace: Trace,
}

/// Refuse, or do what the plan says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is nearly always the large one"
)]
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
    /// What the requester of a key is told.
    pub errno: u32,
    /// For how long the refusal of a key holds.
    pub ttl: Duration,
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
                post: context.post(),
                rule: Some(position),
                trace: Trace { steps },
            };
        }
    }
    Decision {
        verdict: Verdict::Do(pass(None, facts)),
        post: None,
        rule: None,
        trace: Trace { steps },
    }
}

fn pass(context: Option<&Context<'_>>, facts: &Facts) -> Plan {
    // Without a rule nobody has said whose containers are believed; those of root are.
    let container = match context {
        Some(context) => context.container,
        None => facts.container.as_ref().filter(|known| known.owner == 0),
    };
    Plan {
        run: None,
        deliver: None,
        file: None,
        refused: Vec::new(),
        store: None,
        pass: true,
        capabilities: capability::ALL,
        own_place: own_place(facts, container),
        answer: None,
        on_failure: OnFailure::Store,
        limit: context.and_then(|context| context.rule.limit),
    }
}

/// Where a program may act as the process that crashed; nowhere if something about that is not certain.
fn own_place(facts: &Facts, container: Option<&ContainerFacts>) -> Option<Place> {
    match (facts.host_only, container) {
        (Some(_), _) => None,
        (None, Some(_)) => Some(Place::Container),
        (None, None) => Some(Place::Host),
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
            Action::Deny(denial) => Verdict::Deny(denial.clone()),
            Action::Answer(answer) => Verdict::Do(Plan {
                answer: Some(answer.clone()),
                pass: false,
                ..pass(Some(self), self.facts)
            }),
            Action::Pass(capabilities) => Verdict::Do(Plan {
                capabilities: *capabilities,
                ..pass(Some(self), self.facts)
            }),
            Action::Do(actions) => Verdict::Do(self.plan(actions)),
        }
    }

    fn plan(&self, actions: &Actions) -> Plan {
        let mut refused = Vec::new();
        let run = self.allowed(actions.run.as_ref(), &mut refused, Self::run_refused);
        let deliver = self.allowed(
            actions.deliver.as_ref(),
            &mut refused,
            Self::deliver_refused,
        );
        let file = self.allowed(actions.file.as_ref(), &mut refused, Self::file_refused);
        let plan = Plan {
            run: run.map(|run| self.run(run)),
            deliver: deliver.map(|deliver| self.deliver(deliver)),
            file: file.map(|file| self.file(file)),
            refused: Vec::new(),
            store: actions.store,
            pass: false,
            capabilities: capability::ALL,
            own_place: own_place(self.facts, self.container),
            answer: None,
            on_failure: actions.on_failure,
            limit: self.rule.limit,
        };
        // That its own process wanted no core is no reason to keep one elsewhere.
        let failed = refused.iter().any(|(_, why)| !why.unwanted);
        let takes = plan.run.is_some() || plan.deliver.is_some() || plan.file.is_some();
        let mut plan = if failed && !takes {
            plan.after_failure()
        } else {
            plan
        };
        let instead = match (plan.store, plan.pass) {
            _ if takes || !failed => "",
            (_, true) => "; passed to what stood before us",
            (Some(_), false) => "; kept on the host",
            (None, false) => "; dropped",
        };
        let refused = refused.into_iter();
        plan.refused = refused
            .map(|(action, why)| why.refusal(action, instead))
            .collect();
        plan
    }

    /// The action, unless it is refused, which is noted.
    fn allowed<'r, T>(
        &self,
        rule: Option<&'r T>,
        refused: &mut Vec<(&'static str, Why)>,
        check: impl FnOnce(&Self, &T) -> Option<(&'static str, Why)>,
    ) -> Option<&'r T> {
        let refusal = check(self, rule?);
        let allowed = refusal.is_none();
        refused.extend(refusal);
        rule.filter(|_| allowed)
    }

    fn run(&self, run: &RunRule) -> Run {
        Run {
            place: run.place,
            program: run.program,
            argv: self.fill_all(&run.argv, run.place == Place::Container),
            user: run.user,
            timeout: run.timeout,
            cgroup: run.cgroup,
            memory: run.memory,
            address_space: run.address_space,
            core: run.core,
            files: run.files.clone(),
            authority: self.authority(run),
        }
    }

    fn deliver(&self, deliver: &DeliverRule) -> Run {
        // Checking lets only rules for cores deliver.
        let core = self.upcall.core().copied().unwrap_or_default();
        let delivery = Delivery {
            protocol: deliver.protocol,
            socket: &deliver.socket,
            timeout: deliver.timeout,
            core: &core,
            process: &self.facts.process,
            inside: true,
            id: self.record_id,
        };
        Run {
            timeout: deliver.timeout,
            ..Run::placing(Place::Container, User::Init, delivery.argv())
        }
    }

    fn file(&self, file: &FileRule) -> Run {
        let core = self.upcall.core().copied().unwrap_or_default();
        // Where there is none, the file was refused.
        let place = own_place(self.facts, self.container).unwrap_or(Place::Host);
        let limit = core.limit.filter(|_| !file.ignore_limit);
        let argv = placed::file_argv(self.file_path(file), limit);
        Run::placing(place, User::OriginItself, argv)
    }

    fn file_path(&self, file: &FileRule) -> Vec<u8> {
        let inside = self.container.is_some();
        file.path.fill(|placeholder, out| {
            let mut text = Vec::new();
            self.fill(placeholder, inside, &mut text);
            placed::name_part(&mut text, out);
        })
    }

    /// What runs when all is done: on the host, where the numbers are the host's.
    fn post(&self) -> Option<Run> {
        let argv = self.fill_all(self.rule.post.as_ref()?, false);
        Some(Run {
            program: Program::Path,
            ..Run::placing(Place::Host, User::Init, argv)
        })
    }

    fn fill_all(&self, words: &[Template], inside: bool) -> Vec<Vec<u8>> {
        let fill =
            |word: &Template| word.fill(|placeholder, out| self.fill(placeholder, inside, out));
        words.iter().map(fill).collect()
    }

    /// Whether the helper may answer a key itself: on the host, or where the key is its container's own.
    fn authority(&self, run: &RunRule) -> bool {
        let inside = run.place == Place::Container;
        self.upcall
            .key()
            .is_some_and(|key| !inside || keytype::is_own(&key.kind))
    }

    fn fill(&self, placeholder: Placeholder, inside: bool, out: &mut Vec<u8>) {
        let process = &self.facts.process;
        let (core, key) = (self.upcall.core(), self.upcall.key());
        let either = |there, here| if inside { there } else { here };
        match placeholder {
            Placeholder::Pid => push_number(out, either(process.pid_inside, process.pid)),
            Placeholder::Tid => push_number(out, either(process.tid_inside, process.tid)),
            Placeholder::Uid => push_number(out, either(process.uid_inside, process.uid)),
            Placeholder::Gid => push_number(out, either(process.gid_inside, process.gid)),
            Placeholder::Signal => match core.and_then(|core| core.signal) {
                Some(signal) => out.extend_from_slice(signal.to_string().as_bytes()),
                None => out.extend_from_slice(UNKNOWN),
            },
            Placeholder::Exe => push_text(out, process.exe.as_deref()),
            Placeholder::Comm => push_text(out, process.comm.as_deref()),
            Placeholder::Time => push_number(out, core.and_then(|core| core.time)),
            Placeholder::Container => out.extend_from_slice(match self.container {
                Some(container) => container.name.as_deref().unwrap_or(&container.id),
                None => b"-",
            }),
            Placeholder::Key => push_number(out, key.map(|key| key.serial)),
            Placeholder::Type => push_text(out, key.map(|key| key.kind.as_slice())),
            Placeholder::Description => {
                push_text(out, key.map(|key| key.description.as_slice()));
            }
            Placeholder::Callout => push_text(out, key.and_then(|key| key.callout.as_deref())),
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
