//! `deliver`, `file` and `post`: what a plan has of them, and when it has not.

use upcall_config::decide::{Decision, Verdict, decide};
use upcall_config::facts::{Confinement, Facts, Reason};
use upcall_config::plan::{Place, Plan, Program, Run, User};
use upcall_config::upcall::{CoreUpcall, Upcall};

use crate::given::{in_container, on_host, policy, segv, with_container};

fn decided(rule: &str, upcall: &Upcall, facts: &Facts) -> Decision {
    let rule = format!("[[rule]]\nupcall = \"core\"\n{rule}\n");
    decide(&policy(&rule), upcall, facts, "k3m9q0tz")
}

fn planned(rule: &str, facts: &Facts) -> Plan {
    match decided(rule, &unlimited(), facts).verdict {
        Verdict::Do(plan) => plan,
        Verdict::Deny(denial) => panic!("{denial:?}"),
    }
}

fn limited(limit: u64) -> Upcall {
    let core = segv().core().copied().unwrap();
    let limit = Some(limit);
    Upcall::Core(CoreUpcall { limit, ..core })
}

fn unlimited() -> Upcall {
    limited(u64::MAX)
}

fn words(run: Option<&Run>) -> Vec<String> {
    let words = run.unwrap().argv().iter();
    words.map(|word| word.escape_ascii().to_string()).collect()
}

const DELIVER: &str = r#"deliver = { protocol = "systemd" }"#;

#[test]
fn deliver_goes_inside_as_the_init_with_the_containers_numbers() {
    let plan = planned(DELIVER, &in_container());
    let deliver = plan.deliver().unwrap();
    assert_eq!(
        (deliver.place(), deliver.user(), deliver.program()),
        (Place::Container, User::Init, Program::Place)
    );
    let words = words(Some(deliver));
    assert_eq!(
        words[1..5],
        ["deliver", "systemd", "/run/systemd/coredump", "30000"]
    );
    for word in ["pid=7", "tid=11", "uid=33", "gid=34", "signal=11"] {
        assert!(
            words.iter().any(|known| known == word),
            "{word} in {words:?}"
        );
    }
    assert!(
        !words.iter().any(|word| word.contains("20417")),
        "{words:?}"
    );
    assert!(plan.file().is_none() && plan.store().is_none());
}

#[test]
fn deliver_needs_what_a_helper_needs() {
    let reason = |rule: &str, facts: &Facts| {
        let plan = planned(rule, facts);
        assert!(plan.deliver().is_none() && plan.store().is_some());
        let [refusal] = plan.refused() else {
            panic!("{:?}", plan.refused())
        };
        assert_eq!(refusal.action, "deliver");
        refusal.reason
    };
    assert_eq!(reason(DELIVER, &on_host()), Reason::Unregistered);
    let shared = with_container(|c| c.confinement = Confinement::Capabilities);
    assert_eq!(reason(DELIVER, &shared), Reason::UntrustedContainer);
    let mut from_outside = in_container();
    from_outside.host_only = Some(Reason::FromOutside);
    assert_eq!(reason(DELIVER, &from_outside), Reason::FromOutside);
    let allowed = r#"deliver = { protocol = "systemd", without_user_namespace = true }"#;
    assert!(planned(allowed, &shared).deliver().is_some());
    let privileged = with_container(|c| c.confinement = Confinement::Privileged);
    assert_eq!(reason(allowed, &privileged), Reason::UntrustedContainer);
}

#[test]
fn file_is_the_processs_own_wherever_it_lives() {
    let rule = r#"file = { path = "core.{pid}" }"#;
    let inside = planned(rule, &in_container());
    let file = inside.file().unwrap();
    assert_eq!(
        (file.place(), file.user()),
        (Place::Container, User::OriginItself)
    );
    assert_eq!(
        words(inside.file()),
        ["upcall-place", "file", "core.7", "-"]
    );
    // Its own rights, so how close the container is to the host does not matter.
    let privileged = with_container(|c| c.confinement = Confinement::Privileged);
    assert!(planned(rule, &privileged).file().is_some());

    let outside = planned(rule, &on_host());
    assert_eq!(outside.file().unwrap().place(), Place::Host);
    assert_eq!(words(outside.file())[2], "core.20417");

    let mut not_dumpable = on_host();
    not_dumpable.host_only = Some(Reason::NotDumpable);
    let refused = planned(rule, &not_dumpable);
    assert!(refused.file().is_none() && refused.store().is_some());
    assert_eq!(refused.refused()[0].reason, Reason::NotDumpable);
}

#[test]
fn a_tenants_words_in_a_path_stay_one_name() {
    let mut facts = in_container();
    facts.process.exe = Some(b"/../../etc/cron.d/x".to_vec());
    facts.process.comm = Some(b"..".to_vec());
    let plan = planned(r#"file = { path = "/cores/{exe}/{comm}" }"#, &facts);
    assert_eq!(words(plan.file())[2], "/cores/!..!..!etc!cron.d!x/!.");
}

#[test]
fn the_core_limit_is_the_files() {
    let file = |more: &str, limit| {
        let rule = format!("file = {{ path = \"core\"{more} }}");
        match decided(&rule, &limited(limit), &in_container()).verdict {
            Verdict::Do(plan) => plan,
            Verdict::Deny(denial) => panic!("{denial:?}"),
        }
    };
    assert_eq!(words(file("", 65536).file())[3], "65536");
    for below in [0, 1, 4095] {
        let plan = file("", below);
        assert!(plan.file().is_none());
        assert_eq!(plan.refused()[0].reason, Reason::CoreLimit);
        // The process wanted none, so none is kept on the host instead.
        assert!(plan.store().is_none() && !plan.pass());
    }
    assert_eq!(words(file(", ignore_limit = true", 0).file())[3], "-");
}

#[test]
fn what_is_left_takes_the_core_and_on_failure_is_for_when_nothing_is() {
    let all = r#"run = { in = "container", command = ["/x"] }
        deliver = { protocol = "upcalld" }
        file = { path = "core" }
        on_failure = "drop""#;
    let inside = planned(all, &in_container());
    assert!(inside.run().is_some() && inside.deliver().is_some() && inside.file().is_some());
    let outside = planned(all, &on_host());
    assert!(outside.run().is_none() && outside.deliver().is_none() && outside.file().is_some());
    assert_eq!(outside.refused().len(), 2);
    assert!(!outside.refused()[0].message.contains("dropped"));

    let two = r#"run = { in = "container", command = ["/x"] }
        deliver = { protocol = "upcalld" }
        on_failure = "pass""#;
    let none = planned(two, &on_host());
    assert!(none.pass() && none.refused().len() == 2);
    assert!(none.refused()[1].message.contains("passed to what stood"));
}

#[test]
fn post_runs_on_the_host_whatever_the_verdict() {
    let post = "post = [\"/usr/local/bin/notify\", \"{record}\", \"{pid}\"]";
    for action in ["store = {}", "pass = {}", "deny = { reason = \"no\" }"] {
        let decision = decided(&format!("{action}\n{post}"), &segv(), &in_container());
        let run = decision.post.unwrap();
        assert_eq!((run.place(), run.program()), (Place::Host, Program::Path));
        assert_eq!(
            words(Some(&run)),
            ["/usr/local/bin/notify", "k3m9q0tz", "20417"]
        );
    }
    assert!(
        decided("store = {}", &segv(), &in_container())
            .post
            .is_none()
    );
    let programs = policy(&format!(
        "[[rule]]\nupcall = \"core\"\nstore = {{}}\n{post}\n"
    ));
    assert_eq!(programs.host_programs().len(), 1);
}
