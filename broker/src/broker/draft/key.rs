//! What a record says about a key.

use upcall_config::facts::Facts;
use upcall_config::keytype::KeyUpcall;
use upcall_config::text::escape;

use super::Draft;
use super::words::{container, label, process, seccomp, unknown};
use crate::broker::reason::Explained;
use crate::identify::key::Wanted;
use crate::identify::{Lost, Origin};
use crate::launch::by_name;
use crate::resolve::Resolution;
use crate::store::record::{self, Action, Outcome, Process};

impl Draft {
    /// The key, the process, the container, and how they are known.
    pub(in crate::broker) fn describe_key(
        &mut self,
        wanted: &Wanted,
        known: Result<&Origin, &Lost>,
        resolution: &Resolution,
        facts: &Facts,
    ) {
        "key".clone_into(&mut self.record.kind);
        let described = described(known, resolution, facts);
        self.found(described, known, 1, resolution, facts);
        self.record.key = Some(key(&wanted.upcall, wanted.forged));
        self.record.unknown = unknown(&self.record, resolution);
        if wanted.expired {
            let names = ["key.type", "key.description", "key.callout"];
            self.record.unknown.extend(names.map(str::to_owned));
        }
    }

    /// What was done about a key or a module.
    pub(in crate::broker) fn acted(
        &mut self,
        actions: Vec<Action>,
        outcome: Outcome,
        wrong: Option<Explained>,
    ) {
        self.record.actions = actions;
        self.record.outcome = outcome;
        if let Some(Explained { reason, message }) = wrong {
            self.record.reason = Some(reason.to_string());
            self.record.message = Some(message);
        }
    }

    /// What became of it.
    pub(in crate::broker) fn key(&mut self) -> Option<&mut record::Key> {
        self.record.key.as_mut()
    }
}

fn key(key: &KeyUpcall, forged: bool) -> record::Key {
    record::Key {
        kind: escape(&key.kind),
        description: escape(&key.description),
        callout: key.callout.as_deref().map(escape),
        serial: key.serial,
        caller: if forged {
            "forged".to_owned()
        } else {
            key.caller.to_string()
        },
        ..record::Key::default()
    }
}

/// What a record says about a process that waits for a key or a module, and its container.
pub(in crate::broker) fn described(
    known: Result<&Origin, &Lost>,
    resolution: &Resolution,
    facts: &Facts,
) -> (Process, Option<record::Container>) {
    let mut process = process(facts);
    if let Ok(origin) = known {
        let status = &origin.status;
        process.no_new_privs = status.no_new_privs;
        process.seccomp = status.seccomp.map(seccomp);
        process.label = label(&origin.directory.label().unwrap_or_default());
        process.namespaces = by_name(&origin.namespaces.ids());
    }
    (process, resolution.container.as_ref().map(container))
}
