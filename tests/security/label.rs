//! Attacks on the label of a helper: it has that of its container's init, and no other.

use anyhow::Result;
use upcall_e2e::apparmor::Profile;
use upcall_e2e::container::Container;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::said;
use upcall_e2e::runc::Runc;
use upcall_e2e::selinux::{self, CONTAINER, HOST, OTHER};
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, script};

/// SEGV runs /helper of the container, ABRT a program of the host's in it.
const BOTH: &str = r#"
[[rule]]
upcall = "core"
match.container = {}
match.core = { signal = "SEGV" }
run = { in = "container", command = ["/helper"], without_user_namespace = true }
[[rule]]
upcall = "core"
match.container = {}
match.core = { signal = "ABRT" }
run = { in = "container", host_program = ["/bin/busybox", "cat", "/proc/self/attr/current"], without_user_namespace = true }
"#;

/// What a helper says of itself, and whether it can read what its container's profile denies.
const HELPER: &str = "cat /proc/self/attr/current; cat /secret 2>&1; :";

/// A container in this profile, with a helper and a secret.
fn container(scene: &Scene, name: &str, own: bool, profile: Option<&str>) -> Result<Container> {
    let profile = profile.map(str::to_owned);
    Runc::new(name)
        .root(script("/helper", HELPER))
        .root(|root| root.file("/secret", "was read\n", 0o644))
        .with(|bundle| {
            bundle.user_namespace = own.then_some(300_000);
            bundle.apparmor = profile;
        })
        .start(&scene.sandbox)
}

/// Lets a process of a container dump; the record, and what the helper said.
fn dump(scene: &Scene, pid: u32, signal: &str) -> Result<(Record, String)> {
    let (record, _) = scene.dump(&CoreDump::of(pid)?.word("%s", signal))?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let said = said(&record)?;
    Ok((record, said))
}

/// Names that no other test has: profiles are the machine's.
fn profiles(scene: &Scene) -> [String; 2] {
    let first = format!("upcall-e2e-{}", scene.sandbox.tag());
    let second = format!("{first} and more");
    [first, second]
}

#[test]
fn a_helper_has_the_label_of_its_containers_init() -> Result<()> {
    needs!(Root, Runc, AppArmor);
    let scene = Scene::new(BOTH)?;
    // The beginning of a name is a profile too, and another's.
    let [first, second] = profiles(&scene);
    let loaded = [Profile::load(&first)?, Profile::load(&second)?];
    for (name, own, label) in [
        ("own", true, &first),
        ("plain", false, &first),
        ("long-own", true, &second),
        ("long-plain", false, &second),
    ] {
        let confined = container(&scene, name, own, Some(label))?;
        let (record, said) = dump(&scene, confined.init(), "11")?;
        assert_eq!(record.process.label.as_deref(), Some(label.as_str()));
        let (own, secret) = said.split_once('\n').unwrap_or_default();
        assert_eq!(own, format!("{label} (enforce)"), "{record:?}");
        assert!(secret.contains("Permission denied"), "{secret}");
        let (record, said) = dump(&scene, confined.init(), "6")?;
        assert_eq!(said.trim(), format!("{label} (enforce)"), "{record:?}");
    }
    let free = container(&scene, "free", true, None)?;
    let (record, said) = dump(&scene, free.init(), "11")?;
    assert_eq!(said, "unconfined\nwas read\n", "{record:?}");
    drop((free, loaded));
    scene.end()
}

#[test]
fn a_label_is_the_inits_whoever_crashes_and_whatever_proc_is() -> Result<()> {
    needs!(Root, Runc, AppArmor);
    let scene = Scene::new(BOTH)?;
    let [first, second] = profiles(&scene);
    let loaded = [Profile::load(&first)?, Profile::load(&second)?];
    let confined = container(&scene, "web", true, Some(&first))?;
    // Who crashes is labelled otherwise, and is believed about nobody but himself.
    let words = ["/crash-me", "--wait"];
    let other = confined.spawn_with(&["--apparmor", &second], &words)?;
    let (record, said) = dump(&scene, other, "11")?;
    assert_eq!(record.process.label.as_deref(), Some(second.as_str()));
    assert!(said.starts_with(&format!("{first} (enforce)\n")), "{said}");
    // A /proc where labels can be written, and nothing comes of it.
    let fake = "mount -t tmpfs none /proc && mkdir -p /proc/self/attr /proc/thread-self/attr/apparmor && \
                echo unconfined >/proc/self/attr/current && : >/proc/thread-self/attr/apparmor/exec && \
                : >/proc/thread-self/attr/exec && chmod -R 777 /proc/thread-self";
    confined.as_host_root(&["/bin/sh", "-c", fake])?;
    let (record, said) = dump(&scene, confined.init(), "11")?;
    let (_, secret) = said.split_once('\n').unwrap_or_default();
    assert!(secret.contains("Permission denied"), "{record:?}");
    let written = "cat /proc/thread-self/attr/apparmor/exec /proc/thread-self/attr/exec";
    assert_eq!(confined.as_host_root(&["/bin/sh", "-c", written])?, "");
    drop((confined, loaded));
    scene.end()
}

#[test]
fn selinux_labels_are_the_inits_whoever_crashes() -> Result<()> {
    needs!(Root, Runc, Guest, SeLinux);
    let scene = Scene::new(BOTH)?;
    selinux::load(&scene.sandbox.path(""))?;
    // It says who it is, and would like to be another.
    let helper = format!(
        "read label </proc/self/attr/current; echo $label; \
         printf {HOST} >/proc/self/attr/current && echo escaped; :"
    );
    for (name, own) in [("own", true), ("plain", false)] {
        let confined = Runc::new(name)
            .root(script("/helper", &helper))
            .with(|bundle| {
                bundle.user_namespace = own.then_some(300_000);
                bundle.selinux = Some(CONTAINER.to_owned());
            })
            .start(&scene.sandbox)?;
        let (record, said) = dump(&scene, confined.init(), "11")?;
        assert_eq!(record.process.label.as_deref(), Some(CONTAINER));
        assert_eq!(said.trim_end_matches('\0').trim(), CONTAINER, "{record:?}");
        let (record, said) = dump(&scene, confined.init(), "6")?;
        assert_eq!(said.trim_end_matches('\0'), CONTAINER, "{record:?}");
        // Who crashes is labelled otherwise, and is believed about nobody but himself.
        let words = ["/crash-me", "--wait"];
        let other = confined.spawn_with(&["--process-label", OTHER], &words)?;
        let (record, said) = dump(&scene, other, "11")?;
        assert_eq!(record.process.label.as_deref(), Some(OTHER));
        assert_eq!(said.trim_end_matches('\0').trim(), CONTAINER, "{record:?}");
    }
    scene.end()
}
