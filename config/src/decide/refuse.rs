//! Why an action of a rule that matched may not be done for this upcall: everything that keeps something out of a
//! container, in one place.

use super::Context;
use crate::facts::{Confinement, ContainerFacts, Reason, UserNamespace};
use crate::placed;
use crate::plan::{Place, Refusal, User};
use crate::rule::{DeliverRule, FileRule, RunRule};

/// An action, and what is wrong with it.
type Refused = Option<(&'static str, Why)>;

/// What is wrong, and the edit that helps.
pub(super) struct Why {
    reason: Reason,
    what: String,
    help: Option<String>,
    /// Nothing failed: the process itself wanted no core.
    pub(super) unwanted: bool,
}

impl Why {
    fn new(reason: Reason, what: String, help: String) -> Self {
        Self {
            reason,
            what,
            help: Some(help),
            unwanted: false,
        }
    }

    fn without_help(reason: Reason, what: String) -> Self {
        Self {
            reason,
            what,
            help: None,
            unwanted: false,
        }
    }

    /// `instead` is what happens now, `; kept on the host`.
    pub(super) fn refusal(self, action: &'static str, instead: &str) -> Refusal {
        let help = self.help.map(|help| format!("; help: {help}"));
        let (reason, what, help) = (self.reason, self.what, help.unwrap_or_default());
        Refusal {
            action,
            reason,
            message: format!("{what}{instead}{help}"),
        }
    }
}

/// What a rule says about going into a container.
struct Entry {
    action: &'static str,
    without_user_namespace: bool,
    trusted_container: bool,
}

impl Context<'_> {
    /// Running on the host needs no container and is never refused.
    pub(super) fn run_refused(&self, run: &RunRule) -> Refused {
        if run.place == Place::Host {
            return None;
        }
        let entry = Entry {
            action: "run",
            without_user_namespace: run.without_user_namespace,
            trusted_container: run.trusted_container,
        };
        let why = match self.entry(&entry) {
            // It has no more of the container than its network, and no rights there.
            _ if run.place == Place::Beside => self.beside_refused()?,
            Ok(container) => self.user(run.user, container)?,
            Err(why) => why,
        };
        Some((entry.action, why))
    }

    /// A program beside a container has nothing of it but its network: that it is one must be certain.
    fn beside_refused(&self) -> Option<Why> {
        match (self.facts.host_only, self.container) {
            (Some(reason), _) => Some(Why::without_help(reason, host_only(reason))),
            (None, None) => Some(self.unregistered()),
            (None, Some(_)) => None,
        }
    }

    pub(super) fn deliver_refused(&self, deliver: &DeliverRule) -> Refused {
        let entry = Entry {
            action: "deliver",
            without_user_namespace: deliver.without_user_namespace,
            trusted_container: deliver.trusted_container,
        };
        let why = self.entry(&entry).err()?;
        Some((entry.action, why))
    }

    /// What writes a file has less than the process that crashed, so how close its container is to the host is nothing
    /// to ask about; but that it is the process's own to write must be certain.
    pub(super) fn file_refused(&self, file: &FileRule) -> Refused {
        let limit = self.upcall.core().and_then(|core| core.limit);
        let limit = limit.unwrap_or(u64::MAX);
        // First what the process itself did not want: that is no failure, whatever else stands against it.
        let why = if !file.ignore_limit && limit < placed::CORE_MIN {
            let what = format!("its core limit is {limit} (file.ignore_limit is false)");
            Why {
                unwanted: true,
                ..Why::without_help(Reason::CoreLimit, what)
            }
        } else if let Some(reason) = self.facts.host_only {
            Why::without_help(reason, host_only(reason))
        } else if !placed::is_path(&self.file_path(file)) {
            Why::new(
                Reason::FileRefused,
                "the path that `file` comes to is too long".to_owned(),
                format!(
                    "use fewer of the process's own words at {}",
                    self.rule.source
                ),
            )
        } else {
            return None;
        };
        Some(("file", why))
    }

    fn entry(&self, entry: &Entry) -> Result<&ContainerFacts, Why> {
        if let Some(reason) = self.facts.host_only {
            return Err(Why::without_help(reason, host_only(reason)));
        }
        let Some(container) = self.container else {
            return Err(self.unregistered());
        };
        let title = container.title();
        let untrusted = |what: String, key: &str| {
            let (action, rule) = (entry.action, &self.rule.source);
            let help = format!("write `{key} = true` in `{action}` at {rule}");
            Err(Why::new(Reason::UntrustedContainer, what, help))
        };
        if container.confinement > Confinement::UserNamespace && !entry.without_user_namespace {
            let its_own = self.facts.process.user_namespace == Some(UserNamespace::Container);
            let what = if its_own {
                format!("the user namespace of {title} has the host's root in it")
            } else {
                format!("{title} shares the host's user namespace")
            };
            return untrusted(what, "without_user_namespace");
        }
        if container.confinement == Confinement::Privileged && !entry.trusted_container {
            let what = format!("the init of {title} could take over the host");
            return untrusted(what, "trusted_container");
        }
        Ok(container)
    }

    fn user(&self, user: User, container: &ContainerFacts) -> Option<Why> {
        let (process, title) = (&self.facts.process, container.title());
        let what = match user {
            User::Root if !container.root_is_mapped => {
                format!("user = \"root\", and uid 0 or gid 0 is not mapped in {title}")
            }
            User::Origin if process.uid_inside.is_none() || process.gid_inside.is_none() => {
                format!("user = \"origin\", and the process's ids are not mapped in {title}")
            }
            User::Init | User::Root | User::Origin | User::OriginItself => return None,
        };
        let help = "leave `user` out, its init's ids are mapped".to_owned();
        Some(Why::new(Reason::UidNotMapped, what, help))
    }

    fn unregistered(&self) -> Why {
        let Some(rootless) = &self.facts.container else {
            let what = "the process lives in no registered container".to_owned();
            return Why::without_help(Reason::Unregistered, what);
        };
        Why::new(
            Reason::Unregistered,
            format!(
                "{} is proven by nothing but files of uid {}",
                rootless.title(),
                rootless.owner
            ),
            format!("name `match.container.owner` at {}", self.rule.source),
        )
    }
}

fn host_only(reason: Reason) -> String {
    format!("nothing may run inside: {}", reason.meaning())
}
