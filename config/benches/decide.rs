//! What it costs to decide when 500 rules are looked at and none matches: the median of many decisions.
//!
//! `cargo bench -p upcall-config`. The daemon has 50 µs for this.

use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use upcall_config::decide::decide;
use upcall_config::facts::{
    Confinement, ContainerFacts, Facts, PodFacts, ProcessFacts, Runtime, UserNamespace,
};
use upcall_config::file::load_texts;
use upcall_config::upcall::{CoreUpcall, Signal, Upcall};

const RULES: usize = 500;
const ROUNDS: usize = 5000;

fn main() -> Result<(), Box<dyn Error>> {
    let plain = |n: usize| format!("match.pod.namespace = \"team-{n}\"");
    let mixed = |n: usize| match n % 5 {
        0 => format!("match.pod.namespace = \"team-{n}\""),
        1 => format!("match.container.image = \"registry.local/team-{n}/*\""),
        2 => format!("match.process.exe = [\"/opt/{n}/bin/*\", \"*/{n}.bin\", \"/srv/{n}\"]"),
        3 => format!(
            "match.container = {{ runtime = [\"runc\", \"containerd\"], name = \"*-{n}-*\" }}"
        ),
        _ => format!("match.process.uid = [{n}, \"2000-2{n:03}\"]"),
    };
    // Everything but the last condition holds, and every text needs an automaton.
    let worst = |n: usize| {
        format!(
            "match.process = {{ uid = 1000, exe = \"/usr/*/sho?d\", comm = \"s*p?\" }}\n\
             match.container = {{ runtime = \"containerd\", name = \"w*b\", label = {{ tier = \"f*d\" }} }}\n\
             match.pod = {{ namespace = \"s*p\", name = \"*-{n}-*\" }}"
        )
    };
    let mut out = std::io::stdout().lock();
    for (name, conditions) in [
        ("one literal each", &plain as &dyn Fn(usize) -> String),
        ("a mix", &mixed),
        ("eight conditions with patterns each", &worst),
    ] {
        let median = median(conditions)?;
        let each = median.as_nanos() / RULES as u128;
        writeln!(
            out,
            "{RULES} rules, {name}: {:.1} µs a decision, {each} ns a rule",
            median.as_secs_f64() * 1e6
        )?;
    }
    Ok(())
}

fn median(condition: &dyn Fn(usize) -> String) -> Result<Duration, Box<dyn Error>> {
    let mut text = String::new();
    for n in 0..RULES {
        write!(
            text,
            "[[rule]]\nupcall = \"core\"\n{}\nstore = {{}}\n",
            condition(n)
        )?;
    }
    let loaded = load_texts(None, &[(Path::new("/bench.toml"), &text)]);
    let policy = loaded.policy.ok_or("the rules of the bench are wrong")?;
    let (upcall, facts) = (upcall(), facts());
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let decision = decide(&policy, black_box(&upcall), black_box(&facts), "k3m9q0tz");
        times.push(begin.elapsed());
        if decision.rule.is_some() || black_box(decision).trace.steps().len() != RULES {
            return Err("not all rules were looked at".into());
        }
    }
    times.sort_unstable();
    times
        .get(ROUNDS / 2)
        .copied()
        .ok_or_else(|| "no rounds".into())
}

fn upcall() -> Upcall {
    Upcall::Core(CoreUpcall {
        signal: Signal::from_name("SEGV"),
        dumpable: Some(1),
        limit: Some(0),
        time: Some(1_800_000_000),
    })
}

fn facts() -> Facts {
    let labels = [(b"tier".to_vec(), b"frontend".to_vec())];
    Facts {
        process: ProcessFacts {
            uid: Some(1000),
            comm: Some(b"shopd".to_vec()),
            exe: Some(b"/usr/bin/shopd".to_vec()),
            user_namespace: Some(UserNamespace::Container),
            ..ProcessFacts::default()
        },
        container: Some(ContainerFacts {
            runtime: Runtime::Containerd,
            id: vec![b'a'; 64],
            name: Some(b"web".to_vec()),
            image: Some(b"registry.local/shop/web:4.2".to_vec()),
            labels: Some(labels.into()),
            owner: 0,
            pod: Some(PodFacts {
                namespace: Some(b"shop".to_vec()),
                name: Some(b"web-7c9f8d6b5c-x2lqk".to_vec()),
                ..PodFacts::default()
            }),
            confinement: Confinement::UserNamespace,
            root_is_mapped: true,
        }),
        host_only: None,
    }
}
