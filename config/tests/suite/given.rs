//! Policies, upcalls and facts to start a test from.

use std::path::Path;
use std::sync::Arc;

use upcall_config::decide::{Decision, Verdict, decide};
use upcall_config::facts::{
    Confinement, ContainerFacts, Facts, PodFacts, ProcessFacts, Runtime, UserNamespace,
};
use upcall_config::file::load_texts;
use upcall_config::plan::Plan;
use upcall_config::rule::Policy;
use upcall_config::upcall::{CoreUpcall, Signal, Upcall};

/// The policy that these rules make; they must be right.
pub(crate) fn policy(text: &str) -> Arc<Policy> {
    let loaded = load_texts(
        None,
        &[(Path::new("/etc/upcalld/rules.d/50-test.toml"), text)],
    );
    loaded.policy.unwrap_or_else(|| {
        let shown: Vec<_> = loaded.diagnostics.iter().map(|d| d.render(false)).collect();
        panic!("{}", shown.join("\n"))
    })
}

/// One rule that keeps a copy if this holds, and no other.
pub(crate) fn keeps(condition: &str) -> String {
    format!("[[rule]]\nupcall = \"core\"\n{condition}\nstore = {{}}\n")
}

/// One rule that denies if this holds, and no other.
pub(crate) fn denies(condition: &str) -> String {
    format!("[[rule]]\nupcall = \"core\"\n{condition}\ndeny = {{ reason = \"no\" }}\n")
}

/// A segmentation fault.
pub(crate) fn segv() -> Upcall {
    Upcall::Core(CoreUpcall {
        signal: Signal::from_name("SEGV"),
        dumpable: Some(1),
        limit: Some(0),
        time: Some(1_800_000_000),
    })
}

/// A process of the host about which everything is known.
pub(crate) fn on_host() -> Facts {
    Facts {
        process: ProcessFacts {
            pid: Some(20_417),
            tid: Some(20_421),
            uid: Some(1000),
            gid: Some(1001),
            comm: Some(b"shopd".to_vec()),
            exe: Some(b"/usr/bin/shopd".to_vec()),
            cgroup: Some(b"/system.slice/shopd.service".to_vec()),
            user_namespace: Some(UserNamespace::Initial),
            kernel_thread: Some(false),
            ..ProcessFacts::default()
        },
        container: None,
        host_only: None,
    }
}

/// A process in a container about which everything is known.
pub(crate) fn in_container() -> Facts {
    let mut facts = on_host();
    facts.process.pid_inside = Some(7);
    facts.process.tid_inside = Some(11);
    facts.process.uid_inside = Some(33);
    facts.process.gid_inside = Some(34);
    facts.process.user_namespace = Some(UserNamespace::Container);
    let labels = [(b"tier".to_vec(), b"frontend".to_vec())];
    facts.container = Some(ContainerFacts {
        runtime: Runtime::Containerd,
        id: b"3f9c1e0a77d2aaaaaaaaaaaaaaaaaaaa".to_vec(),
        name: Some(b"web".to_vec()),
        image: Some(b"registry.local/shop/web:4.2".to_vec()),
        labels: Some(labels.clone().into()),
        owner: 0,
        pod: Some(PodFacts {
            namespace: Some(b"shop".to_vec()),
            name: Some(b"web-7c9f-x2lqk".to_vec()),
            uid: Some(b"0a1b2c3d".to_vec()),
            labels: Some(labels.into()),
        }),
        confinement: Confinement::UserNamespace,
        root_is_mapped: true,
    });
    facts
}

/// The facts with their container changed.
pub(crate) fn with_container(change: impl FnOnce(&mut ContainerFacts)) -> Facts {
    let mut facts = in_container();
    change(facts.container.as_mut().unwrap());
    facts
}

/// The same, and all that proves the container was written by uid 1000.
pub(crate) fn rootless() -> Facts {
    with_container(|container| container.owner = 1000)
}

/// What these rules say about a segmentation fault.
pub(crate) fn decision(rules: &str, facts: &Facts) -> Decision {
    decide(&policy(rules), &segv(), facts, "k3m9q0tz")
}

/// Whether the only rule takes it.
pub(crate) fn taken(rule: &str, facts: &Facts) -> bool {
    decision(rule, facts).rule == Some(0)
}

/// The plan that these rules make.
pub(crate) fn plan(rules: &str, facts: &Facts) -> Plan {
    match decision(rules, facts).verdict {
        Verdict::Do(plan) => plan,
        Verdict::Deny(denial) => panic!("denied: {}", denial.reason),
    }
}
