//! Whom limits are counted for.

use upcall_config::facts::{Facts, Reason};
use upcall_config::text::escape;

/// Whose upcall it is: limits are counted apart for each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tenant {
    /// A registered container, by runtime and id.
    Container(&'static str, Vec<u8>),
    /// A user of the host, outside of any container we know, with all his subordinate ids (subuid(5)).
    User(u32),
    /// Nobody knows.
    Unknown,
}

impl Tenant {
    /// Whose the facts are. The ids of a lost process are many where its user has many (subuid(5)), and all are nobody's;
    /// and root of a container that is not known is not the host's root.
    pub fn of(facts: &Facts) -> Self {
        if facts.host_only.is_some_and(Reason::hides_container) {
            return Self::Unknown;
        }
        if let Some(container) = &facts.container {
            return Self::Container(container.runtime.as_str(), container.id.clone());
        }
        // In a namespace that a user made, all ids are his; in one that root made, they are whoever's root meant.
        let owner = facts.process.namespace_owner.filter(|owner| *owner != 0);
        owner
            .or(facts.process.uid)
            .map_or(Self::Unknown, Self::User)
    }

    /// The same as a record says it: `runc/web`, `user/1000`, `unknown`. No two tenants have the same words.
    pub fn share(&self) -> String {
        match self {
            Self::Container(runtime, id) => format!("{runtime}/{}", escape(id)),
            Self::User(uid) => format!("user/{uid}"),
            Self::Unknown => "unknown".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use upcall_config::facts::ProcessFacts;

    use super::*;

    #[test]
    fn whoever_gets_lost_is_one_tenant_whatever_his_ids() {
        let lost = |uid| Facts {
            process: ProcessFacts {
                uid: Some(uid),
                ..ProcessFacts::default()
            },
            host_only: Some(Reason::IdentityLost),
            ..Facts::default()
        };
        assert_eq!(Tenant::of(&lost(300_000)), Tenant::Unknown);
        assert_eq!(Tenant::of(&lost(300_001)), Tenant::Unknown);
        let known = Facts {
            host_only: None,
            ..lost(1000)
        };
        assert_eq!(Tenant::of(&known), Tenant::User(1000));
    }

    #[test]
    fn a_user_is_one_tenant_with_all_ids_of_his_namespaces() {
        let of = |uid, owner| Facts {
            process: ProcessFacts {
                uid: Some(uid),
                namespace_owner: owner,
                ..ProcessFacts::default()
            },
            ..Facts::default()
        };
        assert_eq!(Tenant::of(&of(300_000, Some(1000))), Tenant::User(1000));
        assert_eq!(Tenant::of(&of(300_001, Some(1000))), Tenant::User(1000));
        assert_eq!(Tenant::of(&of(300_001, Some(0))), Tenant::User(300_001));
        assert_eq!(Tenant::of(&of(1000, None)), Tenant::User(1000));
    }
}
