//! What a record says of the work on one upcall: which of its actions went wrong and why, and all of them together.

use upcall_config::facts::Reason;
use upcall_config::placed::CORE_MIN;
use upcall_config::plan::{Plan, Store};
use upcall_config::text::escape;

use super::Work;
use crate::broker::reason::Explained;
use crate::launch::Slot;
use crate::store::record::{Action, Outcome};

impl Work<'_> {
    /// Notes what the rule has and may not be done.
    pub(super) fn refused(&mut self, plan: &Plan) {
        for refusal in plan.refused() {
            let mut action = Action::new(refusal.action);
            action.outcome = Outcome::Refused;
            action.reason = Some(refusal.reason.to_string());
            action.message = Some(refusal.message.clone());
            self.actions.push(action);
            // What its own process did not want is nothing that went wrong.
            if refusal.reason != Reason::CoreLimit {
                self.wrong(Explained {
                    reason: refusal.reason,
                    message: refusal.message.clone(),
                });
            }
        }
    }

    /// Notes a launch that never was.
    pub(super) fn failed(&mut self, slot: Slot, wrong: Explained) {
        let of = |action: &&mut Action| action.action == slot.as_str();
        match self.actions.iter_mut().rfind(of) {
            Some(action) if action.outcome == Outcome::Open => fail(action, &wrong),
            Some(action) if action.outcome == Outcome::Failed => {}
            Some(_) | None => {
                let mut action = Action::new(slot.as_str());
                fail(&mut action, &wrong);
                self.actions.push(action);
            }
        }
        self.wrong(wrong);
    }

    /// Notes what was wrong; what was wrong first is what the record says.
    pub(in crate::broker) fn wrong(&mut self, wrong: Explained) {
        self.wrong.get_or_insert(wrong);
    }

    /// The outcome of all actions together.
    pub(super) fn outcome(&self) -> (Outcome, Option<Reason>, Option<String>) {
        let done = self
            .actions
            .iter()
            .any(|action| matches!(action.outcome, Outcome::Done | Outcome::Partial));
        let bad = self.actions.iter().any(|action| {
            matches!(
                action.outcome,
                Outcome::Failed | Outcome::Partial | Outcome::Refused
            )
        });
        let nothing = self.actions.is_empty() && self.wrong.is_some();
        let outcome = match (done, bad || nothing) {
            (_, false) => Outcome::Done,
            (true, true) => Outcome::Partial,
            (false, true) => Outcome::Failed,
        };
        let wrong = self.wrong.as_ref();
        (
            outcome,
            wrong.map(|wrong| wrong.reason),
            wrong.map(|wrong| wrong.message.clone()),
        )
    }

    /// The program of a launch, as messages name it.
    pub(in crate::broker) fn program(&self, slot: Slot) -> String {
        if slot == Slot::Store {
            return "upcall-store".to_owned();
        }
        let action = self
            .actions
            .iter()
            .find(|action| action.action == slot.as_str());
        let argv = action.and_then(|action| action.argv.as_ref());
        argv.and_then(|argv| argv.first())
            .cloned()
            .unwrap_or_default()
    }

    /// What a program of ours was to open: the path of a file or of a socket, as messages name it.
    pub(in crate::broker) fn target(&self, slot: Slot) -> String {
        let of = |action: &&Action| action.action == slot.as_str();
        let argv = self.actions.iter().rfind(of);
        let argv = argv.and_then(|action| action.argv.as_ref());
        let place = if slot == Slot::Deliver { 3 } else { 2 };
        let word = argv.and_then(|argv| argv.get(place));
        word.cloned().unwrap_or_default()
    }

    /// Where it runs, as messages name it.
    pub(in crate::broker) fn place(&self) -> String {
        match &self.container {
            None => "the host".to_owned(),
            Some(container) => {
                let facts = &container.facts;
                escape(facts.name.as_ref().unwrap_or(&facts.id))
            }
        }
    }
}

/// Whether the process's own core limit lets a copy be kept; the error says so in the record.
pub(in crate::broker) fn within_core_limit(
    store: Store,
    limit: Option<u64>,
) -> Result<(), Box<Action>> {
    let limit = limit.unwrap_or(u64::MAX);
    if store.ignore_limit() || limit >= CORE_MIN {
        return Ok(());
    }
    let mut action = Action::new("store");
    action.outcome = Outcome::Refused;
    action.reason = Some(Reason::CoreLimit.to_string());
    action.message = Some(format!(
        "its core limit is {limit} (store.ignore_limit is false)"
    ));
    Err(Box::new(action))
}

/// An action that failed for this reason.
pub(in crate::broker) fn fail(action: &mut Action, wrong: &Explained) {
    action.outcome = Outcome::Failed;
    action.reason = Some(wrong.reason.to_string());
    action.message = Some(wrong.message.clone());
}
