//! Every key of `match`, against facts that fit, that do not, and that nobody knows.

use upcall_config::facts::{ContainerFacts, Facts, PodFacts, UserNamespace};
use upcall_config::field::Field;
use upcall_config::upcall::{CoreUpcall, Kind, Upcall};

use crate::given::{
    decision, denies, in_container, keeps, on_host, policy, rootless, segv, taken, with_container,
};

/// A key, a value that fits [`in_container`], one that does not, and how to forget the fact.
type Row = (Field, &'static str, &'static str, Forget);

enum Forget {
    Facts(fn(&mut Facts)),
    Container(fn(&mut ContainerFacts)),
    Pod(fn(&mut PodFacts)),
    Core(fn(&mut CoreUpcall)),
    /// It is never unknown.
    Never,
}

fn rows() -> Vec<Row> {
    use Forget::{Container, Core, Facts, Never, Pod};
    vec![
        (
            Field::ProcessUid,
            "1000",
            "[0, \"1001-2000\"]",
            Facts(|f| f.process.uid = None),
        ),
        (
            Field::ProcessExe,
            "\"/usr/*/shopd\"",
            "\"shopd\"",
            Facts(|f| f.process.exe = None),
        ),
        (
            Field::ProcessComm,
            "[\"x\", \"shop?\"]",
            "\"shop\"",
            Facts(|f| f.process.comm = None),
        ),
        (
            Field::ProcessCgroup,
            "\"/system.slice/*\"",
            "\"/user*\"",
            Facts(|f| f.process.cgroup = None),
        ),
        (
            Field::ProcessUserNamespace,
            "[\"initial\", \"container\"]",
            "\"other\"",
            Facts(|f| f.process.user_namespace = None),
        ),
        (
            Field::ProcessKernelThread,
            "false",
            "true",
            Facts(|f| f.process.kernel_thread = None),
        ),
        (Field::Container, "{}", "", Never),
        (
            Field::ContainerRuntime,
            "[\"containerd\", \"runc\"]",
            "\"docker\"",
            Never,
        ),
        (
            Field::ContainerName,
            "\"w*b\"",
            "\"w\"",
            Container(|c| c.name = None),
        ),
        (Field::ContainerId, "\"3f9c*\"", "\"3f9c\"", Never),
        (
            Field::ContainerImage,
            "\"registry.local/shop/*\"",
            "\"shop/*\"",
            Container(|c| c.image = None),
        ),
        (
            Field::ContainerLabel,
            "{ tier = \"front*\" }",
            "{ tier = \"back\" }",
            Container(|c| c.labels = None),
        ),
        (Field::ContainerOwner, "0", "\"1-1000\"", Never),
        (Field::Pod, "{}", "", Never),
        (
            Field::PodNamespace,
            "\"shop\"",
            "\"sho\"",
            Pod(|p| p.namespace = None),
        ),
        (
            Field::PodName,
            "\"web-*\"",
            "\"db-*\"",
            Pod(|p| p.name = None),
        ),
        (
            Field::PodUid,
            "\"0a1b????\"",
            "\"0a1b???\"",
            Pod(|p| p.uid = None),
        ),
        (
            Field::PodLabel,
            "{ tier = [\"a\", \"frontend\"] }",
            "{ role = \"*\" }",
            Pod(|p| p.labels = None),
        ),
        (
            Field::CoreSignal,
            "[\"ABRT\", \"SEGV\"]",
            "\"ABRT\"",
            Core(|c| c.signal = None),
        ),
        (
            Field::CoreDumpable,
            "[0, 1]",
            "2",
            Core(|c| c.dumpable = None),
        ),
    ]
}

fn forgotten(how: &Forget) -> Option<(Upcall, Facts)> {
    let mut facts = in_container();
    let Some(mut core) = segv().core().copied() else {
        panic!("a core");
    };
    match how {
        Forget::Facts(forget) => forget(&mut facts),
        Forget::Container(forget) => forget(facts.container.as_mut()?),
        Forget::Pod(forget) => forget(facts.container.as_mut()?.pod.as_mut()?),
        Forget::Core(forget) => forget(&mut core),
        Forget::Never => return None,
    }
    Some((Upcall::Core(core), facts))
}

fn decides(rules: &str, upcall: &Upcall, facts: &Facts) -> bool {
    upcall_config::decide::decide(&policy(rules), upcall, facts, "r")
        .rule
        .is_some()
}

#[test]
fn every_field_has_a_row() {
    // Those of keys, modules and others are tried in `keys` and `modules`.
    let elsewhere = [Some(Kind::Key), Some(Kind::Module), Some(Kind::Umh)];
    let all = Field::ALL.into_iter();
    let all = all.filter(|field| !elsewhere.contains(&field.only_in()));
    assert_eq!(
        rows().iter().map(|row| row.0).collect::<Vec<_>>(),
        all.collect::<Vec<_>>()
    );
}

#[test]
fn a_fact_that_fits_matches_and_one_that_does_not_fit_does_not() {
    for (field, fits, fails, _) in rows() {
        for make in [keeps, denies] {
            let rule = |value| make(&format!("match.{} = {value}", field.key()));
            assert!(
                taken(&rule(fits), &in_container()),
                "{} = {fits}",
                field.key()
            );
            if !fails.is_empty() {
                assert!(
                    !taken(&rule(fails), &in_container()),
                    "{} = {fails}",
                    field.key()
                );
            }
        }
    }
}

#[test]
fn an_unknown_fact_matches_only_rules_that_deny() {
    let mut tried = 0;
    for (field, fits, fails, forget) in rows() {
        let Some((upcall, facts)) = forgotten(&forget) else {
            continue;
        };
        tried += 1;
        for value in [fits, fails] {
            let condition = format!("match.{} = {value}", field.key());
            assert!(
                !decides(&keeps(&condition), &upcall, &facts),
                "{condition} grants"
            );
            assert!(
                decides(&denies(&condition), &upcall, &facts),
                "{condition} denies"
            );
        }
    }
    assert_eq!(tried, 15);
}

#[test]
fn a_denial_needs_all_that_is_known_to_fit() {
    let facts = with_container(|c| c.name = None);
    let both = "match.container = { name = \"web\", runtime = \"docker\" }";
    assert!(!taken(&denies(both), &facts));
}

#[test]
fn a_process_in_no_container_has_none_of_its_properties() {
    for (field, fits, _, _) in rows() {
        let of_container = field.key().starts_with("container") || field.key().starts_with("pod");
        if of_container {
            let condition = format!("match.{} = {fits}", field.key());
            assert!(!taken(&keeps(&condition), &on_host()), "{condition} grants");
            assert!(
                !taken(&denies(&condition), &on_host()),
                "{condition} denies"
            );
        }
    }
}

#[test]
fn a_container_in_no_pod_has_none_of_its_properties() {
    let facts = with_container(|c| c.pod = None);
    for condition in [
        "match.pod = {}",
        "match.pod.name = \"*\"",
        "match.pod.label.tier = \"*\"",
    ] {
        assert!(!taken(&keeps(condition), &facts), "{condition}");
        assert!(!taken(&denies(condition), &facts), "{condition}");
    }
}

#[test]
fn a_label_that_is_known_not_to_be_there_does_not_match() {
    let facts = with_container(|c| c.labels = Some([].into()));
    assert!(!taken(&keeps("match.container.label.tier = \"*\""), &facts));
    assert!(!taken(
        &denies("match.container.label.tier = \"*\""),
        &facts
    ));
}

#[test]
fn empty_tables_of_the_process_and_the_core_ask_nothing() {
    assert!(taken(
        &keeps("match = { process = {}, core = {} }"),
        &on_host()
    ));
    assert!(taken(&keeps("match = {}"), &Facts::default()));
    assert!(taken(&keeps(""), &Facts::default()));
}

#[test]
fn a_rootless_container_exists_for_rules_that_name_its_owner_and_for_denials() {
    let facts = rootless();
    for (field, fits, _, _) in rows() {
        let of_container = field.key().starts_with("container") || field.key().starts_with("pod");
        if of_container && field != Field::ContainerOwner {
            let condition = format!("match.{} = {fits}", field.key());
            assert!(!taken(&keeps(&condition), &facts), "{condition} grants");
            assert!(taken(&denies(&condition), &facts), "{condition} denies");
        }
    }
    let owned = |owner: &str| format!("match.container = {{ name = \"web\", owner = {owner} }}");
    assert!(taken(&keeps(&owned("1000")), &facts));
    assert!(taken(&keeps(&owned("\"1000-1999\"")), &facts));
    assert!(!taken(&keeps(&owned("0")), &facts));
    assert!(taken(&keeps(&owned("0")), &in_container()));
}

#[test]
fn what_a_user_claims_about_his_namespace_opens_nothing_and_evades_nothing() {
    let facts = rootless();
    assert_eq!(facts.process.user_namespace, Some(UserNamespace::Container));
    let whose = |word: &str| format!("match.process.user_namespace = \"{word}\"");
    // To rules that do not name the owner it is anybody's.
    assert!(!taken(&keeps(&whose("container")), &facts));
    assert!(taken(&keeps(&whose("other")), &facts));
    // Denials hold whether or not the claim is believed.
    assert!(taken(&denies(&whose("container")), &facts));
    assert!(taken(&denies(&whose("other")), &facts));
    assert!(!taken(&denies(&whose("initial")), &facts));
    // Who names the owner believes it.
    let named = "match = { process.user_namespace = \"container\", container.owner = 1000 }";
    assert!(taken(&keeps(named), &facts));
    // For root's containers nothing of this applies.
    assert!(taken(&keeps(&whose("container")), &in_container()));
    assert!(!taken(&denies(&whose("other")), &in_container()));
}

#[test]
fn tenants_bytes_need_not_be_text() {
    let mut facts = on_host();
    facts.process.comm = Some(b"a\xff\xfe\nz".to_vec());
    assert!(taken(&keeps("match.process.comm = \"a*z\""), &facts));
    assert!(taken(&keeps("match.process.comm = \"a???z\""), &facts));
    assert!(!taken(&keeps("match.process.comm = \"a??z\""), &facts));
}

#[test]
fn no_rule_matches_and_the_upcall_passes() {
    let decision = decision(&keeps("match.core.signal = \"ABRT\""), &on_host());
    assert_eq!(decision.rule, None);
    assert_eq!(decision.trace.steps().len(), 1);
}
