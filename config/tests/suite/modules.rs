//! Rules for modules and other helpers: what matches, and that only `pass` and `deny` are left.

use upcall_config::decide::{Verdict, decide};
use upcall_config::facts::{Facts, ProcessFacts, UserNamespace};
use upcall_config::upcall::Upcall;

use crate::given::{in_container, on_host, policy};

fn denied(rules: &str, alias: &str, facts: &Facts) -> bool {
    let upcall = Upcall::Module(alias.as_bytes().to_vec());
    match decide(&policy(rules), &upcall, facts, "r").verdict {
        Verdict::Deny(_) => true,
        Verdict::Do(plan) => {
            assert!(plan.pass() && plan.run().is_none() && plan.store().is_none());
            false
        }
    }
}

#[test]
fn aliases_match_as_globs_whatever_bytes_they_have() {
    let rules = "[[rule]]\nupcall = \"module\"\nmatch.module = [\"rtnl-link-*\", \"fs-nfs\"]\n\
                 deny = { reason = \"no\" }\n";
    for (alias, denies) in [
        ("rtnl-link-wireguard", true),
        ("rtnl-link-\n\u{1b}[31m", true),
        ("fs-nfs", true),
        ("fs-nfs4", false),
        ("", false),
    ] {
        assert_eq!(denied(rules, alias, &on_host()), denies, "{alias:?}");
    }
}

#[test]
fn a_rule_for_another_kind_is_not_looked_at() {
    let rules = "[[rule]]\nupcall = \"core\"\ndeny = { reason = \"no\" }\n";
    assert!(!denied(rules, "fs-nfs", &in_container()));
}

#[test]
fn the_shipped_rules_leave_modules_to_the_host() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/defaults/rules.d/90-default.toml"
    );
    let shipped = std::fs::read_to_string(path).unwrap();
    assert!(denied(&shipped, "net-pf-40", &in_container()));
    assert!(!denied(&shipped, "net-pf-40", &on_host()));
    let facts = |user_namespace| Facts {
        process: ProcessFacts {
            user_namespace,
            ..ProcessFacts::default()
        },
        container: None,
        host_only: None,
    };
    assert!(denied(&shipped, "fs-x", &facts(Some(UserNamespace::Other))));
    // Who is not known may be anybody.
    assert!(denied(&shipped, "fs-x", &facts(None)));
}

fn allowed(rules: &str, name: &str) -> Option<u64> {
    let upcall = Upcall::Umh(name.as_bytes().to_vec());
    match decide(&policy(rules), &upcall, &Facts::default(), "r").verdict {
        Verdict::Deny(_) => None,
        Verdict::Do(plan) => {
            assert!(plan.pass() && plan.run().is_none() && plan.store().is_none());
            Some(plan.capabilities())
        }
    }
}

#[test]
fn what_passes_may_be_given_less() {
    let rules = "[[rule]]\nupcall = \"umh\"\nmatch.umh = \"/sbin/nfsd*\"\n\
                 pass = { capabilities = [\"CHOWN\", \"SYS_MODULE\"] }\n";
    assert_eq!(allowed(rules, "/sbin/nfsdcltrack"), Some(1 | 1 << 16));
    assert_eq!(allowed(rules, "/sbin/bridge-stp"), Some(u64::MAX));
}

#[test]
fn the_shipped_rules_pass_what_the_kernel_is_known_to_start() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/defaults/rules.d/90-default.toml"
    );
    let shipped = std::fs::read_to_string(path).unwrap();
    assert_eq!(allowed(&shipped, "/sbin/bridge-stp"), Some(u64::MAX));
    assert_eq!(allowed(&shipped, "release_agent"), Some(u64::MAX));
    assert_eq!(allowed(&shipped, "/bin/sh"), None);
}
