//! From a rule that matched to a plan.

use std::time::Duration;

use upcall_config::decide::Verdict;
use upcall_config::diagnostic::{Code, Severity};
use upcall_config::facts::{Confinement, Facts, Reason, UserNamespace};
use upcall_config::plan::{Cgroup, OnFailure, Place, Plan, Program, Store, User};
use upcall_config::upcall::{CoreUpcall, Upcall};

use crate::given::{
    decision, in_container, keeps, on_host, plan, policy, rootless, with_container,
};

fn runs(run: &str, more: &str) -> String {
    format!("[[rule]]\nupcall = \"core\"\nrun = {{ {run} }}\n{more}\n")
}

const INSIDE: &str = r#"in = "container", command = ["/on-crash", "{pid}"]"#;

fn words(plan: &Plan) -> Vec<String> {
    let argv = plan.run().unwrap().argv();
    argv.iter()
        .map(|word| String::from_utf8(word.clone()).unwrap())
        .collect()
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = [
        keeps("match.core.signal = \"ABRT\""),
        keeps("match.core.signal = \"SEGV\""),
        "[[rule]]\nupcall = \"core\"\npass = {}\n".to_owned(),
    ];
    let decision = decision(&rules.concat(), &on_host());
    assert_eq!(decision.rule, Some(1));
    assert_eq!(decision.trace.steps().len(), 2);
    assert!(
        matches!(decision.verdict, Verdict::Do(plan) if plan.store().is_some() && !plan.pass())
    );
}

#[test]
fn without_a_rule_everything_passes() {
    let plan = plan("", &on_host());
    assert!(plan.pass());
    assert_eq!((plan.run(), plan.store(), plan.limit()), (None, None, None));
}

#[test]
fn a_denial_says_the_admins_words() {
    let rules = "[[rule]]\nupcall = \"core\"\ndeny = { reason = \"not here\" }\n";
    match decision(rules, &on_host()).verdict {
        Verdict::Deny(denial) => assert_eq!(&*denial.reason, "not here"),
        Verdict::Do(plan) => panic!("{plan:?}"),
    }
}

#[test]
fn what_a_rule_says_is_in_its_plan() {
    let rules = r#"
        [[rule]]
        upcall = "core"
        run = { in = "container", host_program = ["/usr/libexec/report"], user = "origin", timeout = "5m", cgroup = "broker", memory = "256MiB", address_space = 2147483648 }
        store = { max_size = "4GiB", ignore_limit = true }
        limit = { rate = "10/min", concurrent = 2 }
        on_failure = "drop"
    "#;
    let plan = plan(rules, &in_container());
    let run = plan.run().unwrap();
    assert_eq!(
        (run.place(), run.program()),
        (Place::Container, Program::HostElf)
    );
    assert_eq!((run.user(), run.cgroup()), (User::Origin, Cgroup::Broker));
    assert_eq!(run.timeout(), Duration::from_mins(5));
    assert_eq!(run.memory(), Some(256 << 20));
    assert_eq!(run.address_space(), Some(2 << 30));
    let store = plan.store().unwrap();
    assert_eq!((store.max_size(), store.ignore_limit()), (4 << 30, true));
    let limit = plan.limit().unwrap();
    assert_eq!(
        limit.rate.map(|r| (r.count, r.per)),
        Some((10, Duration::from_mins(1)))
    );
    assert_eq!(limit.concurrent, Some(2));
    assert_eq!(plan.on_failure(), OnFailure::Drop);
    assert_eq!((plan.pass(), plan.refused()), (false, &[][..]));
}

#[test]
fn what_a_rule_does_not_say_has_its_default() {
    let inside = plan(&runs(INSIDE, ""), &in_container());
    let run = inside.run().unwrap();
    assert_eq!((run.user(), run.cgroup()), (User::Init, Cgroup::Container));
    assert_eq!(run.timeout(), Duration::from_secs(30));
    assert_eq!((run.memory(), run.address_space()), (None, None));
    assert_eq!(
        (inside.store(), inside.on_failure()),
        (None, OnFailure::Store)
    );

    let host = plan(
        &runs(r#"in = "host", command = ["/x"]"#, ""),
        &in_container(),
    );
    assert_eq!(host.run().unwrap().cgroup(), Cgroup::Broker);

    let store = plan(&keeps(""), &on_host()).store().unwrap();
    assert_eq!((store.max_size(), store.ignore_limit()), (32 << 30, false));
}

const ALL: &str = r#"command = ["/x", "{pid}.{tid}", "{uid}:{gid}", "{signal}", "{exe}", "{comm}", "{time}", "{container}", "{record}", "{{}}"]"#;

#[test]
fn placeholders_are_the_containers_numbers_inside_and_the_hosts_outside() {
    let rest = ["SEGV", "/usr/bin/shopd", "shopd", "1800000000"];
    let inside = plan(
        &runs(&format!("in = \"container\", {ALL}"), ""),
        &in_container(),
    );
    let words_inside = words(&inside);
    assert_eq!(words_inside[..3], ["/x", "7.11", "33:34"]);
    assert_eq!(words_inside[3..7], rest);
    assert_eq!(words_inside[7..], ["web", "k3m9q0tz", "{}"]);

    let host = runs(&format!("in = \"host\", {ALL}"), "");
    let outside = words(&plan(&host, &in_container()));
    assert_eq!(outside[..3], ["/x", "20417.20421", "1000:1001"]);
    assert_eq!(outside[7], "web");
    assert_eq!(words(&plan(&host, &on_host()))[7], "-");
    // The rule does not see it, so it does not name it either.
    assert_eq!(words(&plan(&host, &rootless()))[7], "-");
    assert_eq!(
        words(&plan(&host, &with_container(|c| c.name = None)))[7],
        "3f9c1e0a77d2aaaaaaaaaaaaaaaaaaaa"
    );
}

#[test]
fn a_placeholder_that_nobody_knows_says_so() {
    let policy = policy(&runs(&format!("in = \"host\", {ALL}"), ""));
    let core = Upcall::Core(CoreUpcall {
        signal: None,
        dumpable: None,
        limit: None,
        time: None,
    });
    let decision = upcall_config::decide::decide(&policy, &core, &Facts::default(), "r");
    let Verdict::Do(plan) = decision.verdict else {
        panic!("denied")
    };
    let words = words(&plan);
    assert_eq!(words[1..3], ["unknown.unknown", "unknown:unknown"]);
    assert!(
        words[3..7].iter().all(|word| word == "unknown"),
        "{words:?}"
    );
}

#[test]
fn a_word_is_bounded_and_holds_no_nul() {
    let mut facts = in_container();
    facts.process.exe = Some([b"/\0".as_slice(), &[b'x'; 9000]].concat());
    let plan = plan(
        &runs(r#"in = "container", command = ["/x", "{exe}"]"#, ""),
        &facts,
    );
    let word = &plan.run().unwrap().argv()[1];
    assert_eq!(word.len(), 4096);
    assert!(!word.contains(&0));
}

/// The reason and the message of a refusal.
fn refused(plan: &Plan) -> (Reason, &str) {
    assert_eq!(plan.run(), None);
    let refusal = &plan.refused()[0];
    (refusal.reason, &refusal.message)
}

#[test]
fn nothing_runs_inside_when_the_facts_say_host_only() {
    for reason in Reason::ALL {
        let mut facts = in_container();
        facts.host_only = Some(reason);
        let inside = plan(&runs(INSIDE, ""), &facts);
        assert_eq!(refused(&inside).0, reason);
        assert!(
            refused(&inside).1.contains(reason.meaning()),
            "{}",
            refused(&inside).1
        );
        assert!(inside.store().is_some());
        // Where the kernel itself would have started it, it still may.
        let host = plan(&runs(r#"in = "host", command = ["/x"]"#, ""), &facts);
        assert!(host.run().is_some());
    }
}

#[test]
fn nothing_runs_inside_of_what_is_no_container() {
    let host = plan(&runs(INSIDE, ""), &on_host());
    assert_eq!(
        refused(&host).1,
        "the process lives in no registered container; kept on the host"
    );
    assert_eq!(refused(&host).0, Reason::Unregistered);

    let claimed = plan(&runs(INSIDE, ""), &rootless());
    assert_eq!(
        refused(&claimed).1,
        "web 3f9c1e0a77d2 is proven by nothing but files of uid 1000; kept on the host; help: name `match.container.owner` at 50-test.toml:1"
    );
    assert_eq!(refused(&claimed).0, Reason::Unregistered);

    let named = runs(INSIDE, "match.container.owner = 1000");
    assert!(plan(&named, &rootless()).run().is_some());
}

#[test]
fn a_container_close_to_the_host_needs_the_rules_word() {
    let mapped = with_container(|c| c.confinement = Confinement::Capabilities);
    let mut shares = mapped.clone();
    shares.process.user_namespace = Some(UserNamespace::Initial);
    let mighty = with_container(|c| c.confinement = Confinement::Privileged);
    let allowing = |words: &str| runs(&format!("{INSIDE}, {words}"), "");

    let plain = plan(&runs(INSIDE, ""), &shares);
    assert_eq!(refused(&plain).0, Reason::UntrustedContainer);
    assert_eq!(
        refused(&plain).1,
        "web 3f9c1e0a77d2 shares the host's user namespace; kept on the host; help: write `without_user_namespace = true` in `run` at 50-test.toml:1"
    );
    let close = plan(&runs(INSIDE, ""), &mapped);
    assert_eq!(
        refused(&close).1,
        "the user namespace of web 3f9c1e0a77d2 has the host's root in it; kept on the host; help: write `without_user_namespace = true` in `run` at 50-test.toml:1"
    );
    for facts in [&shares, &mapped] {
        let allowed = plan(&allowing("without_user_namespace = true"), facts);
        assert!(allowed.run().is_some());
    }

    let half = plan(&allowing("without_user_namespace = true"), &mighty);
    assert_eq!(refused(&half).0, Reason::UntrustedContainer);
    assert_eq!(
        refused(&half).1,
        "the init of web 3f9c1e0a77d2 could take over the host; kept on the host; help: write `trusted_container = true` in `run` at 50-test.toml:1"
    );
    // One does not imply the other.
    let other = plan(&allowing("trusted_container = true"), &mighty);
    assert_eq!(refused(&other).0, Reason::UntrustedContainer);
    let both = allowing("without_user_namespace = true, trusted_container = true");
    assert!(plan(&both, &mighty).run().is_some());
}

#[test]
fn only_mapped_ids_are_taken() {
    let unmapped = with_container(|c| c.root_is_mapped = false);
    let root = runs(&format!("{INSIDE}, user = \"root\""), "");
    assert_eq!(refused(&plan(&root, &unmapped)).0, Reason::UidNotMapped);
    assert_eq!(
        refused(&plan(&root, &unmapped)).1,
        "user = \"root\", and uid 0 or gid 0 is not mapped in web 3f9c1e0a77d2; kept on the host; help: leave `user` out, its init's ids are mapped"
    );
    assert_eq!(
        plan(&root, &in_container()).run().unwrap().user(),
        User::Root
    );
    assert!(plan(&runs(INSIDE, ""), &unmapped).run().is_some());

    let origin = runs(&format!("{INSIDE}, user = \"origin\""), "");
    for forget_uid in [true, false] {
        let mut facts = in_container();
        if forget_uid {
            facts.process.uid_inside = None;
        } else {
            facts.process.gid_inside = None;
        }
        assert_eq!(refused(&plan(&origin, &facts)).0, Reason::UidNotMapped);
        assert_eq!(
            refused(&plan(&origin, &facts)).1,
            "user = \"origin\", and the process's ids are not mapped in web 3f9c1e0a77d2; kept on the host; help: leave `user` out, its init's ids are mapped"
        );
        assert!(plan(&runs(INSIDE, ""), &facts).run().is_some());
    }
    assert_eq!(
        plan(&origin, &in_container()).run().unwrap().user(),
        User::Origin
    );
}

#[test]
fn what_happens_instead_is_in_the_plan_and_in_the_message() {
    let refused_with = |more: &str| plan(&runs(INSIDE, more), &on_host());
    let ends = |plan: &Plan, how: &str| {
        assert!(
            refused(plan).1.ends_with(how),
            "{} ends with {how}",
            refused(plan).1
        );
    };

    let default = refused_with("");
    assert_eq!(
        (default.store().map(Store::ignore_limit), default.pass()),
        (Some(true), false)
    );
    ends(&default, "kept on the host");

    let passed = refused_with("on_failure = \"pass\"");
    assert_eq!((passed.store(), passed.pass()), (None, true));
    ends(&passed, "passed to what stood before us");

    let dropped = refused_with("on_failure = \"drop\"");
    assert_eq!((dropped.store(), dropped.pass()), (None, false));
    ends(&dropped, "dropped");

    // A copy that is kept anyway is kept as the rule says.
    let kept = refused_with("store = { max_size = \"1GiB\" }\non_failure = \"drop\"");
    assert_eq!(
        kept.store().map(|s| (s.max_size(), s.ignore_limit())),
        Some((1 << 30, false))
    );
    ends(&kept, "kept on the host");

    let limited = refused_with("limit = { concurrent = 3 }");
    assert_eq!(limited.limit().and_then(|l| l.concurrent), Some(3));
}

#[test]
fn a_run_that_failed_later_leaves_the_same() {
    for more in [
        "",
        "on_failure = \"pass\"",
        "on_failure = \"drop\"",
        "store = {}",
    ] {
        let failed = plan(&runs(INSIDE, more), &in_container()).after_failure();
        let refused = plan(&runs(INSIDE, more), &on_host());
        assert_eq!(
            (failed.run(), failed.store(), failed.pass()),
            (None, refused.store(), refused.pass()),
            "{more}"
        );
    }
}

#[test]
fn programs_of_the_host_are_listed_with_their_places() {
    let rules = [
        runs(
            r#"in = "container", host_program = ["/usr/libexec/report"]"#,
            "match.core.signal = \"SEGV\"",
        ),
        runs(INSIDE, "match.core.signal = \"ABRT\""),
        runs(r#"in = "host", command = ["/usr/bin/tool", "{pid}"]"#, ""),
    ];
    let policy = policy(&rules.concat());
    let [elf, tool] = policy.host_programs() else {
        panic!("{:?}", policy.host_programs())
    };
    assert_eq!((elf.rule(), elf.program()), (0, Program::HostElf));
    assert_eq!(elf.path().to_str(), Some("/usr/libexec/report"));
    assert_eq!((tool.rule(), tool.program()), (2, Program::Path));

    let dynamic = elf.is_dynamic(b"/lib/ld\x1b.so");
    assert_eq!(
        (dynamic.code(), dynamic.severity()),
        (Code::DynamicHostProgram, Severity::Error)
    );
    insta::assert_snapshot!(dynamic.render(false));
    let missing = tool.is_missing("ENOENT: there is no such file");
    assert_eq!(
        (missing.code(), missing.severity()),
        (Code::MissingHostProgram, Severity::Warning)
    );
    insta::assert_snapshot!(missing.render(false));
}
